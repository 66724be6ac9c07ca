"""Orientation (display matrix) and colour tags of a decoded frame."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, cast

from av.video.frame import VideoFrame

Quarter = Literal[0, 90, 180, 270]
UNSPECIFIED = 2
"""Value of unspecified matrix, transfer and primaries; the scaler assumes BT.601."""
BT2020 = 9
SUPPORTED_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""Matrix coefficients that swscale 7 to 9 supports; all others are errors."""
NEAREST_MATRICES = {10: BT2020, 11: BT2020, 14: BT2020, 15: BT2020}
"""BT.2020 constant luminance, SMPTE 2085, ICtCp and IPT: all of wide-gamut video."""
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


@dataclass(frozen=True)
class Orientation:
    """Filters that turn a stored picture upright."""

    filters: tuple[tuple[str, str], ...] = ()
    """libavfilter filters and their arguments."""
    clockwise_deg: Quarter = 0
    """Rotation that the filters apply; mirroring is not included."""
    is_transposed: bool = False
    """Whether width and height change places."""

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
    except ValueError:  # PyAV below 19 fails on any frame with side data of a kind that it does not know
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
        What was replaced, one line; None if nothing was.
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
