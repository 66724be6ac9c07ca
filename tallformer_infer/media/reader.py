"""Read frames of a video at the recipe's rate, decoded ahead by a thread into a bounded queue."""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Generic, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media.byte_sources import (
    ByteSource,
    FileBytes,
    RemoteBytes,
    SpooledBytes,
    is_regular_file,
    open_source,
)
from tallformer_infer.media.given import FileObjectBytes, GivenFrames, GivenVideo, OpenedFrames, name_of
from tallformer_infer.media.graph import PictureSampler, exact_rate
from tallformer_infer.media.hardware import SOFTWARE, Hardware
from tallformer_infer.media.opening import OpenedVideo, video_rate, whole_length_s
from tallformer_infer.media.web import WebBytes
from tallformer_infer.structures import VideoInfo

Picture = NDArray[np.uint8]
CLOSE_TIMEOUT_S = 5.0
"""Timeout for joining the thread in `close`: it may be decoding a packet, or waiting for a silent server."""

DECODED_AHEAD = 8
"""Maximum number of decoded frames that wait to be resized. Overlapping decoding and resizing was measured to be 1.1
times as fast when every other frame is sampled and 1.2 times when all are (720p H.264, two shared cores, median of 8
paired runs)."""

Item = TypeVar("Item")

_POLL_S = 0.1


def open_video(
    source: GivenVideo | WebBytes | RemoteBytes,
    sampling: SamplingConfig,
    *,
    threads: int | None = None,
    queue_frames: int = 64,
    span_s: float | None = None,
    video_stream: int | None = None,
    is_hashed: bool = False,
    hardware: Hardware = SOFTWARE,
) -> FrameStream:
    """Open a video and start decoding it in a thread.

    Args:
        source: A regular file, a named pipe, `-` for standard input, an http(s) address, an fsspec source, a binary
            file object, or pictures from the Python API (`given.py`).
        sampling: Frame rate, resizing and crop.
        threads: Threads for the video codec and for the resize filters; None chooses both by the number of cores. 1
            does everything in one thread, which is best when each core has its own video. (With a PyAV without
            `Graph.threads`, libavfilter chooses.)
        queue_frames: Maximum number of frames decoded ahead.
        span_s: Duration covered by `sampling.most_frames`, in seconds; None: the whole video, which then yields at most
            that many frames.
        video_stream: Index of the video stream, from 0; None selects the main one.
        is_hashed: Whether to hash a regular file given by name while reading it, see `FrameStream.sha256`.
        hardware: Hardware decoder to use, see `choose_hardware`.

    Raises:
        MediaError: The video cannot be opened, has no video stream, no frame of it can be decoded, its duration is
            needed and unknown, or the required hardware cannot decode it.
        ValueError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    work = _Work(source, sampling, threads=threads, queue_frames=queue_frames, span_s=span_s, video_stream=video_stream)
    work.hardware = hardware
    work.is_hashed = is_hashed and isinstance(source, (str, Path)) and is_regular_file(source)
    return FrameStream(work)


class FrameStream:
    """Iterator over the frames of a video: RGB uint8, shape (crop_px, crop_px, 3), contiguous.

    Frame k represents the time t = `info.start_s + k / sample_fps`. It is the last picture that starts before
    t + 1/2 / sample_fps: the one shown at t, or one that starts less than half a frame later.

    Close the stream, or use it in a `with` statement.
    """

    info: VideoInfo
    """Description of the video."""

    def __init__(self, work: _Work) -> None:
        """See `open_video`."""
        self.frame_count = 0
        """Frames taken so far."""
        self._work = work
        # The thread references the work, not this object, so that garbage collection of the stream ends the thread.
        self._forget = weakref.finalize(self, self._work.stop)
        self._thread = threading.Thread(target=self._work.run, name="tallformer-frames", daemon=True)
        self._thread.start()
        try:
            self.info = self._work.opened.take()
        except BaseException:
            self.close()
            raise
        self._rate_fps = float(exact_rate(work.sampling.sample_fps))

    @property
    def sample_fps(self) -> float:
        """Sampling rate, in frames per second."""
        return self._work.sampling.sample_fps

    @property
    def decode_errors(self) -> int:
        """Damage so far: see `Result.decode_errors`."""
        return self._work.decode_errors

    @property
    def missing_s(self) -> float:
        """Video missing at the end, compared with the header, in seconds; known after the last frame."""
        return self._work.missing_s

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes on the video, one line each; complete after the last frame."""
        return self._work.notes

    @property
    def sha256(self) -> str | None:
        """SHA-256 of the file, known after the last frame; None if not a regular file, or hashing was not requested."""
        return self._work.sha256

    @property
    def decode_s(self) -> float:
        """Time that the decoding thread has been busy so far, in seconds."""
        return self._work.busy_s

    @property
    def position_s(self) -> float:
        """Media time reached: the end of the last frame taken, in seconds on the file's own timeline."""
        return self.info.start_s + self.frame_count / self._rate_fps

    def __iter__(self) -> Iterator[Picture]:
        return self

    def __next__(self) -> Picture:
        frame = self._work.frames.take()
        self.frame_count += 1
        return frame

    def close(self) -> None:
        """Stop the thread; frames not taken yet are dropped. Can be called repeatedly."""
        self._forget()
        self._thread.join(CLOSE_TIMEOUT_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Work:
    """Task and results of the decoding thread."""

    def __init__(
        self,
        source: GivenVideo | WebBytes | RemoteBytes,
        sampling: SamplingConfig,
        *,
        threads: int | None,
        queue_frames: int,
        span_s: float | None,
        video_stream: int | None,
    ) -> None:
        self.sampling = sampling
        """Sampling config; its rate is final once the video is open."""
        self.opened: FrameQueue[VideoInfo] = FrameQueue(1)
        self.frames: FrameQueue[Picture] = FrameQueue(queue_frames)
        self.busy_s = 0.0
        self.is_hashed = False
        self.hardware = SOFTWARE
        self.sha256: str | None = None
        self._is_changed = False
        self._video: OpenedVideo | OpenedFrames | None = None
        self._sampler: PictureSampler | None = None
        self._path = str(source) if isinstance(source, (WebBytes, RemoteBytes)) else name_of(source)
        self._video_stream = video_stream
        self._span_s = span_s
        self._most_frames = sampling.most_frames if span_s is None else None
        self._threads = threads
        self._source: ByteSource | GivenFrames = source if isinstance(source, GivenFrames) else _opened(source)

    @property
    def decode_errors(self) -> int:
        return self._video.errors if self._video else 0

    @property
    def missing_s(self) -> float:
        return self._video.missing_s if self._video else 0.0

    @property
    def notes(self) -> tuple[str, ...]:
        changed = ("the file changed while it was read",) if self._is_changed else ()
        times = self._video.notes if self._video else ()
        return (*changed, *times, *(self._sampler.notes if self._sampler else ()))

    def stop(self) -> None:
        self.opened.close()
        self.frames.close()
        self._source.abort()

    def run(self) -> None:
        error: BaseException | None = None
        try:
            self._decode()
        except BaseException as raised:  # re-raised in the thread that takes the frames
            error = raised
        finally:
            self._source.close()
            self.opened.end(error)
            self.frames.end(error)

    def _decode(self) -> None:
        mark_s = time.perf_counter()
        whole_s = self._length_s()
        self._video = video = self._open()
        try:
            if self.sampling.most_frames is not None:
                covered_s = self._span_s or whole_s or video.info.duration_s
                rate_fps = video_rate(self.sampling, self._path, source_fps=video.info.source_fps, covered_s=covered_s)
                self.sampling = replace(self.sampling, sample_fps=rate_fps)
            self._sampler = sampler = PictureSampler(
                self.sampling,
                video.info,
                time_base=video.time_base,
                orientation=video.orientation,
                pixel_aspect=video.pixel_aspect,
                threads=self._threads,
            )
            self.opened.put(video.info)
            with closing(self._pictures(video, sampler)) as pictures:
                for picture in pictures:
                    self.busy_s += time.perf_counter() - mark_s
                    if not self.frames.put(picture):
                        return
                    mark_s = time.perf_counter()
        finally:
            video.close()
        self.busy_s += time.perf_counter() - mark_s
        if self._source.failure:
            raise MediaError(f"{self._path}: cannot be read further: {self._source.failure}")
        if isinstance(self._source, FileBytes):
            self.sha256 = self._source.sha256() if self.is_hashed else None
            self._is_changed = self._source.is_changed()

    def _length_s(self) -> float | None:
        """Duration in seconds, if the rate depends on it and the source can be read twice."""
        if self._most_frames is None or isinstance(self._source, GivenFrames):
            return None
        return whole_length_s(self._source, self._path, video_stream=self._video_stream)

    def _open(self) -> OpenedVideo | OpenedFrames:
        if isinstance(self._source, GivenFrames):
            return OpenedFrames(self._source)
        return OpenedVideo(
            self._source,
            self._path,
            threads=self._threads,
            video_stream=self._video_stream,
            hardware=self.hardware,
        )

    def _pictures(self, video: OpenedVideo | OpenedFrames, sampler: PictureSampler) -> Generator[Picture]:
        frames = video.frames(exact_rate(self.sampling.sample_fps))
        if self._threads != 1:
            frames = run_ahead(frames, DECODED_AHEAD, thread_name="tallformer-decode")
        with closing(frames):
            for frame, ticks in frames:
                yield from self._limited(sampler, sampler.push(frame, ticks))
        yield from self._limited(sampler, sampler.finish(video.end_ticks))

    def _limited(self, sampler: PictureSampler, pictures: Iterator[Picture]) -> Iterator[Picture]:
        """Limit the number of pictures: a slightly short duration in the header must not cause a second window."""
        for picture in pictures:
            if self._most_frames is None or sampler.count <= self._most_frames:
                yield picture


def _opened(source: str | Path | WebBytes | RemoteBytes | BinaryIO) -> ByteSource:
    is_named = isinstance(source, (str, Path, WebBytes, RemoteBytes))
    opened: ByteSource = open_source(source) if is_named else FileObjectBytes(source)  # type: ignore[arg-type]
    return opened if opened.seekable() else SpooledBytes(opened)


class FrameQueue(Generic[Item]):
    """Bounded queue that can end: after the last item, with an error, or because the consumer stopped."""

    def __init__(self, size: int) -> None:
        """Create a queue of at most `size` items (at least 1)."""
        if size < 1:
            raise ValueError(f"expected a queue of at least 1 item, got {size}")
        self._size = size
        self._items: deque[Item] = deque()
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._is_ended = False
        self._is_closed = False

    def put(self, item: Item) -> bool:
        """Wait for a free slot and add `item`; return False if the consumer has stopped."""
        with self._change:
            self._change.wait_for(lambda: self._is_closed or len(self._items) < self._size)
            if not self._is_closed:
                self._items.append(item)
                self._change.notify_all()
            return not self._is_closed

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end; `error` is raised in `take` after the last item."""
        with self._change:
            self._error = error
            self._is_ended = True
            self._change.notify_all()

    def take(self) -> Item:
        """Wait for the next item.

        Raises:
            StopIteration: The queue has ended.
        """
        with self._change:
            while not (self._items or self._is_ended or self._is_closed):
                self._change.wait(_POLL_S)  # with a timeout, so that Ctrl-C works on every platform
            if self._is_closed or not self._items:
                error, self._error = self._error, None
                raise error or StopIteration
            item = self._items.popleft()
            self._change.notify_all()
            return item

    @property
    def is_ended(self) -> bool:
        """Whether the producer has marked the end."""
        return self._is_ended

    def close(self) -> None:
        """Stop as the consumer: drop all items and let `put` return at once."""
        with self._change:
            self._is_closed = True
            self._error = None
            self._items.clear()
            self._change.notify_all()


def run_ahead(
    items: Iterator[Item],
    size: int,
    *,
    thread_name: str,
    interrupt: Callable[[], None] | None = None,
    join_s: float | None = None,
) -> Generator[Item]:
    """Iterate `items` in a thread that runs at most `size` items ahead.

    Closing the generator ends the thread at its next item. Errors raised by `items` are re-raised here.

    Args:
        items: Consumed in the thread.
        size: Maximum number of items that wait, at least 1.
        thread_name: Name of the thread, for debugging.
        interrupt: Called when the generator is closed early, to interrupt what the thread is doing.
        join_s: Timeout for joining the thread, in seconds; None waits indefinitely.
    """
    queue: FrameQueue[Item] = FrameQueue(size)
    is_at_end = False

    def make() -> None:
        try:
            for item in items:
                if not queue.put(item):
                    return
        except BaseException as error:
            queue.end(error)
        else:
            queue.end()

    thread = threading.Thread(target=make, name=thread_name, daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = queue.take()
            except StopIteration:
                is_at_end = True
                return
            except BaseException:
                is_at_end = queue.is_ended
                raise
            yield item
    finally:
        queue.close()
        if interrupt is not None and not is_at_end:
            interrupt()
        thread.join(join_s)
