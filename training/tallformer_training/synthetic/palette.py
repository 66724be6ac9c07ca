"""Colours."""

from __future__ import annotations

import numpy as np

from tallformer_training.synthetic.motions import FloatArray


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
