"""What a window's positions, boundaries and classifier learn, for the refined head.

Source: AFSD (Lin et al., CVPR 2021), as the official TALLFormer code has it for ActivityNet (commit 5519140,
Apache-2.0; behaviour only).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_training.assignment import Truth
from tallformer_training.model.proposals import level_steps, position_centres

NO_CLASS = -1
"""For the classifier: the window holds no segment, and teaches it nothing."""

_UPPER, _LOWER = 3.75, 0.9375
"""A level learns segments whose farther end is that many strides away: up to the first, from the second on."""
_LAST_LOWER = (0.75, 1.0)
"""The same for the last two levels, which learn up to the window's length."""
_BOUNDARY_PART, _LEAST_BOUNDARY_FRAMES = 10, 2
"""A boundary is a tenth of its segment wide, or two frames."""


@dataclass(frozen=True)
class RefinedTargets:
    """What B windows learn."""

    distances_frames: Tensor
    """From each position to start and end of its segment, 0 without one, shape (B, A, 2)."""
    is_positive: Tensor
    """Whether a position has a segment, bool, shape (B, A)."""
    boundaries: Tensor
    """Frames at starts, and at ends, 1 or 0, shape (B, 2, T)."""
    classes: Tensor
    """Class of the window: 0 for background, 1 + K's index, or `NO_CLASS`, int64, shape (B,)."""

    def to(self, device: torch.device) -> RefinedTargets:
        """The same on another device."""
        return RefinedTargets(
            self.distances_frames.to(device),
            self.is_positive.to(device),
            self.boundaries.to(device),
            self.classes.to(device),
        )


def make_refined_targets(truth: Truth, *, level_strides: tuple[int, ...], window_frames: int) -> RefinedTargets:
    """Collect what B windows learn.

    Args:
        truth: Their segments in frames of the window; the first segment's class is that of the window.
        level_strides: Frames per step of each level.
        window_frames: Frames of a window.
    """
    distances, is_positive = match_positions(truth, level_strides=level_strides, window_frames=window_frames)
    maps = [
        boundary_maps(segments[present].numpy(), window_frames)
        for segments, present in zip(truth.segments_frames.double(), truth.is_present, strict=True)
    ]
    classes = torch.full((len(truth.labels),), NO_CLASS, dtype=torch.int64)
    if truth.labels.shape[1]:
        classes = torch.where(truth.is_present[:, 0], truth.labels[:, 0] + 1, NO_CLASS)
    return RefinedTargets(distances, is_positive, torch.from_numpy(np.stack(maps)), classes)


def match_positions(truth: Truth, *, level_strides: tuple[int, ...], window_frames: int) -> tuple[Tensor, Tensor]:
    """Give every position the shortest segment (of equals the first) that holds it and suits its level.

    Returns:
        Distances to its start and end, 0 without one, shape (B, A, 2); whether it has one, shape (B, A).
    """
    centres = position_centres(window_frames, level_strides)  # (A,)
    batch, count = truth.labels.shape
    if not count:
        return centres.new_zeros(batch, len(centres), 2), centres.new_zeros((batch, len(centres)), dtype=torch.bool)
    starts, ends = truth.segments_frames.unbind(-1)  # (B, N)
    distances = torch.stack(
        [centres[None, :, None] - starts[:, None], ends[:, None] - centres[None, :, None]], dim=-1
    )  # (B, A, N, 2)
    lower, upper = level_bounds(level_strides, window_frames)
    farther = distances.amax(dim=-1)
    fits = (distances.amin(dim=-1) >= 0) & (farther > lower[:, None]) & (farther <= upper[:, None])
    fits = fits & truth.is_present[:, None]
    lengths = torch.where(fits, (ends - starts)[:, None], torch.inf)
    shortest, row = lengths.min(dim=-1)  # (B, A); torch gives the first of equals
    is_positive = shortest.isfinite()
    chosen = distances.gather(2, row[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    return torch.where(is_positive[..., None], chosen, 0.0), is_positive


def level_bounds(level_strides: tuple[int, ...], window_frames: int) -> tuple[Tensor, Tensor]:
    """How far away, in frames, the farther end of a position's segment is: above the first, at most the second, (A,).

    With the official strides (8 to 256) and 768 frames these are (0, 30], (15, 60], (30, 120], (60, 240], (96, 768]
    and (256, 768].
    """
    lower = [stride * _LOWER for stride in level_strides]
    upper = [stride * _UPPER for stride in level_strides]
    last = min(len(level_strides), len(_LAST_LOWER))
    for level, part in zip(range(-last, 0), _LAST_LOWER[-last:], strict=True):
        lower[level], upper[level] = level_strides[level] * part, float(window_frames)
    lower[0] = 0.0
    steps = torch.tensor(level_steps(window_frames, level_strides))
    return torch.tensor(lower).repeat_interleave(steps), torch.tensor(upper).repeat_interleave(steps)


def boundary_maps(segments_frames: NDArray[np.float64], window_frames: int) -> NDArray[np.float32]:
    """Mark the frames around the starts, and around the ends, of segments (N, 2); shape (2, T).

    Of a boundary beyond the window the nearest frame is marked, as in the official code.
    """
    maps = np.zeros((2, window_frames), np.float32)
    for segment in segments_frames.tolist():
        reach = max((segment[1] - segment[0]) / _BOUNDARY_PART, _LEAST_BOUNDARY_FRAMES) / 2
        for row, boundary in enumerate(segment):
            first, last = (min(max(round(edge), 0), window_frames - 1) for edge in (boundary - reach, boundary + reach))
            maps[row, first : last + 1] = 1
    return maps
