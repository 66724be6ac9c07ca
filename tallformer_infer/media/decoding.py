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
"""First bytes of M3U and HLS files. Their demuxer is not allowed, so FFmpeg reports them as damaged data."""
MADE_BY_SYNTHETIC = '"made by": "tallformer-synthetic'
"""Comment tag that `tallformer_training.synthetic` writes into its videos."""
_OLD_PYAV = int(av.__version__.split(".")[0]) < 19
# PyAV up to 18 rejects non-UTF-8 metadata unless given this argument; PyAV 19 accepts it and removed the argument.
_OPEN_OPTIONS: dict[str, Any] = {"metadata_errors": "replace"} if _OLD_PYAV else {}

UNKNOWN_RATE = Fraction(25)
"""Frame rate assumed for a stream that gives none, as in FFmpeg."""
MAX_PIXEL_ASPECT = Fraction(4)
"""Largest accepted pixel aspect ratio, or its inverse; the largest in use is 32:11."""
MAX_REORDERED_FRAMES = 16
"""Maximum frame reordering in H.264 and HEVC: frames shown between the pictures of two consecutive packets."""

_MOST_THREADS = 16
"""Maximum recommended by libavcodec."""

WITH_HEADERS = frozenset({"mov", "matroska", "avi", "flv", "mxf"})
"""Demuxers that read durations from a header. For others FFmpeg estimates from the file size or the last packets."""
COUNTED_FROM_ZERO = frozenset({"matroska", "nut"})
"""Demuxers whose duration is the end time: a stream from 100 s to 110 s has duration 110 s."""
WRAPPING = frozenset({"mpegts", "mpeg"})
"""Demuxers of formats with a 33-bit clock at 90 kHz, which wraps every 26.5 hours."""
WRAP_TICKS = 1 << 33
"""Ticks of that clock."""
MICROSECONDS = 1_000_000
"""FFmpeg's AV_TIME_BASE."""
_TAGGED_TIME = re.compile(r"(\d{1,9}):(\d\d):(\d\d(?:\.\d{1,9})?)")

SKIPPED_CODECS = frozenset({"h264"})
"""Codecs that mark frames that no other frame refers to. HEVC marks them within one temporal layer only."""
KNOWN_PACKETS = 64
"""Number of recent packets searched for the frame that is shown next."""


def open_container(source: ByteSource, path: str, *, hwaccel: str | None = None) -> InputContainer:
    """Open the container whose bytes `source` gives. See Note [FFmpeg is only handed bytes].

    Args:
        source: The bytes, at their start.
        path: Name for error messages.
        hwaccel: Kind of device for the streams that it supports; None for the CPU.

    Raises:
        MediaError: Not one of `SELF_CONTAINED_FORMATS`, too damaged to open, or no such device can be opened.
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
    # PyAV makes FFmpeg generate missing presentation times, which are wrong for B-frames in AVI; see `FrameClock`.
    container.flags = container.flags & ~GENERATE_TIMES
    return container


def moving_pictures(container: InputContainer) -> list[VideoStream]:
    """Video streams, without cover images."""
    return [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]


def is_generated(container: InputContainer) -> bool:
    """Whether the video was written by `tallformer_training.synthetic`, according to its comment tag."""
    return MADE_BY_SYNTHETIC in container.metadata.get("comment", "")


def best_video(container: InputContainer, path: str, wanted: int | None = None) -> VideoStream:
    """Select a video stream: FFmpeg's main one, or one by number; never a cover image.

    Args:
        container: The file.
        path: Name for error messages.
        wanted: Index of the stream in `moving_pictures`, from 0; None selects the main one.

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
    """Convert PyAV's rational (a Fraction; a type of its own since 19) to a Fraction; None for None and 0."""
    return Fraction(rational.numerator, rational.denominator) if rational else None


def _picture_px(stream: VideoStream) -> int:
    return stream.width * stream.height if stream.codec_context is not None else 0


class _FirstBytes:
    """Adapter from a source to PyAV's file interface; it keeps the first bytes for error messages."""

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
    not_listed = isinstance(error, av.error.ArgumentError)  # FFmpeg's error for a format that is not whitelisted
    if not_listed or first.startswith(PLAYLIST_SIGNATURES):
        return f"{path}: not a video file (playlists, scripts and images that name other files are not read)"
    reason = error.strerror if isinstance(error, FFmpegError) and error.strerror else str(error)
    return f"{path}: cannot be opened as video: {reason}{seek_hint(source)}"


def codec_threads() -> int:
    """Number of codec threads that decodes a single video fastest: more than cores, as some wait for other frames."""
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
            source: The bytes of the video file.
            path: Name for error messages.
            threads: Codec threads; None uses slightly more than there are cores, see `codec_threads`.
            video_stream: Index of the video stream, from 0, not counting cover images; None selects the main one.
            hardware: Hardware decoder to use, see `choose_hardware`.

        Raises:
            MediaError: Not a video, no such video stream, or the required hardware cannot decode it.
        """
        self.hwaccel: str | None = None
        """Kind of device that decodes; None for the CPU. Final after the first frame."""
        self.notes: list[str] = []
        """Reasons for falling back to the CPU, one line each."""
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
        """Index of the decoded stream in `moving_pictures`."""
        self.streams = max(len(moving), 1)
        """Number of video streams in the container, without cover images."""
        self.is_generated = is_generated(self._container)
        """See `is_generated`."""
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
        """Start skipping frames that are never sampled; call before the second frame is read. See `FrameSkipper`.

        Args:
            first: The first decoded frame.
            rate: Sampling rate, in frames per second.
        """
        self._skipper.start(first, rate=rate, time_base=self.time_base)

    def frames(self) -> Generator[VideoFrame | LeftOut]:
        """Yield decoded frames, or the times of skipped ones, in presentation order. Can be iterated once."""
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
        """Duration according to the container; `first_frame_s` as in `told_length`. Call before `close`."""
        return told_length(self._container, self._stream, time_base=self.time_base, first_frame_s=first_frame_s)

    def close(self) -> None:
        """Close the container, not the source."""
        self._container.close()

    def _move_to_device(self, kind: str) -> None:
        """Reopen the container on a device, if it supports this stream; `_decoded` checks the first frame."""
        problem = why_unfit(self._stream.codec_context, self._hardware)
        if problem is None and not self._source.seekable():
            problem = "a pipe cannot be reopened"
        if problem is None:
            self._container.close()
            self._source.seek(0)
            try:
                # One thread: the device decodes in parallel itself, and each thread would hold pictures in its memory.
                self._container, self._stream = self._open(1, hwaccel=kind)
            except MediaError as error:
                problem = str(error).removeprefix(f"{self._path}: ")
                self._reopen(self._threads)
            else:
                self.hwaccel = kind
        if problem is not None:
            self._leave_device(problem)

    def _leave_device(self, problem: str) -> None:
        """Fall back to the CPU with a note, or raise if the device is required."""
        kind, self.hwaccel = self._hardware.kind, None
        if self._hardware.is_required:
            raise MediaError(f"{self._path}: cannot be decoded by {kind}: {problem}; use --hwaccel auto or none")
        self.notes.append(f"decoded on the CPU: {problem}")

    def _reopen(self, threads: int, *, hwaccel: str | None = None) -> None:
        """Reopen the container at its start, on a device or, with None, for the CPU."""
        self._container.close()
        self._source.seek(0)
        self._container, self._stream = self._open(threads, hwaccel=hwaccel)

    def _decoded(self) -> Iterator[VideoFrame | FFmpegError]:
        """Decoded frames and errors; restarts on the CPU if the first frame does not come from the device."""
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
                self._leave_device(f"{self.hwaccel} does not support this profile or size")
                self._reopen(self._threads)
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
            except FFmpegError as error:  # no more packets can be read; frames already in the codec are still good
                yield error
                packet = None
            except IndexError:  # PyAV (18.1) raises it at the end of a file if a stream appeared while reading
                packet = None
            if packet is not None and not packet.size:  # an empty packet would flush the codec
                continue
            self._packets += packet is not None and not packet.is_discard
            yield packet
            if packet is None:
                return

    def _tail(self) -> Iterator[VideoFrame]:
        """Decode the end again with one thread, from the last key frame before the last frame received.

        A multithreaded codec holds as many packets as it has threads. When it is drained at the end of the file,
        PyAV (18.1) silently drops everything after the first damaged packet: a truncated file would lose up to 16 good
        frames, and how many would depend on the number of cores.
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

    A packet that cannot be decoded is lost. A picture that is partly lost is still returned: the decoder conceals the
    damage from neighbouring pictures and marks the frame as corrupt. Damage across a picture boundary causes both, and
    the marked picture may be shown up to `MAX_REORDERED_FRAMES` later: it is not counted again.
    With several threads, libavcodec (62) occasionally returns a picture before it marks it; only single-threaded
    decoding counts all. Of 15 damaged files, each read 120 times, one with B-frames lost its only mark 8 times, the
    others none.
    """

    def __init__(self) -> None:
        self.errors = 0
        """Packets that could not be read or decoded."""
        self.patched_frames = 0
        """Corrupt frames, without those next to a packet that is already counted."""
        self._frames_since_error = MAX_REORDERED_FRAMES

    @property
    def is_last(self) -> bool:
        """Whether no frame followed the last packet that could not be read or decoded."""
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
    """Position of the decoder, in a form that a second pass over the file can find again."""

    def __init__(self) -> None:
        self.ticks: int | None = None
        """Time of the last frame that had one."""
        self.frames_since = 0
        """Frames without a time since that frame."""
        self.errors = 0
        """Errors since the last frame."""

    def move_to(self, frame: VideoFrame) -> None:
        ticks = frame.pts if frame.pts is not None else frame.dts
        self.frames_since = self.frames_since + 1 if ticks is None else 0
        self.ticks = self.ticks if ticks is None else ticks
        self.errors = 0


def _pixel_aspect(stream: VideoStream) -> Fraction:
    """Width of a pixel over its height; 1 if the file gives no value, or one outside `MAX_PIXEL_ASPECT`."""
    told = as_fraction(stream.sample_aspect_ratio)
    return told if told is not None and 1 / MAX_PIXEL_ASPECT <= told <= MAX_PIXEL_ASPECT else Fraction(1)


@dataclass(frozen=True)
class ToldLength:
    """Length of a video stream according to the container."""

    duration_s: float | None
    """From the first frame to the end, in seconds; None if unknown."""
    promised_end_s: float | None
    """End on the file's own timeline, in seconds; known only if a header gives it for the video stream alone, so that
    longer audio does not count."""


def wrap_ticks(container: InputContainer) -> int | None:
    """Ticks after which the file's clock wraps; None if it never does."""
    return WRAP_TICKS if WRAPPING & frozenset(container.format.name.split(",")) else None


def told_length(
    container: InputContainer, stream: VideoStream, *, time_base: Fraction, first_frame_s: float
) -> ToldLength:
    """Read the duration of `stream` from its container.

    Args:
        container: The file.
        stream: Its video stream.
        time_base: Seconds per tick of the stream's times.
        first_frame_s: Time of the first frame on the file's own timeline, in seconds.
    """
    formats = frozenset(container.format.name.split(","))
    start_s = first_frame_s if stream.start_time is None else float(stream.start_time * time_base)
    own_s = _own_length_s(formats, stream, time_base)
    length_s = own_s or max(container.duration or 0, 0) / MICROSECONDS
    if formats & WRAPPING and length_s > float(WRAP_TICKS // 2 * time_base):
        return ToldLength(None, None)  # concatenated files: a clock that restarts looks like one that wrapped
    if formats & COUNTED_FROM_ZERO and length_s > first_frame_s:  # else the writer already subtracted the start
        start_s, length_s = first_frame_s, length_s - first_frame_s
    if not length_s:
        return ToldLength(None, None)
    is_promised = formats & WITH_HEADERS and (own_s or len(container.streams) == 1)
    return ToldLength(length_s, start_s + length_s if is_promised else None)


def _own_length_s(formats: frozenset[str], stream: VideoStream, time_base: Fraction) -> float | None:
    if "avi" in formats and stream.frames:
        # For a truncated file FFmpeg scales `duration` down with the file size. An AVI's time base is one frame.
        return float(stream.frames * time_base)
    if "matroska" in formats:  # FFmpeg and mkvmerge write a tag for each track
        tag = _TAGGED_TIME.fullmatch(stream.metadata.get("DURATION", ""))
        return int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3]) if tag else None
    if "flv" in formats or not stream.duration or stream.duration < 0:  # FLV: the duration covers all streams
        return None
    return float(stream.duration * time_base)


@dataclass(frozen=True)
class LeftOut:
    """A frame that was not decoded, with the times of its packet, in ticks."""

    pts: int
    dts: int | None
    duration: int | None


class FrameSkipper:
    """Decide which packets need not be decoded, and list the frames skipped as a result.

    # Note [frames that are never used]

    When several frames round to the same point of the recipe's grid, the last one is sampled (`fps` in
    `PictureSampler`). A frame that is known to be followed by another at the same point is needed only as a reference
    for other frames. Its packet is decoded with `skip_frame=NONREF`: the decoder skips it if no frame refers to it, and
    decodes it otherwise. Its time still goes to the `FrameClock`. Damage in a skipped packet is not detected, and error
    concealment in the pictures after a damaged place depends on which frames were decoded, as it does on the threads.

    Anything that breaks the pairing of frames and packets ends skipping for the rest of the file: damage; times that
    are missing, repeated or decreasing; a packet without a frame. A new picture size would start a new grid, so after
    the packet of each key frame nothing is skipped until that frame has been decoded and has the properties of the
    first one.
    """

    def __init__(self, *, is_on: bool = True) -> None:
        """Create a skipper; skipping begins with `start`.

        Args:
            is_on: False never skips anything.
        """
        self._is_on = is_on
        self._grid: _Grid | None = None
        self._awaited_ticks: int | None = None
        self._last_dts: int | None = None
        self._known: deque[int] = deque(maxlen=KNOWN_PACKETS)
        self._pending: dict[int, LeftOut | None] = {}

    def start(self, first: VideoFrame, *, rate: Fraction, time_base: Fraction) -> None:
        """Start skipping after the packets that the decoder already holds.

        Args:
            first: The first decoded frame of the video.
            rate: Sampling rate, in frames per second.
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
            following: The next packet in the file; None at the end, or if it is damaged.
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
        """Store the times of a packet; return its presentation time, or None if times are missing or not increasing."""
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
    """Times at which pictures are sampled."""

    first_ticks: int
    points_per_tick: Fraction
    time_base: Fraction
    looks: tuple[object, ...]
    """Properties of the first frame, see `_looks`."""

    def point(self, ticks: int) -> int:
        """Grid point of `ticks`, rounded half up like the filter `fps=round=near`."""
        points = 2 * (ticks - self.first_ticks) * self.points_per_tick.numerator
        return (points + self.points_per_tick.denominator) // (2 * self.points_per_tick.denominator)


def _looks(frame: VideoFrame) -> tuple[object, ...]:
    """Properties that determine the filter graph."""
    return frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range)
