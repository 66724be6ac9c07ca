"""Looks of sprites and backgrounds: outlines, patterns, textures and colours, each from one seed."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tallformer_training.synthetic.actions import FloatArray

FloatImage = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Outline = Callable[[FloatArray, FloatArray], BoolArray]

TEXTURE_PX = 64
_FINE_PX = 2 * TEXTURE_PX

TILE_PX = 256
TILE_HEIGHTS = 256 / 96
"""Side of the tile in picture heights: at 96 px one tile pixel is one picture pixel."""


@lru_cache(maxsize=64)
def draw_look(look_seed: int) -> tuple[FloatImage, ...]:
    """Draw the look of a seed.

    Returns:
        Textures of 64, 32, 16 and 8 px, each RGBA with colours 0-255 already multiplied by alpha in [0, 1], shape
        (L, L, 4), transparent at the border. The look fills the circle in the square and has no rotational symmetry:
        one of its sides is darker.
    """
    rng = np.random.default_rng(look_seed)
    axis = (np.arange(_FINE_PX) + 0.5) / _FINE_PX * 2 - 1
    x, y = np.meshgrid(axis * 1.06, axis * 1.06)  # the margin keeps the border transparent
    inside = _fit_to_circle(_draw_outline(rng))
    mask = inside(x, y)
    rgb = _draw_pattern(rng, x, y)
    heading = rng.uniform(0, math.tau)
    rgb *= np.clip(0.85 + 0.45 * (x * math.cos(heading) + y * math.sin(heading)), 0.4, 1.25)[:, :, None]
    rgb[mask & ~_shrunk(mask)] = rng.choice((10.0, 245.0))
    rgba = np.concatenate([np.clip(rgb, 0, 255), np.ones((_FINE_PX, _FINE_PX, 1))], axis=2) * mask[:, :, None]
    textures = [_halved(rgba)]
    while len(textures[-1]) > 8:
        textures.append(_halved(textures[-1]))
    return tuple(texture.astype(np.float32) for texture in textures)


def _draw_outline(rng: np.random.Generator) -> Outline:
    match int(rng.integers(4)):
        case 0:
            return _draw_person(rng)
        case 1:
            return _draw_blob(rng)
        case 2:
            return _draw_polygon(rng)
        case _:
            return _draw_compound(rng)


def _draw_person(rng: np.random.Generator) -> Outline:
    """Head, trunk, two arms and two legs, each limb at its own angle."""
    girth = rng.uniform(0.16, 0.25)
    parts = [((0.0, -0.75), (0.0, -0.75), rng.uniform(0.2, 0.3)), ((0.0, -0.35), (0.0, 0.15), 1.4 * girth)]
    for side in (-1, 1):
        arm, leg = rng.uniform(-1.2, 1.2), rng.uniform(0.1, 0.8)
        parts.append(((0.0, -0.35), (side * 0.65 * math.cos(arm), -0.35 + 0.65 * math.sin(arm)), 0.75 * girth))
        parts.append(((0.0, 0.15), (side * 0.8 * math.sin(leg), 0.15 + 0.8 * math.cos(leg)), girth))
    return _capsules(parts)


def _draw_blob(rng: np.random.Generator) -> Outline:
    waves = [(k, rng.uniform(0, 0.5 / k), rng.uniform(0, math.tau)) for k in range(1, 6)]

    def inside(x: FloatArray, y: FloatArray) -> BoolArray:
        angle = np.arctan2(y, x)
        radius = 0.8 + sum(amplitude * np.cos(k * angle + phase) for k, amplitude, phase in waves)
        return np.asarray(np.hypot(x, y) < np.maximum(radius, 0.25))

    return inside


def _draw_polygon(rng: np.random.Generator) -> Outline:
    """Corners at jittered angles; a star if every second one is near the centre."""
    corners = int(rng.integers(3, 9))
    angles = (np.arange(corners) + rng.uniform(-0.3, 0.3, corners)) * math.tau / corners
    radii = rng.uniform(0.6, 1, corners)
    if corners >= 6 and rng.random() < 0.6:
        radii[::2] *= 0.55
    corner_x, corner_y = radii * np.cos(angles), radii * np.sin(angles)

    def inside(x: FloatArray, y: FloatArray) -> BoolArray:
        odd = np.zeros(x.shape, bool)
        for here in range(corners):
            x0, y0, x1, y1 = corner_x[here - 1], corner_y[here - 1], corner_x[here], corner_y[here]
            odd ^= ((y0 > y) != (y1 > y)) & (x < (x1 - x0) * (y - y0) / (y1 - y0 + 1e-12) + x0)
        return odd

    return inside


def _draw_compound(rng: np.random.Generator) -> Outline:
    """Two to four connected thick strokes, like a letter."""
    here = (rng.uniform(-0.6, 0.6), rng.uniform(-0.6, 0.6))
    parts = []
    for _ in range(rng.integers(2, 5)):
        there = (rng.uniform(-0.8, 0.8), rng.uniform(-0.8, 0.8))
        parts.append((here, there, rng.uniform(0.25, 0.45)))
        here = there
    return _capsules(parts)


def _capsules(parts: list[tuple[tuple[float, float], tuple[float, float], float]]) -> Outline:
    """Union of all points within a radius of a line: (start, end, radius) each."""

    def inside(x: FloatArray, y: FloatArray) -> BoolArray:
        union = np.zeros(x.shape, bool)
        for (x0, y0), (x1, y1), radius in parts:
            length2 = (x1 - x0) ** 2 + (y1 - y0) ** 2 + 1e-12
            along = np.clip(((x - x0) * (x1 - x0) + (y - y0) * (y1 - y0)) / length2, 0, 1)
            union |= np.hypot(x - x0 - along * (x1 - x0), y - y0 - along * (y1 - y0)) < radius
        return union

    return inside


def _fit_to_circle(inside: Outline) -> Outline:
    """The same outline, moved and scaled to reach the unit circle."""
    axis = np.linspace(-1.8, 1.8, 181)
    x, y = np.meshgrid(axis, axis)
    mask = inside(x, y)
    x, y = x[mask], y[mask]
    centre_x, centre_y = (x.min() + x.max()) / 2, (y.min() + y.max()) / 2
    radius = np.hypot(x - centre_x, y - centre_y).max()
    return lambda x, y: inside(centre_x + x * radius, centre_y + y * radius)


def _draw_pattern(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> FloatArray:
    """Two colours in one of five patterns, shape (H, W, 3)."""
    colours = draw_colours(rng, 2, saturation=(0.15, 1), value=(0.25, 1))
    heading, rate, phase = rng.uniform(0, math.tau), rng.uniform(2, 5), rng.uniform(0, math.tau)
    along = x * math.cos(heading) + y * math.sin(heading)
    across = y * math.cos(heading) - x * math.sin(heading)
    match int(rng.integers(5)):
        case 0:
            part = 0.5 + 0.5 * np.sign(along - rng.uniform(-0.3, 0.3))
        case 1:
            part = 0.5 + 0.5 * np.sign(np.sin(math.pi * rate * along + phase))
        case 2:
            part = 0.5 + 0.5 * np.sign(np.sin(math.pi * rate * along + phase) * np.sin(math.pi * rate * across))
        case 3:
            part = (np.hypot(along - 0.3, across) < rng.uniform(0.25, 0.55)).astype(np.float64)
        case _:
            part = np.clip(0.5 + along, 0, 1)
    return np.asarray(colours[0] + part[:, :, None] * (colours[1] - colours[0]))


def _shrunk(mask: BoolArray) -> BoolArray:
    """The mask without a rim of four fine pixels."""
    inner = mask
    for _ in range(4):
        inner = inner & np.roll(inner, 1, 0) & np.roll(inner, -1, 0) & np.roll(inner, 1, 1) & np.roll(inner, -1, 1)
    return inner


def _halved(image: FloatArray) -> FloatArray:
    height, width, channels = image.shape
    return np.asarray(image.reshape(height // 2, 2, width // 2, 2, channels).mean(axis=(1, 3)))


def draw_colours(
    rng: np.random.Generator, count: int, *, saturation: tuple[float, float], value: tuple[float, float]
) -> FloatArray:
    """Draw colours of any hue with saturation and value (brightest channel) in the ranges given, each in [0, 1].

    Returns:
        RGB, 0-255, shape (count, 3).
    """
    hue, s, v = rng.uniform(0, 1, count), rng.uniform(*saturation, count), rng.uniform(*value, count)
    wheel = np.abs((hue[:, None] * 6 + np.array([0, 4, 2])) % 6 - 3) - 1  # (count, 3)
    pure = np.clip(wheel, 0, 1)
    return np.asarray(255 * v[:, None] * (1 - s[:, None] * (1 - pure)))


@lru_cache(maxsize=4)
def draw_background(background_seed: int) -> FloatImage:
    """Draw the background of a seed.

    Returns:
        RGB, 0-255, shape (256, 256, 3); the left edge continues the right one, the top the bottom.
    """
    rng = np.random.default_rng(background_seed)
    colours = draw_colours(rng, 3, saturation=(0.05, 0.7), value=(0.25, 0.9))
    colours = colours.mean(axis=0) + rng.uniform(0.35, 0.9) * (colours - colours.mean(axis=0))
    smooth = _cloud(rng, rng.uniform(1.2, 2.4))
    pattern = _draw_texture(rng)
    ground = colours[0] + smooth[:, :, None] * (colours[1] - colours[0])
    strength = rng.uniform(0.2, 0.9) * pattern[:, :, None]
    rgb = ground + strength * (colours[2] - ground)
    rgb += rng.uniform(0, 26) * (_cloud(rng, rng.uniform(0.3, 1.0))[:, :, None] - 0.5)
    return np.asarray(np.clip(rgb, 0, 255), np.float32)


def _cloud(rng: np.random.Generator, slope: float) -> FloatArray:
    """Noise whose amplitude falls with frequency to the power of `slope`, in [0, 1], shape (256, 256)."""
    frequency = np.hypot(np.fft.fftfreq(TILE_PX)[:, None], np.fft.rfftfreq(TILE_PX)[None, :]) * TILE_PX
    spectrum = np.fft.rfft2(rng.standard_normal((TILE_PX, TILE_PX))) / np.maximum(frequency, 1) ** slope
    spectrum[0, 0] = 0
    noise = np.fft.irfft2(spectrum, s=(TILE_PX, TILE_PX))
    return np.asarray(np.clip(0.5 + noise / (4 * noise.std()), 0, 1))


def _draw_texture(rng: np.random.Generator) -> FloatArray:
    """A drawing in [0, 1] over the whole tile, shape (256, 256)."""
    axis = np.arange(TILE_PX) / TILE_PX
    x, y = np.meshgrid(axis, axis)
    across, down = int(rng.integers(-9, 10)), int(rng.integers(1, 10))
    wave = np.sin(math.tau * (across * x + down * y) + 1.2 * np.sin(math.tau * (x + int(rng.integers(0, 3)) * y)))
    match int(rng.integers(6)):
        case 0:
            return np.zeros((TILE_PX, TILE_PX))
        case 1:
            return np.asarray(0.5 + 0.5 * np.sign(wave))
        case 2:
            return np.asarray(0.5 + 0.5 * wave)
        case 3:
            columns, rows = rng.integers(3, 14, 2)
            return np.asarray(0.5 + 0.5 * np.sign(np.sin(math.tau * columns * x) * np.sin(math.tau * rows * y)))
        case 4:
            return _discs(rng, x, y)
        case _:
            return np.asarray((_cloud(rng, 1.6) > rng.uniform(0.4, 0.65)).astype(np.float64))


def _discs(rng: np.random.Generator, x: FloatArray, y: FloatArray) -> FloatArray:
    """Some discs and boxes of many sizes, some as large as sprites."""
    drawn = np.zeros_like(x)
    for _ in range(rng.integers(8, 40)):
        away_x = np.abs((x - rng.uniform() + 0.5) % 1 - 0.5)
        away_y = np.abs((y - rng.uniform() + 0.5) % 1 - 0.5)
        radius = rng.uniform(0.02, 0.09)
        near = np.hypot(away_x, away_y) < radius if rng.random() < 0.5 else np.maximum(away_x, 2 * away_y) < radius
        drawn[near] = rng.uniform(0.3, 1)
    return drawn
