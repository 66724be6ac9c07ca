"""Videos made for tests: pictures that carry their number, written by PyAV in any codec, rate and container."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.uint8]

NUMBER_BITS = 12
"""Stripes in a numbered picture: numbers 0 to 4095."""
FINE_TICKS = 90_000
"""Ticks per second of files whose frames are not on a regular grid from 0; a common multiple of the usual rates."""
RGB_PIXELS = {"ffv1": "bgr0", "libx264rgb": "rgb24", "png": "rgb24", "rawvideo": "rgb24"}
QUIET_OPTIONS = {
    "libx264": {"preset": "ultrafast", "crf": "18"},
    "libx264rgb": {"preset": "ultrafast", "qp": "0"},
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
}


def write_video(
    path: Path,
    frames: Iterable[Picture],
    *,
    fps: float | Fraction = 15,
    codec: str = "libx264",
    times_s: Sequence[float] | None = None,
    start_s: float = 0.0,
    pixel_format: str | None = None,
    rotation_deg: int = 0,
    display_matrix: Sequence[int] | None = None,
    codec_options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
    container_format: str | None = None,
) -> Path:
    """Write `frames` to `path`; the suffix names the container unless `container_format` does.

    Args:
        path: File to write.
        frames: RGB pictures, shape (H, W, 3), all of one size.
        fps: Frames per second; with `times_s` only what the header says.
        codec: `ffv1` (suffix .mkv, .avi or .nut) keeps every pixel; `libx264` is small.
        times_s: Presentation time of every frame in seconds, increasing; None puts frame i at `start_s + i / fps`.
        start_s: Presentation time of the first frame; without meaning when `times_s` is given.
        pixel_format: Stored pixel format; None chooses 4:2:0, or RGB for the lossless codecs.
        rotation_deg: Counter-clockwise quarter turns in the display matrix, as `VideoFrame.rotation` reads them.
        display_matrix: The nine integers themselves; takes the place of `rotation_deg`.
        codec_options: Added to the quiet and fast options of the codec, for example `{"bf": "3", "g": "10"}`.
        container_options: For the muxer, for example `{"movflags": "faststart"}`.
        container_format: Name of the muxer, for example `h264` for a bare stream.

    Returns:
        `path`.
    """
    rate = Fraction(fps).limit_denominator(1001)
    on_grid = times_s is None and start_s == 0
    time_base = 1 / rate if on_grid else Fraction(1, FINE_TICKS)
    pictures = iter(frames)
    first = next(pictures)
    with av.open(str(path), "w", format=container_format, container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pixel_format or RGB_PIXELS.get(codec, "yuv420p")
        stream.codec_context.time_base = time_base
        stream.codec_context.options = QUIET_OPTIONS.get(codec, {}) | (codec_options or {})
        if rotation_deg:
            stream.set_display_rotation(rotation_deg)
        if display_matrix is not None:
            stream.set_display_matrix(display_matrix)
        for index, picture in enumerate(_chain(first, pictures)):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            time_s = start_s + index / rate if times_s is None else times_s[index]
            frame.pts = round(Fraction(time_s) / time_base)
            frame.time_base = time_base
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def numbered_picture(number: int, *, height_px: int = 240, width_px: int = 320) -> Picture:
    """A picture whose number is written in black and white stripes over its middle; survives resizing and cropping.

    Returns:
        Picture, shape (height_px, width_px, 3). Left of the stripes it is red, right of them blue.
    """
    if not 0 <= number < 1 << NUMBER_BITS:
        raise ValueError(f"number={number} must fit in {NUMBER_BITS} bits")
    picture = np.zeros((height_px, width_px, 3), np.uint8)
    edges = _stripe_edges(width_px)
    picture[:, : edges[0]] = (200, 0, 0)
    picture[:, edges[-1] :] = (0, 0, 200)
    for bit in range(NUMBER_BITS):
        picture[:, edges[bit] : edges[bit + 1]] = 255 * (number >> bit & 1)
    return picture


def numbered_pictures(
    count: int, *, first: int = 0, height_px: int = 240, width_px: int = 320, noisy: bool = False
) -> Iterator[Picture]:
    """Pictures `first`, `first + 1`, …, made one at a time; a `noisy` one has an upper edge that weighs in the file."""
    random = np.random.default_rng(0)
    for number in range(first, first + count):
        picture = numbered_picture(number, height_px=height_px, width_px=width_px)
        if noisy:
            edge = picture[: height_px // 8]
            edge[:] = random.integers(0, 256, edge.shape, dtype=np.uint8)
        yield picture


def read_number(picture: Picture, *, shown_of_width: float = 1.0) -> int:
    """The number in a picture made by `numbered_picture`.

    Args:
        picture: RGB picture, shape (H, W, 3).
        shown_of_width: Part of the full width that a centre crop left, in (0.8, 1].
    """
    width = picture.shape[1]
    full = width / shown_of_width
    edges = np.array(_stripe_edges(10_000)) / 10_000 * full - (full - width) / 2
    middle = picture[picture.shape[0] // 4 : -(picture.shape[0] // 4)].astype(np.float32)
    number = 0
    for bit, (left, right) in enumerate(pairwise(edges)):
        margin = (right - left) / 4
        stripe = middle[:, int(left + margin) : max(int(right - margin), int(left + margin) + 1)]
        number |= int(stripe.mean() > 127) << bit
    return number


def noise_pictures(count: int, *, height_px: int, width_px: int, seed: int = 0) -> Iterator[Picture]:
    """Pictures of independent random pixels: what a lossless round trip must keep."""
    random = np.random.default_rng(seed)
    for _ in range(count):
        yield random.integers(0, 256, (height_px, width_px, 3), dtype=np.uint8)


def textured_pictures(count: int, *, height_px: int, width_px: int, seed: int = 0) -> Iterator[Picture]:
    """A coarse random texture that drifts: compresses like film, so decoding it costs like film."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (height_px // 8 + 1, 2 * width_px // 8 + 1, 3), dtype=np.uint8)
    texture = coarse.repeat(8, axis=0).repeat(8, axis=1)[:height_px]
    for index in range(count):
        left = (3 * index) % width_px
        yield np.ascontiguousarray(texture[:, left : left + width_px])


def cut_short(source: Path, target: Path, *, keep: float) -> Path:
    """Copy the first part of a file, as an interrupted transfer leaves it; `keep` in [0, 1]."""
    data = source.read_bytes()
    target.write_bytes(data[: int(len(data) * keep)])
    return target


def damage(source: Path, target: Path, *, places: Sequence[float], run_bytes: int = 64) -> Path:
    """Copy a file with `run_bytes` bytes inverted at each of `places`, given as parts of its length in [0, 1)."""
    data = bytearray(source.read_bytes())
    for place in places:
        at = int(len(data) * place)
        data[at : at + run_bytes] = bytes(255 - byte for byte in data[at : at + run_bytes])
    target.write_bytes(data)
    return target


def _chain(first: Picture, rest: Iterator[Picture]) -> Iterator[Picture]:
    yield first
    yield from rest


def _stripe_edges(width_px: int) -> list[int]:
    return [round(width_px * (0.125 + 0.75 * bit / NUMBER_BITS)) for bit in range(NUMBER_BITS + 1)]
