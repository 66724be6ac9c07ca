"""From decoded frames to RGB pictures of one size at the recipe's rate, through libavfilter.

# Note [the same pixels as ffmpeg]

The reference extracts frames with `ffmpeg -vf fps=15 -s 256x256`. The graph here holds the same filters in the same
order: rotation, `fps` (rounds to the nearest), `scale` with `flags=bicubic` (or `bilinear`, see `resize_filter`),
`format=rgb24`. Colour is left to that command's defaults on purpose, for the weights were trained on them: `scale`
takes matrix and range from what the stream is tagged with (BT.709 and full range included) and untagged video as
limited-range BT.601, whatever its size.
One thing differs: the grid of `fps` starts at the first frame instead of at time 0, so a file at the recipe's rate
that starts between two grid points, or has its times rounded to milliseconds, gives each of its frames exactly once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import assert_never, cast

import numpy as np
from av.error import BlockingIOError as NothingYetError
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media.orientation import Orientation
from tallformer_infer.structures import VideoInfo

MAX_DENOMINATOR = 1001
"""Rates are whole numbers or NTSC's n/1001."""


def exact_rate(rate_fps: float) -> Fraction:
    """A frame rate as a fraction: 29.97003 is 30000/1001."""
    return Fraction(rate_fps).limit_denominator(MAX_DENOMINATOR)


def resized_px(width_px: int, height_px: int, sampling: SamplingConfig) -> tuple[int, int]:
    """Width and height after resizing; the longer side rounds half up, as ffmpeg's `scale=-1:N` does."""
    side_px = sampling.resize_px
    match sampling.resize:
        case "squash":
            return side_px, side_px
        case "short_side" if width_px >= height_px:
            return (2 * side_px * width_px + height_px) // (2 * height_px), side_px
        case "short_side":
            return side_px, (2 * side_px * height_px + width_px) // (2 * width_px)
        case "none":
            return width_px, height_px
        case _:
            assert_never(sampling.resize)


class PictureSampler:
    """Takes decoded frames in order and gives cropped pictures at the recipe's rate."""

    def __init__(
        self,
        sampling: SamplingConfig,
        info: VideoInfo,
        *,
        time_base: Fraction,
        orientation: Orientation,
        threads: int | None = None,
    ) -> None:
        """Prepare for the frames of one stream.

        Args:
            sampling: The recipe's rate, resizing and crop.
            info: The video.
            time_base: Seconds per tick of the frames' times.
            orientation: How stored pictures become upright ones.
            threads: Threads of the filters; None lets them choose.

        Raises:
            MediaError: The resized picture is smaller than the crop.
        """
        self.count = 0
        """Pictures given so far."""
        self._sampling = sampling
        self._time_base = time_base
        self._orientation = orientation
        self._threads = threads
        self._path = info.path
        self._resized_px(info.width_px, info.height_px)
        self._graph: _FilterGraph | None = None
        self._last: VideoFrame | None = None

    def push(self, frame: VideoFrame, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """Take a frame that is shown from `ticks` on; give the pictures that are settled by it.

        Pictures are RGB, shape (crop_px, crop_px, 3), contiguous, and belong to the caller.

        Raises:
            MediaError: The picture has changed its size to one that is smaller than the crop.
        """
        traits = _Traits.of(frame)
        if self._graph is None or self._graph.traits != traits:
            # A new graph starts its grid at the time of its first frame, so the old one is run up to exactly there.
            yield from self._run_to(ticks)
            self._graph = self._build(traits)
        frame.pts = ticks
        self._last = frame
        yield from self._pull(self._graph, frame)

    def finish(self, end_ticks: int) -> Iterator[NDArray[np.uint8]]:
        """Give what remains; the last frame is shown until `end_ticks`. At least one picture comes of any video."""
        one_picture = int(1 / exact_rate(self._sampling.sample_fps) / self._time_base) + 1
        yield from self._run_to(end_ticks if self.count else max(end_ticks, one_picture))
        self._graph = self._last = None

    def _run_to(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        if self._graph is not None and self._last is not None:
            self._last.pts = ticks
            yield from self._pull(self._graph, self._last)

    def _pull(self, graph: _FilterGraph, frame: VideoFrame) -> Iterator[NDArray[np.uint8]]:
        for picture in graph.run(frame):
            self.count += 1
            yield _centre_crop(picture, self._sampling.crop_px)

    def _build(self, traits: _Traits) -> _FilterGraph:
        upright_px = self._orientation.upright_px(traits.width_px, traits.height_px)
        width_px, height_px = self._resized_px(*upright_px)
        steps = [
            *self._orientation.filters,
            ("fps", f"fps={exact_rate(self._sampling.sample_fps)}:round=near"),
            ("scale", f"w={width_px}:h={height_px}:flags={self._sampling.resize_filter}"),
            ("format", "pix_fmts=rgb24"),
        ]
        return _FilterGraph(traits, self._time_base, steps, threads=self._threads)

    def _resized_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        resized = resized_px(width_px, height_px, self._sampling)
        crop_px = self._sampling.crop_px
        if min(resized) < crop_px:
            raise MediaError(
                f"{self._path}: picture of {width_px}x{height_px} px is below the crop of {crop_px}x{crop_px} px "
                f"(resize={self._sampling.resize}); take a recipe that resizes, or has a smaller crop_px"
            )
        return resized


@dataclass(frozen=True)
class _Traits:
    """What a filter graph is built for; frames that differ need another graph."""

    width_px: int
    height_px: int
    pixel_format: str
    colour_space: int
    colour_range: int

    @staticmethod
    def of(frame: VideoFrame) -> _Traits:
        return _Traits(frame.width, frame.height, frame.format.name, int(frame.colorspace), int(frame.color_range))


class _FilterGraph:
    """A linear libavfilter graph."""

    def __init__(
        self, traits: _Traits, time_base: Fraction, steps: list[tuple[str, str]], *, threads: int | None
    ) -> None:
        self.traits = traits
        self._graph = Graph()
        if threads and hasattr(self._graph, "threads"):  # not in every PyAV that is supported
            self._graph.threads = threads
        self._source = self._graph.add(
            "buffer",
            video_size=f"{traits.width_px}x{traits.height_px}",
            pix_fmt=traits.pixel_format,
            time_base=f"{time_base.numerator}/{time_base.denominator}",
            pixel_aspect="1/1",
            colorspace=str(traits.colour_space),
            range=str(traits.colour_range),
        )
        self._sink: FilterContext = self._graph.add("buffersink")
        self._graph.link_nodes(self._source, *(self._graph.add(name, args) for name, args in steps), self._sink)
        self._graph.configure()

    def run(self, frame: VideoFrame) -> Iterator[VideoFrame]:
        """Put a frame in and take out what is ready."""
        self._source.push(frame)
        while True:
            try:
                picture = self._sink.pull()
            except NothingYetError:
                return
            assert isinstance(picture, VideoFrame)
            yield picture


def _centre_crop(picture: VideoFrame, crop_px: int) -> NDArray[np.uint8]:
    """The middle of an rgb24 picture, copied once: its lines are padded, and its memory goes back to a pool."""
    plane = picture.planes[0]
    lines = np.frombuffer(cast(memoryview, plane), np.uint8).reshape(picture.height, abs(plane.line_size))
    if plane.line_size < 0:  # stored bottom up
        lines = lines[::-1]
    pixels = lines[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)
    top, left = (picture.height - crop_px) // 2, (picture.width - crop_px) // 2
    crop: NDArray[np.uint8] = pixels[top : top + crop_px, left : left + crop_px].copy()
    return crop
