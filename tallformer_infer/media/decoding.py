"""Decode the frames of one video and count damaged places."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import chain, pairwise

from av.container import InputContainer
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from tallformer_infer.devices import available_cores
from tallformer_infer.media.byte_sources import ByteSource
from tallformer_infer.media.containers import as_fraction, best_video, is_generated, moving_pictures, open_container
from tallformer_infer.media.lengths import ToldLength, told_length, wrap_ticks
from tallformer_infer.media.skipping import SKIPPED_CODECS, FrameSkipper, LeftOut

UNKNOWN_RATE = Fraction(25)
"""What FFmpeg, too, takes for a stream that tells no rate."""
MAX_PIXEL_ASPECT = Fraction(4)
"""Most that a pixel is wider than high, or higher than wide; the largest in use is 32:11."""
MAX_REORDERED_FRAMES = 16
"""Most frames that H.264 and HEVC show between the picture of one packet and that of the next."""


_MOST_THREADS = 16
"""More are not recommended by libavcodec."""


def codec_threads() -> int:
    """Number of codec threads that decodes a single video fastest: threads wait for the frames they predict from."""
    cores = available_cores()
    return 1 if cores == 1 else min(cores + 2, _MOST_THREADS)


class Decoder:
    """Decodes the main video stream of a source."""

    def __init__(
        self, source: ByteSource, path: str, *, threads: int | None = None, video_stream: int | None = None
    ) -> None:
        """Open the container; nothing is decoded yet.

        Args:
            source: The bytes.
            path: For error messages.
            threads: Threads of the codec; None takes some more than there are cores, see `codec_threads`.
            video_stream: Which of the moving pictures in it, from 0; None takes the main one.

        Raises:
            MediaError: Not a video, or no such video in it.
        """
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

    def skip_unused(self, first: VideoFrame, rate: Fraction) -> None:
        """Start skipping frames that are never sampled; call before the second frame is taken. See `FrameSkipper`.

        Args:
            first: The first frame, as it was decoded.
            rate: Pictures per second that are taken.
        """
        self._skipper.start(first, rate=rate, time_base=self.time_base)

    def frames(self) -> Generator[VideoFrame | LeftOut]:
        """Every decodable frame in presentation order, or the times of a skipped one. Can be iterated once."""
        for frame in self._decode(self._container, self._stream, self._skipper):
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
        if self._threads != 1 and self._source.seekable() and self._packets > self._frames + self.damage.errors:
            yield from self._tail()
        else:
            yield from left_out

    def length(self, first_frame_s: float) -> ToldLength:
        """Length according to the file, given the time of its first frame; call before `close`."""
        return told_length(self._container, self._stream, time_base=self.time_base, first_frame_s=first_frame_s)

    def close(self) -> None:
        """Close the container, not the source."""
        self._container.close()

    def _open(self, threads: int) -> tuple[InputContainer, VideoStream]:
        container = open_container(self._source, self._path)
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
