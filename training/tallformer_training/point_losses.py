"""Training losses of the point head: focal loss for classes, DIoU loss for segments.

Source: ActionFormer (Zhang et al., ECCV 2022, arXiv 2202.07925) as OpenTAD has it (github.com/sming256/OpenTAD, commit
3dd7b03, Apache-2.0; behaviour only).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tallformer_training.losses import diou_loss
from tallformer_training.model.point_head import PointOutputs, point_centres, point_segments
from tallformer_training.point_targets import PointTargets

_GAMMA, _ALPHA = 2.0, 0.25


@dataclass(frozen=True)
class PointLosses:
    """Losses of one batch, divided by the number of its positions that learn an action, at least 1."""

    classification: Tensor
    """Focal loss of all positions in their videos, a scalar."""
    segment: Tensor
    """DIoU loss of positions that learn an action, a scalar; 0 without any."""


def point_losses(
    outputs: PointOutputs, targets: PointTargets, *, steps: int, level_strides: tuple[int, ...]
) -> PointLosses:
    """Compare the head's outputs of B windows with what their positions should learn.

    Args:
        outputs: What the head says.
        targets: What the positions learn; behind the end of a video none learns anything.
        steps: Of the finest level.
        level_strides: Frames per step of each level.
    """
    is_positive = targets.is_positive & outputs.is_real
    focal = multi_label_focal(outputs.logits.float(), targets.classes).sum(dim=-1) * outputs.is_real
    centres, strides = (value.to(outputs.logits.device) for value in point_centres(steps, level_strides))
    # Only positive positions take part; others get harmless numbers, because 0 times an infinite gradient is not 0.
    safe = torch.where(is_positive[..., None], outputs.distances.float(), 1.0)
    goal = torch.where(is_positive[..., None], targets.segments_frames, point_segments(centres, strides, safe).detach())
    diou = diou_loss(point_segments(centres, strides, safe), goal) * is_positive
    count = targets.is_positive.sum().clamp(min=1)
    return PointLosses(focal.sum() / count, diou.sum() / count)


def multi_label_focal(logits: Tensor, targets: Tensor) -> Tensor:
    """Sigmoid focal loss where a position may have several classes.

    Args:
        logits: Shape (..., K).
        targets: 1 for the classes of a position, else 0, same shape.

    Returns:
        Losses, same shape.

    Source: arXiv 1708.02002, equation 5.
    """
    score = logits.sigmoid()
    missed = torch.where(targets > 0, 1 - score, score)
    weight = torch.where(targets > 0, _ALPHA, 1 - _ALPHA)
    return weight * missed**_GAMMA * F.binary_cross_entropy_with_logits(logits, targets, reduction="none")
