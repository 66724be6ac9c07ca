"""Which way up a picture is: the display matrix of phones and cameras."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Literal, cast

from av.video.frame import VideoFrame

Quarter = Literal[0, 90, 180, 270]


@dataclass(frozen=True)
class Orientation:
    """What to do to a stored picture so that it stands upright."""

    filters: tuple[tuple[str, str], ...] = ()
    """libavfilter filters and their arguments."""
    clockwise_deg: Quarter = 0
    """Turn that the filters make; a mirror image is not told here."""
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
    """The orientation that a frame's display matrix asks for, to the nearest quarter turn, mirroring included."""
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # PyAV below 19 fails on any frame with side data of a kind that it does not know
        return _from_angle(frame.rotation)
    return UPRIGHT if matrix is None else from_matrix(bytes(cast(memoryview, matrix)))


def from_matrix(data: bytes) -> Orientation:
    """The orientation of a display matrix: nine native 32-bit integers, rows (a, b, u), (c, d, v), (x, y, w).

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
