"""What the positions of a window learn, for the point head.

Source: ActionFormer (Zhang et al., ECCV 2022, arXiv 2202.07925) as OpenTAD has it (github.com/sming256/OpenTAD, commit
3dd7b03, Apache-2.0; behaviour only).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tallformer_infer.errors import ConfigError
from tallformer_training.assignment import Truth
from tallformer_training.model.point_head import point_centres

_SAME_LENGTH = 1e-3
"""Segments that long, in strides of the finest level, beyond the shortest one teach their class as well."""


@dataclass(frozen=True, kw_only=True)
class PointConfig:
    """Which positions learn what, and what losses are divided by."""

    farthest: float = 4.0
    """Longest distance to an end that a level learns, in its strides; the next level begins there. The finest level
    learns from 0 on, the coarsest one without limit."""
    centre_radius: float = 1.5
    """How far from a segment's middle positions learn it, in strides of their level."""
    normaliser_momentum: float = 0.9
    """How slowly what losses are divided by follows the number of positions that learn an action, in [0, 1)."""
    segment_weight: float = 1.0
    """Weight of the loss of segments, beside that of classes."""

    def __post_init__(self) -> None:
        if not self.farthest > 0 or not self.centre_radius > 0:
            raise ConfigError(f"points: farthest={self.farthest}, centre_radius={self.centre_radius} must be above 0")
        if not 0 <= self.normaliser_momentum < 1:
            raise ConfigError(f"points: normaliser_momentum={self.normaliser_momentum} must be in [0, 1)")
        if not self.segment_weight >= 0:
            raise ConfigError(f"points: segment_weight={self.segment_weight} must be at least 0")


@dataclass(frozen=True)
class PointTargets:
    """What the A positions of B windows learn."""

    classes: Tensor
    """1 for the classes of a position, else 0, shape (B, A, K)."""
    segments_frames: Tensor
    """Segment of every position that learns one, 0 elsewhere, shape (B, A, 2)."""
    is_positive: Tensor
    """Whether a position learns an action, bool, shape (B, A)."""

    def to(self, device: torch.device) -> PointTargets:
        """The same on another device."""
        return PointTargets(self.classes.to(device), self.segments_frames.to(device), self.is_positive.to(device))


def make_point_targets(
    truth: Truth, *, steps: int, level_strides: tuple[int, ...], classes: int, config: PointConfig
) -> PointTargets:
    """Give every position the shortest segment (of equals the first) of those that suit it.

    A segment suits a position that is inside of it, at most `centre_radius` strides from its middle, and whose farther
    end is in the range of its level, both bounds included.

    Args:
        truth: Segments of B windows in frames of the window.
        steps: Of the finest level.
        level_strides: Frames per step of each level.
        classes: Number of classes K.
        config: Ranges.
    """
    centres, strides = point_centres(steps, level_strides)  # (A,)
    batch, count = truth.labels.shape
    if not count:
        nothing = centres.new_zeros(batch, len(centres))
        return PointTargets(
            nothing[..., None].expand(-1, -1, classes), nothing[..., None].expand(-1, -1, 2), nothing > 0
        )
    segments = truth.segments_frames.float()
    starts, ends = segments[:, None].unbind(-1)  # (B, 1, N)
    lengths = torch.where(_suits(starts, ends, centres, strides, level_strides, config), ends - starts, torch.inf)
    lengths = torch.where(truth.is_present[:, None], lengths, torch.inf)  # (B, A, N)
    shortest, row = lengths.min(dim=-1)  # (B, A); torch gives the first of equals
    is_positive = shortest.isfinite()
    limit = shortest + _SAME_LENGTH * level_strides[0]
    teaches = ((lengths <= limit[..., None]) & lengths.isfinite()).float()
    kinds = F.one_hot(truth.labels, classes).float()  # (B, N, K)
    chosen = segments.gather(1, row[..., None].expand(-1, -1, 2))
    return PointTargets(
        (teaches @ kinds).clamp(max=1),
        torch.where(is_positive[..., None], chosen, 0.0),
        is_positive,
    )


def _suits(
    starts: Tensor,
    ends: Tensor,
    centres: Tensor,
    strides: Tensor,
    level_strides: tuple[int, ...],
    config: PointConfig,
) -> Tensor:
    """Which segments suit which positions, bool, shape (B, A, N)."""
    at, reach = centres[:, None], config.centre_radius * strides[:, None]  # (A, 1)
    middle = (starts + ends) / 2
    from_left = at - torch.maximum(middle - reach, starts)
    from_right = torch.minimum(middle + reach, ends) - at
    farther = torch.maximum(at - starts, ends - at)
    lower = torch.where(strides > level_strides[0], config.farthest / 2 * strides, 0.0)[:, None]
    upper = torch.where(strides < level_strides[-1], config.farthest * strides, torch.inf)[:, None]
    return (torch.minimum(from_left, from_right) > 0) & (farther >= lower) & (farther <= upper)
