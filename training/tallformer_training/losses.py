"""Training losses of the anchor detector: focal loss for classes, DIoU loss for segments.

Source: TALLFormer (arXiv 2204.01680) and its official code, commit 5519140, Apache-2.0 (behaviour only); focal loss
arXiv 1708.02002, equation 5; DIoU arXiv 1911.08287, equation 7, in one dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tallformer_training.assignment import Targets
from tallformer_training.model.decoding import decode_segments
from tallformer_training.model.head import HeadOutputs

DIOU_EPSILON = 1e-6
LOG_OF_SMALLEST_FLOAT32 = math.log(torch.finfo(torch.float32).tiny)


@dataclass(frozen=True)
class Losses:
    """Losses of one batch, already divided by its number of positive anchors."""

    classification: Tensor
    """Focal loss per pyramid level, shape (levels,)."""
    segment: Tensor
    """DIoU loss per pyramid level, shape (levels,); 0 for a level without positive anchors."""

    @property
    def total(self) -> Tensor:
        """What is differentiated, a scalar."""
        return self.classification.sum() + self.segment.sum()


def detection_losses(outputs: HeadOutputs, anchors_frames: Tensor, targets: Targets, *, classes: int) -> Losses:
    """Compare the head's outputs of B windows with what their anchors should learn.

    Both losses are sums over anchors, divided by the sum over windows of max(positive anchors, 1).

    Args:
        outputs: What the head says about B windows.
        anchors_frames: Anchors (start, end) of all levels, finest first, shape (A, 2).
        targets: What the anchors learn.
        classes: Number of classes K.
    """
    per_level = [level.shape[1] // classes * level.shape[2] for level in outputs.logits]
    logits = torch.cat([_per_anchor(level, classes) for level in outputs.logits], dim=1).float()  # (B, A, K)
    deltas = torch.cat([_per_anchor(level, 2) for level in outputs.regressions], dim=1).float()  # (B, A, 2)
    is_positive = targets.is_positive
    normalizer = is_positive.sum(dim=1).clamp(min=1).sum()
    focal = focal_loss(logits, targets.labels).sum(dim=2) * targets.label_weights  # (B, A)
    # Only positive anchors take part; others get harmless numbers, because 0 times an infinite gradient is not 0.
    safe_deltas = torch.where(is_positive[..., None], deltas, 0.0)
    diou = diou_loss(decode_segments(anchors_frames, safe_deltas), targets.segments_frames) * is_positive  # (B, A)
    return Losses(
        torch.stack([part.sum() for part in torch.split(focal, per_level, dim=1)]) / normalizer,
        torch.stack([part.sum() for part in torch.split(diou, per_level, dim=1)]) / normalizer,
    )


def focal_loss(logits: Tensor, labels: Tensor, *, gamma: float = 2.0, alpha: float = 0.25) -> Tensor:
    """Sigmoid focal loss of every (anchor, class) pair.

    Args:
        logits: Class logits, shape (..., K).
        labels: Class indices, K for background, shape (...).
        gamma: Exponent that plays down what is already right, at least 0.
        alpha: Weight of the labelled class in [0, 1]; the others have 1 - alpha.

    Returns:
        Losses, same shape as `logits`.
    """
    is_labelled = F.one_hot(labels, logits.shape[-1] + 1)[..., :-1].bool()
    log_right = F.logsigmoid(torch.where(is_labelled, logits, -logits))
    # The reference takes ln(max(p, FLT_MIN)) of a labelled class but differentiates as if it were not floored.
    floored = torch.where(is_labelled, log_right.clamp(min=LOG_OF_SMALLEST_FLOAT32), log_right)
    log_right = log_right + (floored - log_right).detach()
    wrong = torch.sigmoid(torch.where(is_labelled, -logits, logits))
    return -torch.where(is_labelled, alpha, 1 - alpha) * wrong**gamma * log_right


def diou_loss(segments: Tensor, truth: Tensor) -> Tensor:
    """Distance-IoU loss: 1 - overlap + squared distance of the centres over squared length of the hull.

    Args:
        segments: Predicted segments (start, end), shape (..., 2).
        truth: Segments they should be, shape (..., 2), same unit.

    Returns:
        Losses from 0, shape (...).
    """
    start, end = segments.unbind(-1)
    true_start, true_end = truth.unbind(-1)
    shared = (torch.minimum(end, true_end) - torch.maximum(start, true_start)).clamp(min=0)
    union = (end - start) + (true_end - true_start) - shared
    hull = (torch.maximum(end, true_end) - torch.minimum(start, true_start)).clamp(min=0)
    distance = (start + end) / 2 - (true_start + true_end) / 2
    return 1 - shared / (union + DIOU_EPSILON) + distance**2 / (hull**2 + DIOU_EPSILON)


def _per_anchor(level: Tensor, channels: int) -> Tensor:
    return level.transpose(1, 2).reshape(len(level), -1, channels)  # (B, S * scales, channels)
