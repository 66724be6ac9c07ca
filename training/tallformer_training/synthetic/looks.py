"""What a sprite looks like: outline, pattern and colours from one number, nothing else."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tallformer_training.synthetic.motions import FloatArray
from tallformer_training.synthetic.palette import draw_colours

FloatImage = NDArray[np.float32]
BoolArray = NDArray[np.bool_]
Outline = Callable[[FloatArray, FloatArray], BoolArray]

TEXTURE_PX = 64
_FINE_PX = 2 * TEXTURE_PX


@lru_cache(maxsize=64)
def draw_look(look_seed: int) -> tuple[FloatImage, ...]:
    """Draw the look with that number.

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
    """Corners at jittered angles; a star where every second one is near the centre."""
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
    """Two to four thick strokes from one another's ends, like a letter."""
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
    """Two colours, laid out in one of five ways, shape (H, W, 3)."""
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
