"""Convert decoded frames to RGB pictures of one size at the recipe's rate, with libavfilter.

# Note [the same pixels as ffmpeg]

The reference extracts frames with `ffmpeg -vf fps=15 -s 256x256`. Two graphs here apply the same filters: `fps` (rounds
to the nearest), then, for each selected frame, rotation, `scale` with `flags=bicubic` (or `bilinear`, see
`resize_filter`), and `format=rgb24`. A frame that is selected repeatedly (a still, a gap) is converted once. Colour
conversion deliberately uses that command's defaults, as the weights were trained on them: `scale` uses the matrix and
range that the stream is tagged with (including BT.709 and full range) and reads untagged video as limited-range BT.601,
whatever its size. For tags that it rejects, see `make_supported`.
One thing differs: the grid of `fps` starts at the first frame instead of at time 0, so a file at the recipe's rate
that starts between two grid points, or has its times rounded to milliseconds, gives each of its frames exactly once.

# Note [red, green and blue apart]

For an odd width, swscale interpolates chroma to every pixel, and then writes planar RGB (`gbrp`) with vector
instructions but `rgb24` without: 0.8 against 1.5 ms for 1280x720 to 455x256. Both use the same formula, so the graph
outputs planes, which are interleaved while cropping. This is done only if the height shrinks: for vertical filters of
one or two lines `rgb24` rounds differently. `test_planes_of_an_odd_width_are_the_pixels_of_rgb24` checks that both give
the same pixels.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, assert_never, cast

import numpy as np
from av.error import BlockingIOError as NothingYetError
from av.filter import Graph
from av.filter.context import FilterContext
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.structures import VideoInfo

SQUARE = Fraction(1)
"""Width over height of a square pixel."""
MAX_DENOMINATOR = 1001
"""Largest denominator of a frame rate: rates are whole numbers or NTSC's n/1001."""

_PLANES = "gbrp"
"""Planes of green, blue and red, in this order."""
Quarter = Literal[0, 90, 180, 270]
UNSPECIFIED = 2
"""Value of unspecified matrix, transfer and primaries; the scaler assumes BT.601."""
BT2020 = 9
SUPPORTED_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""Matrix coefficients that swscale 7 to 9 supports; all others are errors."""
NEAREST_MATRICES = {10: BT2020, 11: BT2020, 14: BT2020, 15: BT2020}
"""BT.2020 constant luminance, SMPTE 2085, ICtCp and IPT, all used for wide-gamut video."""
DERIVED_MATRICES = frozenset({12, 13})
"""Matrices derived from the primaries, with or without constant luminance."""
MATRIX_OF_PRIMARIES = {1: 1, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9}
SUPPORTED_TRANSFERS = frozenset({1, 2, 4, 5, 6, 7, 8, *range(11, 19)})
"""Transfer characteristics that swscale 9 accepts. The conversion to RGB does not depend on them."""
RANGES = frozenset({0, 1, 2})
"""Unspecified, limited and full; there are no others."""
_MATRIX_NAMES = {
    8: "YCgCo",
    10: "BT.2020 constant luminance",
    11: "SMPTE 2085",
    12: "derived from primaries",
    13: "derived from primaries, constant luminance",
    14: "ICtCp",
    15: "IPT-C2",
    16: "YCgCo-Re",
    17: "YCgCo-Ro",
}
_USED_NAMES = {1: "BT.709", 2: "BT.601", 4: "FCC", 5: "BT.601", 6: "BT.601", 7: "SMPTE 240M", 9: "BT.2020"}
_TRANSFER_NAMES = {9: "logarithmic 100:1", 10: "logarithmic 316:1"}


def exact_rate(rate_fps: float) -> Fraction:
    """Frame rate as a fraction: 29.97003 is 30000/1001."""
    return Fraction(rate_fps).limit_denominator(MAX_DENOMINATOR)


def resized_px(
    width_px: int, height_px: int, sampling: SamplingConfig, *, pixel_aspect: Fraction = SQUARE
) -> tuple[int, int]:
    """Width and height after resizing; the longer side is rounded half up, like ffmpeg's `scale=-1:N`.

    Args:
        width_px: Width of the picture.
        height_px: Height of the picture.
        sampling: Resizing mode and size. Only `short_side` keeps the displayed aspect ratio.
        pixel_aspect: Width of a pixel over its height.
    """
    side_px = sampling.resize_px
    wide, high = width_px * pixel_aspect.numerator, height_px * pixel_aspect.denominator
    match sampling.resize:
        case "squash":
            return side_px, side_px
        case "short_side" if wide >= high:
            return (2 * side_px * wide + high) // (2 * high), side_px
        case "short_side":
            return side_px, (2 * side_px * high + wide) // (2 * wide)
        case "none":
            return width_px, height_px
        case _:
            assert_never(sampling.resize)


class PictureSampler:
    """Turn decoded frames into cropped pictures at the recipe's rate."""

    def __init__(
        self,
        sampling: SamplingConfig,
        info: VideoInfo,
        *,
        time_base: Fraction,
        orientation: Orientation,
        pixel_aspect: Fraction = SQUARE,
        threads: int | None = None,
    ) -> None:
        """Prepare for the frames of one stream.

        Args:
            sampling: The recipe's rate, resizing and crop.
            info: The video.
            time_base: Seconds per tick of the frames' times.
            orientation: How stored pictures become upright ones.
            pixel_aspect: Width of a stored pixel over its height.
            threads: Filter threads; None leaves the number to libavfilter.

        Raises:
            MediaError: The resized picture is smaller than the crop.
        """
        self.count = 0
        """Pictures yielded so far."""
        self.notes: dict[str, None] = {}
        """Notes on the pictures, one line each."""
        self._sampling = sampling
        self._time_base = time_base
        self._orientation = orientation
        self._threads = threads
        self._path = info.path
        self._pixel_aspect = 1 / pixel_aspect if orientation.is_transposed else pixel_aspect
        self._resized_px(info.width_px, info.height_px)
        self._picker: _FilterGraph | None = None
        self._converter: _FilterGraph | None = None
        self._traits: _Traits | None = None
        self._last: VideoFrame | None = None
        self._picked: VideoFrame | None = None
        self._picture: NDArray[np.uint8] | None = None

    def push(self, frame: VideoFrame, ticks: int) -> Iterator[NDArray[np.uint8]]:
        """Add a frame that is shown from `ticks` on; yield the pictures that are final as a result.

        Pictures are RGB uint8, shape (crop_px, crop_px, 3), contiguous, and owned by the caller.

        Raises:
            MediaError: The picture size changed to one smaller than the crop.
        """
        note = make_supported(frame)
        if note:
            self.notes[note] = None
        traits = _Traits.of(frame)
        if self._traits != traits:
            # A new graph starts its grid at the time of its first frame, so run the old one up to that time.
            yield from self._run_to(ticks)
            self._build(traits)
        frame.pts = ticks
        self._last = frame
        yield from self._pull(frame)

    def finish(self, end_ticks: int) -> Iterator[NDArray[np.uint8]]:
        """Yield the remaining pictures; the last frame is shown until `end_ticks`. Every video yields at least one."""
        one_picture = math.ceil(1 / (2 * exact_rate(self._sampling.sample_fps) * self._time_base))  # rounds to 1
        yield from self._run_to(end_ticks if self.count else max(end_ticks, one_picture))
        self._picker = self._converter = self._traits = self._last = self._picked = self._picture = None

    def _run_to(self, ticks: int) -> Iterator[NDArray[np.uint8]]:
        if self._last is not None:
            self._last.pts = ticks
            yield from self._pull(self._last)

    def _pull(self, frame: VideoFrame) -> Iterator[NDArray[np.uint8]]:
        assert self._picker is not None, "built with the first frame"
        for picked in self._picker.run(frame):
            self.count += 1
            yield self._convert(picked)

    def _convert(self, picked: VideoFrame) -> NDArray[np.uint8]:
        """Convert a frame, or copy the last picture if the frame is the same; holding the frame keeps its buffer."""
        assert self._converter is not None, "built with the first frame"
        if self._picture is not None and self._picked is not None and _is_same(self._picked, picked):
            return self._picture.copy()
        (converted,) = self._converter.run(picked)
        self._picked, self._picture = picked, _centre_crop(converted, self._sampling.crop_px)
        return self._picture.copy()

    def _build(self, traits: _Traits) -> None:
        upright_px = self._orientation.upright_px(traits.width_px, traits.height_px)
        width_px, height_px = self._resized_px(*upright_px)
        pick = [("fps", f"fps={exact_rate(self._sampling.sample_fps)}:round=near")]
        has_planes = width_px % 2 == 1 and height_px < upright_px[1]  # see Note [red, green and blue apart]
        convert = [
            *self._orientation.filters,
            ("scale", f"w={width_px}:h={height_px}:flags={self._sampling.resize_filter}"),
            ("format", f"pix_fmts={_PLANES if has_planes else 'rgb24'}"),
        ]
        self._picker = _FilterGraph(traits, self._time_base, pick, threads=1)
        self._converter = _FilterGraph(traits, self._time_base, convert, threads=self._threads)
        self._traits, self._picked, self._picture = traits, None, None

    def _resized_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        resized = resized_px(width_px, height_px, self._sampling, pixel_aspect=self._pixel_aspect)
        crop_px = self._sampling.crop_px
        if min(resized) < crop_px:
            raise MediaError(
                f"{self._path}: picture of {width_px}x{height_px} px is below the crop of {crop_px}x{crop_px} px "
                f"(resize={self._sampling.resize}); use a recipe that resizes, or has a smaller crop_px"
            )
        return resized


@dataclass(frozen=True)
class _Traits:
    """Properties that a filter graph is built for; a frame with other properties needs a new graph."""

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
        self._graph = Graph()
        if threads and hasattr(self._graph, "threads"):  # missing in some supported versions of PyAV
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
        """Push a frame and yield what is ready."""
        self._source.push(frame)
        while True:
            try:
                picture = self._sink.pull()
            except NothingYetError:
                return
            assert isinstance(picture, VideoFrame)
            yield picture


def _is_same(one: VideoFrame, other: VideoFrame) -> bool:
    """Whether two frames are references to the same memory."""
    return one is other or one.planes[0].buffer_ptr == other.planes[0].buffer_ptr


def _centre_crop(picture: VideoFrame, crop_px: int) -> NDArray[np.uint8]:
    """Copy the centre of an RGB picture, whose lines are padded and whose buffer returns to a pool."""
    top, left = (picture.height - crop_px) // 2, (picture.width - crop_px) // 2
    rows, columns = slice(top, top + crop_px), slice(left, left + crop_px)
    crop = np.empty((crop_px, crop_px, 3), np.uint8)
    if picture.format.name == _PLANES:
        green, blue, red = (_lines(picture, number)[rows, columns] for number in range(3))
        crop[:, :, 0], crop[:, :, 1], crop[:, :, 2] = red, green, blue
    else:
        pixels = _lines(picture, 0)[:, : 3 * picture.width].reshape(picture.height, picture.width, 3)
        crop[:] = pixels[rows, columns]
    return crop


def _lines(picture: VideoFrame, number: int) -> NDArray[np.uint8]:
    """Lines of a plane from top to bottom, with their padding."""
    plane = picture.planes[number]
    lines = np.frombuffer(cast(memoryview, plane), np.uint8).reshape(picture.height, abs(plane.line_size))
    return lines if plane.line_size >= 0 else lines[::-1]  # stored bottom up


@dataclass(frozen=True)
class Orientation:
    """Filters that turn a stored picture upright."""

    filters: tuple[tuple[str, str], ...] = ()
    """libavfilter filters and their arguments."""
    clockwise_deg: Quarter = 0
    """Rotation that the filters apply, without mirroring."""
    is_transposed: bool = False
    """Whether width and height are swapped."""

    def upright_px(self, width_px: int, height_px: int) -> tuple[int, int]:
        """Width and height as shown."""
        return (height_px, width_px) if self.is_transposed else (width_px, height_px)


UPRIGHT = Orientation()


_MIRRORED = Orientation((("hflip", ""),))


_UPSIDE_DOWN = Orientation((("hflip", ""), ("vflip", "")), 180)


_FLIPPED = Orientation((("vflip", ""),))


_QUARTERS = {
    # (sign of the matrix' upper right, of its lower left): libavfilter's transpose direction
    (True, False): Orientation((("transpose", "dir=clock"),), 90, is_transposed=True),
    (False, True): Orientation((("transpose", "dir=cclock"),), 270, is_transposed=True),
    (True, True): Orientation((("transpose", "dir=cclock_flip"),), 90, is_transposed=True),
    (False, False): Orientation((("transpose", "dir=clock_flip"),), 270, is_transposed=True),
}


def orientation_of(frame: VideoFrame) -> Orientation:
    """Orientation from a frame's display matrix, to the nearest quarter turn, including mirroring."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV before 19 fails on any frame with side data of an unknown type
        return _from_angle(frame.rotation)
    return UPRIGHT if matrix is None else from_matrix(bytes(cast(memoryview, matrix)))


def from_matrix(data: bytes) -> Orientation:
    """Orientation from a display matrix: nine native 32-bit integers, rows (a, b, u), (c, d, v), (x, y, w).

    A stored pixel (p, q), q downwards, is shown at (a p + c q + x, b p + d q + y).

    Source: FFmpeg's documentation of libavutil/display.h.
    """
    a, b, _, c, d = struct.unpack_from("=5i", data)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        match a < 0, d < 0:
            case True, True:
                return _UPSIDE_DOWN
            case True, False:
                return _MIRRORED
            case False, True:
                return _FLIPPED
        return UPRIGHT
    return _QUARTERS[b > 0, c > 0]


def _from_angle(counterclockwise_deg: int) -> Orientation:
    quarters = round(-counterclockwise_deg / 90) % 4
    return (UPRIGHT, _QUARTERS[True, False], _UPSIDE_DOWN, _QUARTERS[False, True])[quarters]


def make_supported(frame: VideoFrame) -> str | None:
    """Replace colour tags that the scaler rejects with the nearest ones it supports.

    Transfer and primaries do not affect the conversion to RGB; they are cleared, as swscale rejects some values.

    Returns:
        One line describing what was replaced; None if nothing was.
    """
    notes = []
    if int(frame.color_range) not in RANGES:
        frame.color_range = 0
    matrix, primaries = int(frame.colorspace), int(getattr(frame, "color_primaries", UNSPECIFIED))
    used = supported_matrix(matrix, primaries)
    if used != matrix:
        frame.colorspace = used
        notes.append(f"colour matrix {_named(matrix, _MATRIX_NAMES)} is not supported; read as {_USED_NAMES[used]}")
    if hasattr(frame, "color_trc"):
        transfer = int(frame.color_trc)
        frame.color_trc, frame.color_primaries = UNSPECIFIED, UNSPECIFIED
        if transfer not in SUPPORTED_TRANSFERS:
            notes.append(f"colour transfer {_named(transfer, _TRANSFER_NAMES)} is not supported; ignored")
    return "; ".join(notes) or None


def supported_matrix(matrix: int, primaries: int) -> int:
    """Nearest matrix that the scaler supports."""
    if matrix in SUPPORTED_MATRICES:
        return matrix
    if matrix in DERIVED_MATRICES:
        return MATRIX_OF_PRIMARIES.get(primaries, UNSPECIFIED)
    return NEAREST_MATRICES.get(matrix, UNSPECIFIED)


def _named(number: int, names: dict[int, str]) -> str:
    return f"{number} ({names[number]})" if number in names else str(number)
