"""Training losses of the anchor head, the point head and the refined head.

Source: TALLFormer (arXiv 2204.01680) and its official code, commit 5519140, Apache-2.0 (behaviour only); focal loss
arXiv 1708.02002, equation 5; DIoU arXiv 1911.08287, equation 7, in one dimension. Point head: ActionFormer (Zhang et
al., ECCV 2022, arXiv 2202.07925) as in OpenTAD (github.com/sming256/OpenTAD, commit 3dd7b03, Apache-2.0; behaviour
only). Refined head: AFSD (Lin et al., CVPR 2021) without its contrastive term, as in the official TALLFormer code for
ActivityNet (behaviour only); generalised IoU after Rezatofighi et al. (arXiv 1902.09630), in one dimension.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tallformer_training.model import RefinedOutputs
from tallformer_training.model.head import HeadOutputs, decode_segments
from tallformer_training.model.point_head import PointOutputs, point_centres, point_segments
from tallformer_training.targets import NO_CLASS, PointTargets, RefinedTargets, Targets

DIOU_EPSILON = 1e-6
LOG_OF_SMALLEST_FLOAT32 = math.log(torch.finfo(torch.float32).tiny)

_GAMMA, _ALPHA = 2.0, 0.25

_EPSILON = float(torch.finfo(torch.float32).eps)
_LOG_EPSILON = 1e-6
_ACTION_WEIGHT, _BACKGROUND_WEIGHT = 0.75, 0.25
_LEVEL_PART = 0.1
"""Weight of the boundary loss of the finest level, relative to that of frames."""


@dataclass(frozen=True)
class Losses:
    """Losses of one batch, already divided by its number of positive anchors."""

    classification: Tensor
    """Focal loss per pyramid level, shape (levels,)."""
    segment: Tensor
    """DIoU loss per pyramid level, shape (levels,); 0 for a level without positive anchors."""

    @property
    def total(self) -> Tensor:
        """The loss to differentiate, a scalar."""
        return self.classification.sum() + self.segment.sum()


def detection_losses(outputs: HeadOutputs, anchors_frames: Tensor, targets: Targets, *, classes: int) -> Losses:
    """Losses of the anchor head for B windows.

    Both losses are sums over anchors, divided by the sum over windows of max(positive anchors, 1).

    Args:
        outputs: Outputs of the head for B windows.
        anchors_frames: Anchors (start, end) of all levels, finest first, shape (A, 2).
        targets: Targets of the anchors.
        classes: Number of classes K.
    """
    per_level = [level.shape[1] // classes * level.shape[2] for level in outputs.logits]
    logits = torch.cat([_per_anchor(level, classes) for level in outputs.logits], dim=1).float()  # (B, A, K)
    deltas = torch.cat([_per_anchor(level, 2) for level in outputs.regressions], dim=1).float()  # (B, A, 2)
    is_positive = targets.is_positive
    normalizer = is_positive.sum(dim=1).clamp(min=1).sum()
    focal = focal_loss(logits, targets.labels).sum(dim=2) * targets.label_weights  # (B, A)
    # Anchors that are not positive get harmless numbers, because 0 times an infinite gradient is not 0.
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
        gamma: Exponent that reduces the weight of easy examples, at least 0.
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
        truth: Segments of the ground truth, shape (..., 2), same unit.

    Returns:
        Losses, at least 0, shape (...).
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


@dataclass(frozen=True)
class PointLosses:
    """Losses of one batch, divided by the number of positive positions, at least 1."""

    classification: Tensor
    """Focal loss of all positions in their videos, a scalar."""
    segment: Tensor
    """DIoU loss of positive positions, a scalar; 0 if there are none."""


def point_losses(
    outputs: PointOutputs, targets: PointTargets, *, steps: int, level_strides: tuple[int, ...]
) -> PointLosses:
    """Losses of the point head for B windows.

    Args:
        outputs: Outputs of the head.
        targets: Targets of the positions; those after the end of a video do not count.
        steps: Steps of the finest level.
        level_strides: Frames per step of each level.
    """
    is_positive = targets.is_positive & outputs.is_real
    focal = multi_label_focal(outputs.logits.float(), targets.classes).sum(dim=-1) * outputs.is_real
    centres, strides = (value.to(outputs.logits.device) for value in point_centres(steps, level_strides))
    # Positions that are not positive get harmless numbers, because 0 times an infinite gradient is not 0.
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


@dataclass(frozen=True)
class RefinedLosses:
    """Losses of B windows, each divided by the count of its window and averaged over windows."""

    segment: Tensor
    """Localization loss of proposals."""
    classification: Tensor
    """Focal loss: is a position inside an action?"""
    refined_segment: Tensor
    """Localization loss of refined proposals."""
    refined_classification: Tensor
    """Focal loss: is a proposal good enough to be refined?"""
    quality: Tensor
    """Loss of the predicted quality of refined proposals."""
    start: Tensor
    """Loss of the boundary maps of starts."""
    end: Tensor
    """Loss of the boundary maps of ends."""
    video_class: Tensor
    """Cross-entropy of the class of the window."""

    @property
    def total(self) -> Tensor:
        """The loss to differentiate, a scalar: the sum, as in the runs of the paper."""
        return (
            self.segment
            + self.refined_segment
            + self.classification
            + self.refined_classification
            + self.quality
            + self.start
            + self.end
            + self.video_class
        )


def refined_losses(outputs: RefinedOutputs, targets: RefinedTargets, *, refine_tiou: float = 0.6) -> RefinedLosses:
    """Losses of the refined head for B windows.

    Args:
        outputs: Outputs of the head.
        targets: Targets of the windows.
        refine_tiou: Overlap with its segment from which a proposal learns to be refined; if none reaches it, the best
            one does.
    """
    distances, wanted = outputs.distances_frames.float(), targets.distances_frames
    is_positive = targets.is_positive
    positives = is_positive.sum(dim=1).clamp(min=1)  # (B,)
    # Positions that are not positive get harmless numbers, because 0 times an infinite gradient is not 0.
    near = torch.where(is_positive[..., None], distances, 1.0)
    goal = torch.where(is_positive[..., None], wanted, 1.0)
    is_refined = is_positive & _is_good(near, goal, is_positive, refine_tiou)
    refined = is_refined.sum(dim=1).clamp(min=1)
    half = near.sum(dim=-1, keepdim=True) / 2  # (B, A, 1)
    offsets = outputs.offsets.float()
    offset_goal = ((goal - near) / half).detach()
    by_offset = F.smooth_l1_loss(offsets, offset_goal, reduction="none").sum(dim=-1)
    # The target of the quality is not detached, so its gradient moves segments, too, as in the official code. A refined
    # segment may end before it starts; its overlap then counts as 0.
    overlap = _tiou(near + half * offsets, goal).clamp(min=0)
    quality = F.binary_cross_entropy_with_logits(outputs.quality_logits.float(), overlap, reduction="none")
    start, end = _boundary_losses(outputs, targets.boundaries)
    return RefinedLosses(
        segment=_mean((1 - _generalised_tiou(near, goal)) * is_positive, positives),
        classification=_mean(_focal(outputs.logits, is_positive), positives),
        refined_segment=_mean(by_offset * is_refined, refined),
        refined_classification=_mean(_focal(outputs.refined_logits, is_refined), refined),
        quality=_mean(torch.where(is_positive, quality, 0.0), positives),
        start=start,
        end=end,
        video_class=_class_loss(outputs.class_logits, targets.classes),
    )


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    """Sum over positions (B, A) of each window, divided by its count (B,), then averaged."""
    return (losses.sum(dim=1) / counts).mean()


def _is_good(near: Tensor, goal: Tensor, is_positive: Tensor, refine_tiou: float) -> Tensor:
    with torch.no_grad():
        overlap = torch.where(is_positive, _tiou(near, goal), -1.0)
        return overlap >= overlap.amax(dim=1, keepdim=True).clamp(max=refine_tiou)


def _focal(logits: Tensor, is_action: Tensor) -> Tensor:
    """Softmax focal loss of background and action, shape (B, A)."""
    right = logits.float().softmax(dim=-1).gather(-1, is_action.long()[..., None])[..., 0]
    weight = torch.where(is_action, _ACTION_WEIGHT, _BACKGROUND_WEIGHT)
    return -weight * (1 - right) ** 2 * (right + _LOG_EPSILON).log()


def _shared_and_union(near: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
    """Intersection and union of segments given as distances from one position, shape (…, 2)."""
    shared = torch.minimum(near, goal).sum(dim=-1)
    return shared, near.sum(dim=-1) + goal.sum(dim=-1) - shared


def _tiou(near: Tensor, goal: Tensor) -> Tensor:
    shared, union = _shared_and_union(near, goal)
    return shared / union.clamp(min=_EPSILON)


def _generalised_tiou(near: Tensor, goal: Tensor) -> Tensor:
    shared, union = _shared_and_union(near, goal)
    hull = torch.maximum(near, goal).sum(dim=-1)
    return shared / union.clamp(min=_EPSILON) - (hull - union) / hull.clamp(min=_EPSILON)


def _boundary_losses(outputs: RefinedOutputs, boundaries: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of starts and of ends: on frames, and with a small weight on the finest level of both branches."""
    step = outputs.frame_features.shape[-1] // outputs.segment_features.shape[-1]
    by_level = boundaries[..., ::step]
    parts = (
        (outputs.frame_features, boundaries, 1.0),
        (outputs.segment_features, by_level, _LEVEL_PART),
        (outputs.confidence_features, by_level, _LEVEL_PART),
    )
    losses = torch.zeros(2, device=boundaries.device)
    for features, marked, weight in parts:
        told = torch.stack([half.float().tanh().mean(dim=1) for half in features.chunk(2, dim=1)], dim=1)  # (B, 2, T)
        losses = losses + weight * F.binary_cross_entropy(told, marked, reduction="none").mean(dim=(0, 2))
    return losses[0], losses[1]


def _class_loss(logits: Tensor, classes: Tensor) -> Tensor:
    """Mean over all windows; those without a class count as 0."""
    return F.cross_entropy(logits.float(), classes, ignore_index=NO_CLASS, reduction="sum") / len(classes)
