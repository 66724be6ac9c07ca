"""Which rates the localizer runs at, and what it found at each; see Note [feature rates] in `timeline`.

# Note [which rate answers for what]
A lower rate sees less of short actions, and its boundaries are coarser. It answers for what windows of the next higher
rate may cut: actions longer than two neighbouring windows share; all others are whole in one of them. A rate finds
pieces of what its windows cut, and suppression leaves them beside the whole, as they overlap it too little. So where a
lower rate follows, a rate answers for actions of up to half a window only. Measured on generated videos, see
`docs/demo.md`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tallformer_infer.config import Recipe, WindowConfig
from tallformer_infer.errors import ConfigError
from tallformer_infer.structures import Candidates, Layout, Windows

LARGEST_FACTOR = 100
"""Feature steps that may be averaged into one; that many clips wait in memory."""
_ROUNDED = 0.005
"""How far a rate may be from the one it stands for, as part of it: 1.67 for 15 / 9."""


def choose_layout(recipe: Recipe, windows: Windows, rates: Sequence[float] | None) -> Layout:
    """How a video is laid out for the localizer.

    Args:
        recipe: Of the model.
        windows: Where windows begin.
        rates: At which the localizer runs, in frames per second: the recipe's own, and whole parts of it. None: the
            recipe's own.

    Raises:
        ConfigError: A rate is none of those, or the recipe or `windows` allow only the recipe's own.
    """
    if rates is None:
        return Layout(windows)
    sampling = recipe.sampling
    if sampling.most_frames is not None:
        raise ConfigError(f"rates: the recipe {recipe.name} sees whole videos at once; its localizer has one rate")
    factors = tuple(sorted({_factor(rate, sampling.sample_fps) for rate in rates}))
    if not factors:
        raise ConfigError("rates: none was given")
    if factors != (1,) and (windows == "reference" or recipe.window.clips == 1):
        why = f"windows of the recipe {recipe.name} share none" if windows == "shared" else "windows=reference does not"
        raise ConfigError(f"rates: other than {sampling.sample_fps:g} need windows that share their clips; {why}")
    return Layout(windows, factors)


def rates_of(layout: Layout, recipe: Recipe) -> tuple[float, ...] | None:
    """Rates in frames per second, falling; None for the recipe's own only."""
    if layout.factors == (1,):
        return None
    return tuple(recipe.sampling.sample_fps / factor for factor in layout.factors)


def length_ranges(window: WindowConfig, step_frames: int, factors: tuple[int, ...]) -> dict[int, tuple[float, float]]:
    """Shortest and longest candidates that count at each factor, in frames; see Note [which rate answers for what].

    Args:
        window: Length of windows.
        step_frames: Between their starts.
        factors: Rising.
    """
    shared_frames = window.window_frames - step_frames
    half_frames = max(window.window_frames / 2, shared_frames)  # no length may be left to nobody
    shortest = [0.0, *(float(factor * shared_frames) for factor in factors[:-1])]
    longest = [*(factor * half_frames for factor in factors[:-1]), math.inf]
    return dict(zip(factors, zip(shortest, longest, strict=True), strict=True))


def in_video_frames(
    candidates: Candidates, factor: int, *, lengths_frames: tuple[float, float], frames: int
) -> Candidates:
    """Candidates of a window in frames of the video, without those that another rate answers for.

    Args:
        candidates: In frames of the window's rate.
        factor: Frames of the video in each.
        lengths_frames: Shortest and longest that count.
        frames: Of the video so far; a window of a lower rate may end up to `factor` frames later.
    """
    segments = candidates.segments_frames
    if factor > 1:
        segments = np.minimum(segments * np.float32(factor), np.float32(frames))
    scaled = Candidates(segments, candidates.scores, candidates.classes)
    lengths = segments[:, 1] - segments[:, 0]
    return scaled.take((lengths >= lengths_frames[0]) & (lengths <= lengths_frames[1]))


def _factor(rate: float, sample_fps: float) -> int:
    """How many feature steps become one at a rate."""
    if not 0 < rate < float("inf"):
        raise ConfigError(f"rates: {rate:g} must be above 0")
    factor = max(round(sample_fps / rate), 1)
    if factor > LARGEST_FACTOR:
        raise ConfigError(f"rates: {rate:g} must be at least {sample_fps / LARGEST_FACTOR:g} for this recipe")
    if abs(sample_fps / factor / rate - 1) <= _ROUNDED:
        return factor
    near = {max(int(sample_fps / rate), 1), int(sample_fps / rate) + 1}
    names = " and ".join(f"{sample_fps / part:.4g}" for part in sorted(near))
    raise ConfigError(
        f"rates: {rate:g} is not the recipe's {sample_fps:g} frames per second over a whole number; nearest: {names}"
    )
