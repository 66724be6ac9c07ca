"""What is behind the sprites: textures without seams, from one number, nothing else."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from tallformer_training.synthetic.motions import FloatArray
from tallformer_training.synthetic.palette import draw_colours

FloatImage = NDArray[np.float32]

TILE_PX = 256
TILE_HEIGHTS = 256 / 96
"""Side of the tile in picture heights: at 96 px its pixels are the picture's."""


@lru_cache(maxsize=4)
def draw_background(background_seed: int) -> FloatImage:
    """Draw the background with that number.

    Returns:
        RGB, 0-255, shape (256, 256, 3); the left edge continues the right one, the top the bottom.
    """
    rng = np.random.default_rng(background_seed)
    colours = draw_colours(rng, 3, saturation=(0.05, 0.7), value=(0.25, 0.9))
    colours = colours.mean(axis=0) + rng.uniform(0.35, 0.9) * (colours - colours.mean(axis=0))
    smooth = _cloud(rng, rng.uniform(1.2, 2.4))
    pattern = _draw_pattern(rng)
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


def _draw_pattern(rng: np.random.Generator) -> FloatArray:
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
