"""Colour tags of frames, as far as FFmpeg's scaler knows them."""

from __future__ import annotations

from av.video.frame import VideoFrame

UNSPECIFIED = 2
"""Matrix, transfer and primaries that a file does not tell; the scaler takes BT.601."""
BT2020 = 9
SUPPORTED_MATRICES = frozenset({0, 1, 2, 4, 5, 6, 7, 9})
"""Matrix coefficients that swscale 7 to 9 convert; all others end in an error."""
NEAREST_MATRICES = {10: BT2020, 11: BT2020, 14: BT2020, 15: BT2020}
"""BT.2020 constant luminance, SMPTE 2085, ICtCp and IPT: all of wide-gamut video."""
DERIVED_MATRICES = frozenset({12, 13})
"""Matrices that follow from the primaries, with constant luminance or without."""
MATRIX_OF_PRIMARIES = {1: 1, 4: 4, 5: 5, 6: 6, 7: 7, 9: 9}
SUPPORTED_TRANSFERS = frozenset({1, 2, 4, 5, 6, 7, 8, *range(11, 19)})
"""Transfer characteristics that swscale 9 takes. It converts none to RGB, so which one it is does not matter."""
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


def make_supported(frame: VideoFrame) -> str | None:
    """Replace the colour tags of a frame that the scaler refuses by the nearest ones it takes.

    Transfer and primaries change no pixel on the way to RGB; they are removed, as swscale refuses some of them.

    Returns:
        What was replaced, one line; None where nothing was.
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
    """The nearest matrix that the scaler takes."""
    if matrix in SUPPORTED_MATRICES:
        return matrix
    if matrix in DERIVED_MATRICES:
        return MATRIX_OF_PRIMARIES.get(primaries, UNSPECIFIED)
    return NEAREST_MATRICES.get(matrix, UNSPECIFIED)


def _named(number: int, names: dict[int, str]) -> str:
    return f"{number} ({names[number]})" if number in names else str(number)
