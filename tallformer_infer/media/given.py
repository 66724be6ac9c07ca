"""Video inputs of the Python API: a path, a file object, an array, or pictures with timestamps."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tallformer_infer.errors import MediaError
from tallformer_infer.media.graph import SQUARE, UPRIGHT, exact_rate
from tallformer_infer.structures import VideoInfo

Picture = NDArray[np.uint8]
VideoInput = str | os.PathLike[str] | BinaryIO | Picture | Iterable[tuple[float, Picture]]
"""A path or address; a binary file object; a uint8 array (T, H, W, 3) with `fps`; or pairs (seconds, picture)."""

FRAMES_NAME = "<frames>"
FILE_NAME = "<file>"
EXPECTED = (
    "expected a path or address, a binary file object, an array of shape (T, H, W, 3) with fps, "
    "or an iterator of (seconds, picture)"
)
_MICROSECOND = Fraction(1, 1_000_000)


def given_video(video: object, *, fps: float | None = None) -> GivenVideo:
    """Normalize a video input, and reject anything else before work starts.

    Args:
        video: See `VideoInput`.
        fps: Frames per second of an array, or of an iterable of pictures without times.

    Raises:
        TypeError: `video` is not a `VideoInput`, or `fps` is missing or does not apply to it.
        ValueError: The array has another shape or dtype, or `fps` is not a finite number above 0.
    """
    if fps is not None and not 0 < fps < float("inf"):
        raise ValueError(f"fps={fps:g}: expected frames per second, above 0")
    if isinstance(video, (str, os.PathLike)) or _is_file_object(video):
        if fps is not None:
            raise TypeError(f"fps={fps:g}: only for arrays and pictures; a file has its own timestamps")
        if isinstance(video, str) or _is_file_object(video):
            return cast(str | BinaryIO, video)
        return Path(os.fsdecode(cast(os.PathLike[str], video)))
    if isinstance(video, (bytes, bytearray, memoryview)):
        raise TypeError(f"video: got {type(video).__name__}; wrap the content of a video file in io.BytesIO")
    if hasattr(video, "__array__") and not isinstance(video, np.generic):
        return _from_array(np.asarray(video), fps)
    if isinstance(video, Iterable) and not isinstance(video, (dict, set, frozenset)):
        return _from_iterable(video, fps)
    raise TypeError(f"video: got {type(video).__name__}; {EXPECTED}")


def name_of(video: GivenVideo) -> str:
    """Name of a video in results and messages."""
    if isinstance(video, GivenFrames):
        return FRAMES_NAME
    if isinstance(video, (str, Path)):
        return str(video)
    name = getattr(video, "name", None)
    return name if isinstance(name, str) else FILE_NAME


class FileObjectBytes:
    """Bytes of a binary file object, read from its start; the caller closes it."""

    def __init__(self, file: BinaryIO) -> None:
        """Seek to the start, if the file can seek.

        Raises:
            TypeError: The file is in text mode.
        """
        if isinstance(file.read(0), str):
            raise TypeError("video: got a file in text mode; open it with mode 'rb'")
        self.failure: str | None = None
        self._file = file
        self._is_aborted = False
        self._can_seek = bool(getattr(file, "seekable", lambda: False)())
        self._place = file.seek(0) if self._can_seek else 0

    def read(self, size: int) -> bytes:
        """See `ByteSource`."""
        if self._is_aborted or self.failure:
            return b""
        try:
            data = self._file.read(size)
        except (OSError, ValueError) as error:  # ValueError: the file was closed
            self.failure = str(error)
            return b""
        self._place += len(data)
        return data

    def seekable(self) -> bool:
        """Whether the file object is seekable."""
        return self._can_seek

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`."""
        self._place = self._file.seek(offset, whence)
        return self._place

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._place

    def abort(self) -> None:
        """See `ByteSource`."""
        self._is_aborted = True

    def close(self) -> None:
        """No-op: the caller owns the file."""


class GivenFrames:
    """Pictures in presentation order, each with its time in ticks."""

    failure: str | None = None
    """Always None; see `ByteSource.failure`. Errors raised by the iterator propagate unchanged."""

    def __init__(
        self,
        pictures: Iterator[tuple[int, Picture]],
        *,
        time_base: Fraction,
        fps: float | None = None,
        duration_s: float | None = None,
    ) -> None:
        """Store the iterator; no picture is read yet.

        Args:
            pictures: Pairs of strictly increasing ticks and RGB uint8 pictures of shape (H, W, 3).
            time_base: Seconds per tick.
            fps: Frames per second, if constant.
            duration_s: Duration in seconds, if known.
        """
        self.pictures = pictures
        self.time_base = time_base
        self.fps = fps
        self.duration_s = duration_s
        self.is_aborted = False

    def abort(self) -> None:
        """Stop reading pictures."""
        self.is_aborted = True

    def close(self) -> None:
        """Close the iterator if it is a generator."""
        close = getattr(self.pictures, "close", None)
        if close is not None:
            close()


GivenVideo = str | Path | BinaryIO | GivenFrames
"""A video as accepted by `open_video`."""


class OpenedFrames:
    """Given pictures with the interface of `OpenedVideo`."""

    errors = 0
    missing_s = 0.0
    notes: tuple[str, ...] = ()
    orientation = UPRIGHT
    pixel_aspect = SQUARE

    def __init__(self, given: GivenFrames) -> None:
        """Read the first picture.

        Raises:
            MediaError: There is no picture.
        """
        self._given = given
        self.time_base = given.time_base
        first = next(given.pictures, None)
        if first is None:
            raise MediaError(f"{FRAMES_NAME}: got no pictures, expected at least one")
        self._first = first
        self._last_ticks = first[0]
        self._last_duration_ticks = max(round(1 / (given.fps or 25) / self.time_base), 1)
        height_px, width_px = first[1].shape[:2]
        self.info = VideoInfo(
            path=FRAMES_NAME,
            width_px=width_px,
            height_px=height_px,
            codec="rawvideo",
            source_fps=given.fps,
            start_s=float(first[0] * self.time_base),
            duration_s=given.duration_s,
        )

    @property
    def end_ticks(self) -> int:
        """End of the last picture, in ticks after the start of the first."""
        return self._last_ticks + self._last_duration_ticks - self._first[0]

    def frames(self, _rate: Fraction) -> Generator[tuple[VideoFrame, int]]:
        """Pictures with their presentation times, in ticks after the first one."""
        for ticks, picture in chain([self._first], self._given.pictures):
            if self._given.is_aborted:
                return
            if ticks != self._last_ticks:
                self._last_duration_ticks = ticks - self._last_ticks
            self._last_ticks = ticks
            yield VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"), ticks - self._first[0]

    def close(self) -> None:
        """No-op: see `GivenFrames.close`."""


def _is_file_object(video: object) -> bool:
    return callable(getattr(video, "read", None))


def _from_array(array: NDArray[Any], fps: float | None) -> GivenFrames:
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"video: got an array of {array.dtype}, shape {array.shape}; expected uint8 RGB, shape (T, H, W, 3)"
        )
    if fps is None:
        raise TypeError("video: an array needs its frames per second: detect(array, fps=25)")
    rate = exact_rate(fps)
    return GivenFrames(iter(enumerate(array)), time_base=1 / rate, fps=fps, duration_s=float(len(array) / rate))


def _from_iterable(video: Iterable[Any], fps: float | None) -> GivenFrames:
    items = iter(video)
    first = next(items, None)
    if isinstance(first, (str, os.PathLike)):
        raise TypeError(f"video: got {type(video).__name__} of paths; call detect_many for several videos")
    has_times = isinstance(first, tuple) and len(first) == 2
    if first is not None and not has_times and not hasattr(first, "__array__"):
        raise TypeError(f"video: got {type(video).__name__} of {type(first).__name__}; {EXPECTED}")
    if first is not None and not has_times and fps is None:
        raise TypeError("video: pictures without times need their frames per second: detect(pictures, fps=25)")
    if has_times and fps is not None:
        raise TypeError(f"fps={fps:g}: only for pictures without times")
    every = chain(() if first is None else (first,), items)
    if fps is not None:
        return GivenFrames(_numbered(every), time_base=1 / exact_rate(fps), fps=fps)
    return GivenFrames(_timed(every), time_base=_MICROSECOND)


def _numbered(pictures: Iterable[Any]) -> Iterator[tuple[int, Picture]]:
    for number, picture in enumerate(pictures):
        yield number, _checked(picture, number)


def _timed(pairs: Iterable[Any]) -> Iterator[tuple[int, Picture]]:
    last_ticks: int | None = None
    for number, (seconds, picture) in enumerate(pairs):
        ticks = round(float(seconds) / _MICROSECOND)
        if last_ticks is not None and ticks <= last_ticks:
            last_s = float(last_ticks * _MICROSECOND)
            raise ValueError(f"picture {number} is at {float(seconds):g} s; expected a time after {last_s:g} s")
        last_ticks = ticks
        yield ticks, _checked(picture, number)


def _checked(picture: object, number: int) -> Picture:
    array = np.asarray(picture)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"picture {number}: got {array.dtype}, shape {array.shape}; expected uint8 RGB of shape (H, W, 3)"
        )
    return array
