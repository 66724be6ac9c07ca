"""Decode the frames of one video: open its container, skip frames that are never used, and count damaged places."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, pairwise
from typing import Any

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.stream import Disposition
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tallformer_infer.devices import available_cores
from tallformer_infer.errors import MediaError
from tallformer_infer.media.byte_sources import ByteSource, seek_hint
from tallformer_infer.media.hardware import SOFTWARE, Hardware, is_on_device, why_unfit
from tallformer_infer.media.timestamps import JITTER_S, MAX_STILL_S

SELF_CONTAINED_FORMATS = (
    "mov,matroska,webm,avi,mpegts,mpeg,mpegvideo,flv,live_flv,asf,ogg,nut,mxf,gxf,wtv,dhav,dv,rm,ivf,obu,av1,"
    "h261,h263,h264,hevc,vvc,evc,m4v,vc1,vc1test,cavsvideo,avs2,avs3,dirac,dnxhd,mjpeg,mjpeg_2000,smjpeg,yuv4mpegpipe,gif,apng,"
    "amv,swf,nsv,nuv,pva,pvf,mtv,mv,film_cpk,bink,smk,roq,flic,4xm,lvf,vivo,vividas,ty,kux,xmv,thp,cine,rl2,r3d,filmstrip"
)
"""FFmpeg demuxers that read a single video file and never open another."""
GENERATE_TIMES = 0x0001
"""FFmpeg's AVFMT_FLAG_GENPTS."""
READ_BYTES = 1 << 17
"""Bytes requested from a source at a time."""
PLAYLIST_SIGNATURES = (b"#EXTM3U", b"\xef\xbb\xbf#EXTM3U")
"""First bytes of M3U and HLS. As FFmpeg's demuxer for them is not allowed, it reports them as damaged data."""
MADE_BY_SYNTHETIC = '"made by": "tallformer-synthetic'
"""What `tallformer_training.synthetic` writes into the comment of its videos."""
_OLD_PYAV = int(av.__version__.split(".")[0]) < 19
# PyAV up to 18 refuses a file whose title is not UTF-8 unless told otherwise; 19 takes it, and this argument is gone.
_OPEN_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if _OLD_PYAV else {}

UNKNOWN_RATE = Fraction(25)
"""What FFmpeg, too, takes for a stream that tells no rate."""
MAX_PIXEL_ASPECT = Fraction(4)
"""Most that a pixel is wider than high, or higher than wide; the largest in use is 32:11."""
MAX_REORDERED_FRAMES = 16
"""Most frames that H.264 and HEVC show between the picture of one packet and that of the next."""

_MOST_THREADS = 16
"""More are not recommended by libavcodec."""

WITH_HEADERS = frozenset({"mov", "matroska", "avi", "flv", "mxf"})
"""Demuxers that read lengths from a header. For others FFmpeg estimates from the size or the last packets."""
COUNTED_FROM_ZERO = frozenset({"matroska", "nut"})
"""Demuxers whose length is the time of the end: a stream from 100 s to 110 s has length 110 s."""
WRAPPING = frozenset({"mpegts", "mpeg"})
"""Demuxers of formats with a clock of 33 bits at 1/90000 s, which wraps every 26.5 hours."""
WRAP_TICKS = 1 << 33
"""Ticks of that clock."""
MICROSECONDS = 1_000_000
"""FFmpeg's AV_TIME_BASE."""
_TAGGED_TIME = re.compile(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)")

SKIPPED_CODECS = frozenset({"h264"})
"""Codecs that say of a frame that no other at all is predicted from it. HEVC says it of one temporal layer only."""
KNOWN_PACKETS = 64
"""Latest packets among which the frame that is shown next is looked for."""


def open_container(source: ByteSource, path: str, *, hwaccel: str | None = None) -> InputContainer:
    """Open the container whose bytes `source` gives. See Note [FFmpeg is only handed bytes].

    Args:
        source: At its start.
        path: For messages.
        hwaccel: Kind of device that decodes the streams that it can; None: the processor.

    Raises:
        MediaError: Not one of `SELF_CONTAINED_FORMATS`, damaged beyond opening, or no such device opens.
    """
    seen = _FirstBytes(source)
    whitelists = {"protocol_whitelist": "", "format_whitelist": SELF_CONTAINED_FORMATS}
    device: dict[str, Any] = {} if hwaccel is None else {"hwaccel": HWAccel(hwaccel, allow_software_fallback=True)}
    try:
        container: InputContainer = av.open(
            seen, "r", container_options=whitelists, buffer_size=READ_BYTES, **_OPEN_OPTIONS, **device
        )
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(_cannot_open(error, source, path, first=seen.first)) from error
    # PyAV asks FFmpeg to invent missing presentation times, which go wrong for B-frames in AVI; `FrameClock` does it.
    container.flags = container.flags & ~GENERATE_TIMES
    return container


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """Video streams, without cover images."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def is_generated(container: InputContainer) -> bool:
    """Whether the container says that `tallformer_training.synthetic` made it."""
    return MADE_BY_SYNTHETIC in container.metadata.get("comment", "")


def best_video(container: InputContainer, path: str, wanted: int | None = None) -> VideoStream:
    """Select a video stream: FFmpeg's main one, or one by number; never a cover image.

    Args:
        container: The file.
        path: For messages.
        wanted: Number of the stream among `moving_pictures`, from 0; None takes the main one.

    Raises:
        MediaError: No such video stream, or none that this build of FFmpeg can decode.
    """
    best = container.streams.best("video")
    moving = moving_pictures(container)
    if wanted is not None and moving:
        if not 0 <= wanted < len(moving):
            last = f"0 to {len(moving) - 1}" if len(moving) > 1 else "only 0"
            raise MediaError(f"{path}: no video stream {wanted}; expected {last}")
        best = moving[wanted]
    elif best not in moving:
        best = max(moving, key=_picture_px, default=None)
    if not isinstance(best, VideoStream):
        raise MediaError(f"{path}: no video stream")
    if best.codec_context is None:
        raise MediaError(f"{path}: no decoder for its video stream")
    return best


def as_fraction(rational: Fraction | None) -> Fraction | None:
    """Convert PyAV's rational (a Fraction, or from 19 on its own type) to a Fraction; None for None and 0."""
    return Fraction(rational.numerator, rational.denominator) if rational else None


def _picture_px(stream: VideoStream) -> int:
    return stream.width * stream.height if stream.codec_context is not None else 0


class _FirstBytes:
    """Adapter from a source to what PyAV needs; it keeps the first bytes for error messages."""

    def __init__(self, source: ByteSource) -> None:
        self.first = b""
        self.seekable, self.seek, self.tell = source.seekable, source.seek, source.tell
        self._read = source.read

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self.first = self.first or data[:16]
        return data


def _cannot_open(error: Exception, source: ByteSource, path: str, *, first: bytes) -> str:
    if source.failure:
        return f"{path}: cannot be read: {source.failure}"
    not_listed = isinstance(error, av.error.ArgumentError)  # what FFmpeg says of a format that is not on the whitelist
    if not_listed or first.startswith(PLAYLIST_SIGNATURES):
        return f"{path}: not a video file (playlists, scripts and images that name other files are not read)"
    reason = error.strerror if isinstance(error, FFmpegError) and error.strerror else str(error)
    return f"{path}: cannot be opened as video: {reason}{seek_hint(source)}"


def codec_threads() -> int:
    """Number of codec threads that decodes a single video fastest: threads wait for the frames they predict from."""
    cores = available_cores()
    return 1 if cores == 1 else min(cores + 2, _MOST_THREADS)


class Decoder:
    """Decodes the main video stream of a source."""

    def __init__(
        self,
        source: ByteSource,
        path: str,
        *,
        threads: int | None = None,
        video_stream: int | None = None,
        hardware: Hardware = SOFTWARE,
    ) -> None:
        """Open the container; nothing is decoded yet.

        Args:
            source: The bytes.
            path: For error messages.
            threads: Threads of the codec; None takes some more than there are cores, see `codec_threads`.
            video_stream: Which of the moving pictures in it, from 0; None takes the main one.
            hardware: What decodes besides the processor.

        Raises:
            MediaError: Not a video, no such video in it, or not for the hardware that is required.
        """
        self.hwaccel: str | None = None
        """Kind of device that decodes; None: the processor. Settled with the first frame."""
        self.notes: list[str] = []
        """Why the processor decodes what a device was meant to, one line each."""
        self.damage = _Damage()
        """Damage found so far."""
        self._source = source
        self._path = path
        self._threads = threads or codec_threads()
        self._wanted_stream = video_stream
        self._container, self._stream = self._open(self._threads)
        codec = self._stream.codec_context.codec
        moving = moving_pictures(self._container)
        self.stream = moving.index(self._stream) if self._stream in moving else 0
        """Which of the moving pictures is decoded, from 0."""
        self.streams = max(len(moving), 1)
        """Moving pictures in the container."""
        self.is_generated = is_generated(self._container)
        """Whether the container says that `tallformer_training.synthetic` made it."""
        self.codec = str(getattr(codec, "canonical_name", codec.name))
        self.time_base = as_fraction(self._stream.time_base) or Fraction(1, 90_000)
        self.average_fps = as_fraction(self._stream.average_rate)
        self.guessed_fps = as_fraction(self._stream.guessed_rate) or self.average_fps or UNKNOWN_RATE
        self.start_ticks = int(self._stream.start_time or 0)
        self.wrap_ticks = wrap_ticks(self._container)
        self.pixel_aspect = _pixel_aspect(self._stream)
        """Width of a pixel over its height."""
        self._packets = 0
        self._frames = 0
        self._place = _Place()
        self._skipper = FrameSkipper(is_on=self.codec in SKIPPED_CODECS)
        self._hardware = hardware
        if hardware.kind is not None:
            self._move_to_device(hardware.kind)

    def skip_unused(self, first: VideoFrame, rate: Fraction) -> None:
        """Start skipping frames that are never sampled; call before the second frame is taken. See `FrameSkipper`.

        Args:
            first: The first frame, as it was decoded.
            rate: Pictures per second that are taken.
        """
        self._skipper.start(first, rate=rate, time_base=self.time_base)

    def frames(self) -> Generator[VideoFrame | LeftOut]:
        """Every decodable frame in presentation order, or the times of a skipped one. Can be iterated once."""
        for frame in self._decoded():
            if isinstance(frame, FFmpegError):
                self.damage.add_error()
                self._place.errors += 1
                self._skipper.stop()
                continue
            left_out = self._skipper.left_out_before(frame)
            self._frames += 1 + len(left_out)
            self.damage.add_frame(frame)
            self._place.move_to(frame)
            yield from left_out
            yield frame
        left_out = self._skipper.left_out_at_end()
        self._frames += len(left_out)
        if (
            self.hwaccel is None
            and self._threads != 1
            and self._source.seekable()
            and self._packets > self._frames + self.damage.errors
        ):
            yield from self._tail()
        else:
            yield from left_out

    def length(self, first_frame_s: float) -> ToldLength:
        """Length according to the file, given the time of its first frame; call before `close`."""
        return told_length(self._container, self._stream, time_base=self.time_base, first_frame_s=first_frame_s)

    def close(self) -> None:
        """Close the container, not the source."""
        self._container.close()

    def _move_to_device(self, kind: str) -> None:
        """Open the container again on a device, if it takes this stream; see `_decoded` for what is seen later."""
        problem = why_unfit(self._stream.codec_context, self._hardware)
        if problem is None and not self._source.seekable():
            problem = "what is read from a pipe cannot be opened twice"
        if problem is None:
            self._container.close()
            self._source.seek(0)
            try:
                # One thread: a device has its own, and each thread would take pictures of its memory.
                self._container, self._stream = self._open(1, hwaccel=kind)
            except MediaError as error:
                problem = str(error).removeprefix(f"{self._path}: ")
                self._open_again()
            else:
                self.hwaccel = kind
        if problem is not None:
            self._leave_device(problem)

    def _leave_device(self, problem: str) -> None:
        """Note why the processor decodes, or refuse to."""
        kind, self.hwaccel = self._hardware.kind, None
        if self._hardware.is_required:
            raise MediaError(f"{self._path}: cannot be decoded by {kind}: {problem}; use --hwaccel auto or none")
        self.notes.append(f"decoded by the processor: {problem}")

    def _open_again(self) -> None:
        """Open the container from its start, for the processor."""
        self._container.close()
        self._source.seek(0)
        self._container, self._stream = self._open(self._threads)

    def _decoded(self) -> Iterator[VideoFrame | FFmpegError]:
        """What the codec gives; by the processor, from the start, if the first frame does not come from the device."""
        decoded = self._decode(self._container, self._stream, self._skipper)
        if self.hwaccel is not None:
            first: list[VideoFrame | FFmpegError] = []
            for item in decoded:
                first.append(item)
                if isinstance(item, VideoFrame):
                    break
            if first and is_on_device(self._stream.codec_context, self.hwaccel) and isinstance(first[-1], VideoFrame):
                decoded = chain(first, decoded)
            else:
                self._leave_device(f"{self.hwaccel} does not take this profile or size")
                self._open_again()
                self._packets = 0
                self._skipper = FrameSkipper(is_on=self.codec in SKIPPED_CODECS)
                decoded = self._decode(self._container, self._stream, self._skipper)
        yield from decoded

    def _open(self, threads: int, *, hwaccel: str | None = None) -> tuple[InputContainer, VideoStream]:
        container = open_container(self._source, self._path, hwaccel=hwaccel)
        stream = best_video(container, self._path, self._wanted_stream)
        stream.thread_type = "NONE" if threads == 1 else "AUTO"
        stream.codec_context.thread_count = threads
        return container, stream

    def _decode(
        self, container: InputContainer, stream: VideoStream, skipper: FrameSkipper | None = None
    ) -> Iterator[VideoFrame | FFmpegError]:
        for packet, following in pairwise(chain(self._read(container, stream), [None])):
            if isinstance(packet, FFmpegError):
                yield packet
                continue
            if packet is not None and skipper is not None:
                can_skip = skipper.can_skip(packet, following if isinstance(following, Packet) else None)
                stream.codec_context.skip_frame = "NONREF" if can_skip else "DEFAULT"
            try:
                yield from stream.decode(packet)
            except FFmpegError as error:
                yield error

    def _read(
        self, container: InputContainer, stream: VideoStream
    ) -> Iterator[Packet[VideoStream] | FFmpegError | None]:
        """Packets of a stream, then at most one error that ended them, then None to flush the codec."""
        packets = container.demux(stream)
        while True:
            try:
                packet = next(packets, None)
            except FFmpegError as error:  # nothing can be read after it; what the codec still holds is good
                yield error
                packet = None
            except IndexError:  # PyAV (18.1) at the end, over a stream that appeared while reading; ours is at its end
                packet = None
            if packet is not None and not packet.size:  # to the codec this would mean the end
                continue
            self._packets += packet is not None and not packet.is_discard
            yield packet
            if packet is None:
                return

    def _tail(self) -> Iterator[VideoFrame]:
        """Decode the end again, without threads, from the last key frame before where frames stopped coming.

        A codec with threads holds as many packets as it has threads. When the file ends it is drained, and PyAV (18.1)
        drops all that is still in it behind the first damaged packet, without a word: a file that was cut short
        would lose up to 16 good frames, and how many would depend on the number of cores.
        """
        self._container.close()
        self._source.seek(0)
        self._container, stream = self._open(threads=1)
        with suppress(FFmpegError):
            self._container.seek(self._place.ticks or 0, stream=stream)
        search = _Place()
        for frame in self._decode(self._container, stream):
            found = search.ticks == self._place.ticks and search.frames_since >= self._place.frames_since
            if isinstance(frame, FFmpegError):
                search.errors += 1
                if found and search.errors > self._place.errors:
                    self.damage.add_error()
            elif found:
                self.damage.add_frame(frame)
                yield frame
            else:
                search.move_to(frame)


class _Damage:
    """Count damaged places.

    # Note [one damage, two symptoms]

    A packet that cannot be decoded is lost. A picture of which a part is lost comes all the same, patched from its
    neighbours and marked by the decoder. Where the end of one picture and the start of the next are hit together, both
    happen, and the marked picture may be shown up to `MAX_REORDERED_FRAMES` later: it is not counted again.
    With several threads, libavcodec (62) now and then hands out a picture before it marks it; only one thread counts
    all. Of 15 damaged files, each read 120 times, one with B-frames lost its only mark 8 times, the others none.
    """

    def __init__(self) -> None:
        self.errors = 0
        """Packets that could not be read or decoded."""
        self.patched_frames = 0
        """Frames that came damaged, without those beside a packet that is counted already."""
        self._frames_since_error = MAX_REORDERED_FRAMES

    @property
    def is_last(self) -> bool:
        """Whether no frame came after the last packet that could not be read or decoded."""
        return self._frames_since_error == 0

    def add_error(self) -> None:
        self.errors += 1
        self._frames_since_error = 0

    def add_frame(self, frame: VideoFrame) -> None:
        if frame.is_corrupt:
            self.patched_frames += self._frames_since_error >= MAX_REORDERED_FRAMES
            self._frames_since_error = MAX_REORDERED_FRAMES
        self._frames_since_error += 1


class _Place:
    """Position of the decoder, in terms that a second pass over the file can find again."""

    def __init__(self) -> None:
        self.ticks: int | None = None
        """The last known time of a frame."""
        self.frames_since = 0
        """Frames after that one, which had none."""
        self.errors = 0
        """Errors since the last frame."""

    def move_to(self, frame: VideoFrame) -> None:
        ticks = frame.pts if frame.pts is not None else frame.dts
        self.frames_since = self.frames_since + 1 if ticks is None else 0
        self.ticks = self.ticks if ticks is None else ticks
        self.errors = 0


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height: 1 if the file gives none, or one outside `MAX_PIXEL_ASPECT`."""
    told = as_fraction(stream.sample_aspect_ratio)
    return told if told is not None and 1 / MAX_PIXEL_ASPECT <= told <= MAX_PIXEL_ASPECT else Fraction(1)


@dataclass(frozen=True)
class ToldLength:
    """Length of a video stream according to the container."""

    duration_s: float | None
    """From the first frame to the end, in seconds; None if unknown."""
    promised_end_s: float | None
    """End on the file's own time line, in seconds; known only if a header gives it for the video stream alone, so that
    longer audio does not count."""


def wrap_ticks(container: InputContainer) -> int | None:
    """Ticks after which the file's clock wraps; None if it never does."""
    return WRAP_TICKS if WRAPPING & frozenset(container.format.name.split(",")) else None


def told_length(
    container: InputContainer, stream: VideoStream, *, time_base: Fraction, first_frame_s: float
) -> ToldLength:
    """Read the length of `stream` from its container.

    Args:
        container: The file.
        stream: Its video stream.
        time_base: Seconds per tick of the stream's times.
        first_frame_s: Time of the first frame on the file's own time line, in seconds.
    """
    formats = frozenset(container.format.name.split(","))
    start_s = first_frame_s if stream.start_time is None else float(stream.start_time * time_base)
    own_s = _own_length_s(formats, stream, time_base)
    length_s = own_s or max(container.duration or 0, 0) / MICROSECONDS
    if formats & WRAPPING and length_s > float(WRAP_TICKS // 2 * time_base):
        return ToldLength(None, None)  # joined files: a clock that went back looks as if it had wrapped
    if formats & COUNTED_FROM_ZERO and length_s > first_frame_s:  # else some writer has left the start out already
        start_s, length_s = first_frame_s, length_s - first_frame_s
    if not length_s:
        return ToldLength(None, None)
    is_promised = formats & WITH_HEADERS and (own_s or len(container.streams) == 1)
    return ToldLength(length_s, start_s + length_s if is_promised else None)


def _own_length_s(formats: frozenset[str], stream: VideoStream, time_base: Fraction) -> float | None:
    if "avi" in formats and stream.frames:
        # Of a file cut short FFmpeg shrinks `duration` in proportion to its size; an AVI's time base is one frame.
        return float(stream.frames * time_base)
    if "matroska" in formats:  # FFmpeg and mkvmerge write a tag for each track
        tag = _TAGGED_TIME.fullmatch(stream.metadata.get("DURATION", ""))
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None
    if "flv" in formats or not stream.duration or stream.duration < 0:  # an FLV's length is that of all its streams
        return None
    return float(stream.duration * time_base)


@dataclass(frozen=True)
class LeftOut:
    """A frame that was not decoded, with the times of its packet, in ticks."""

    pts: int
    dts: int | None
    duration: int | None


class FrameSkipper:
    """Decide which packets need no decoding, and list the frames skipped for it.

    # Note [frames that are never used]

    Of the frames that round to one point of the recipe's grid the last is taken (`fps` in `PictureSampler`). A frame
    of which another one at the same point is known to follow matters only to the frames that are predicted from it. Its
    packet is decoded with `skip_frame=NONREF`: the decoder leaves it out if no frame is predicted from it, and decodes
    it if one is. Its time still goes to the `FrameClock`. Damage in a packet that is left out is not seen, and with
    what a decoder patches the pictures behind a damage depends on the frames that it has, as on its threads.

    Whatever could tell frames and packets apart ends skipping for the rest of the file: damage; times that are missing,
    come twice or go back; a packet that no frame came of. A new picture size would start a new grid, so after the
    packet of each key frame nothing is left out until that frame is there and is like the first.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        """Start without skipping.

        Args:
            is_on: False leaves nothing out ever.
        """
        self._is_on = is_on
        self._grid: _Grid | None = None
        self._awaited_ticks: int | None = None
        self._last_dts: int | None = None
        self._known: deque[int] = deque(maxlen=KNOWN_PACKETS)
        self._pending: dict[int, LeftOut | None] = {}

    def start(self, first: VideoFrame, *, rate: Fraction, time_base: Fraction) -> None:
        """Start skipping once all packets that the decoder already holds are through.

        Args:
            first: The first frame of the video, as it was decoded.
            rate: Frames per second that are taken.
            time_base: Seconds per tick.
        """
        if first.pts is None:
            self.stop()
            return
        self._grid = _Grid(first.pts, rate * time_base, time_base, _looks(first))
        self._awaited_ticks = max(self._known, default=None)

    def stop(self) -> None:
        """Stop skipping."""
        self._is_on = False

    def can_skip(self, packet: Packet[VideoStream], following: Packet[VideoStream] | None) -> bool:
        """Whether `packet`, the next one for the decoder, can be skipped if no frame refers to it.

        Args:
            packet: A packet with data.
            following: The one after it in the file; None where there is none, or it is damaged.
        """
        if not self._is_on or packet.is_discard:
            return False
        ticks = self._learn(packet)
        if ticks is None:
            self.stop()
            return False
        is_unused = self._is_unused(ticks, following)
        self._pending[ticks] = LeftOut(ticks, packet.dts, packet.duration) if is_unused else None
        return is_unused

    def left_out_before(self, frame: VideoFrame) -> list[LeftOut]:
        """Frames skipped between the last decoded frame and this one; call for every decoded frame."""
        if frame.pts is None or frame.is_corrupt:
            self.stop()
        if frame.pts is None:
            return []
        passed = sorted(ticks for ticks in self._pending if ticks <= frame.pts)
        marks = [self._pending.pop(ticks) for ticks in passed if ticks < frame.pts]
        self._pending.pop(frame.pts, None)
        if self._grid is not None:
            if None in marks:
                self.stop()
            self._compare(frame, frame.pts, self._grid)
        return [mark for mark in marks if mark is not None]

    def left_out_at_end(self) -> list[LeftOut]:
        """Frames skipped after the last decoded frame."""
        marks = [self._pending[ticks] for ticks in sorted(self._pending)]
        self._pending.clear()
        return [mark for mark in marks if mark is not None]

    def _learn(self, packet: Packet[VideoStream]) -> int | None:
        """Store the times of a packet; return its presentation time, or None if the times do not rise."""
        pts, dts, last_dts = packet.pts, packet.dts, self._last_dts
        if pts is None or pts in self._known or (dts is not None and last_dts is not None and dts <= last_dts):
            return None
        if self._grid is not None:
            ahead_s = (pts - max(self._known, default=pts)) * self._grid.time_base
            if not -JITTER_S <= ahead_s <= MAX_STILL_S:
                return None
        if packet.is_keyframe:
            self._awaited_ticks = pts
        self._known.append(pts)
        self._last_dts = last_dts if dts is None else dts
        return pts

    def _is_unused(self, ticks: int, following: Packet[VideoStream] | None) -> bool:
        grid = self._grid
        if grid is None or self._awaited_ticks is not None or ticks <= grid.first_ticks:
            return False
        later = [known for known in self._known if known > ticks]
        if following is not None and following.size and not following.is_discard:
            later += [following.pts] if following.pts is not None and following.pts > ticks else []
        return bool(later) and grid.point(min(later)) == grid.point(ticks)

    def _compare(self, frame: VideoFrame, ticks: int, grid: _Grid) -> None:
        if self._awaited_ticks is not None and ticks >= self._awaited_ticks:
            self._awaited_ticks = None
            if _looks(frame) != grid.looks:
                self.stop()


@dataclass(frozen=True)
class _Grid:
    """Points in time at which pictures are sampled."""

    first_ticks: int
    points_per_tick: Fraction
    time_base: Fraction
    looks: tuple[object, ...]
    """Of the first frame."""

    def point(self, ticks: int) -> int:
        """Grid point of `ticks`, rounded half up like the filter `fps=round=near`."""
        points = 2 * (ticks - self.first_ticks) * self.points_per_tick.numerator
        return (points + self.points_per_tick.denominator) // (2 * self.points_per_tick.denominator)


def _looks(frame: VideoFrame) -> tuple[object, ...]:
    """Properties that a filter graph is built for."""
    return frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)
