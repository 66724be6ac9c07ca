"""Training losses of the refined head.

Source: AFSD (Lin et al., CVPR 2021) without its contrastive term, as the official TALLFormer code has it for
ActivityNet (commit 5519140, Apache-2.0; behaviour only); generalised IoU after Rezatofighi et al. (arXiv 1902.09630),
in one dimension.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from tallformer_training.model import RefinedOutputs
from tallformer_training.refined_targets import NO_CLASS, RefinedTargets

_EPSILON = float(torch.finfo(torch.float32).eps)
_LOG_EPSILON = 1e-6
_ACTION_WEIGHT, _BACKGROUND_WEIGHT = 0.75, 0.25
_LEVEL_PART = 0.1
"""Weight of the boundaries on the finest level, beside those of the frames."""


@dataclass(frozen=True)
class RefinedLosses:
    """Losses of B windows, each divided by what its window has and averaged over the windows."""

    segment: Tensor
    """How far proposals are from their segments."""
    classification: Tensor
    """Whether a position is told to be in an action."""
    refined_segment: Tensor
    """How far refined proposals are."""
    refined_classification: Tensor
    """Whether a proposal is told to be good."""
    quality: Tensor
    """Whether it is told how well a refined proposal fits."""
    start: Tensor
    """Whether starts are told."""
    end: Tensor
    """Whether ends are told."""
    video_class: Tensor
    """Cross-entropy of the class of the window."""

    @property
    def total(self) -> Tensor:
        """What is differentiated, a scalar: the sum, as in the runs of the paper."""
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
    """Compare what the head says about B windows with what they should learn.

    Args:
        outputs: What the head says.
        targets: What the windows learn.
        refine_tiou: Overlap with its segment from which a proposal learns to be refined; where none reaches it, the
            best does.
    """
    distances, wanted = outputs.distances_frames.float(), targets.distances_frames
    is_positive = targets.is_positive
    positives = is_positive.sum(dim=1).clamp(min=1)  # (B,)
    # Only positive positions take part; others get harmless numbers, because 0 times an infinite gradient is not 0.
    near = torch.where(is_positive[..., None], distances, 1.0)
    goal = torch.where(is_positive[..., None], wanted, 1.0)
    is_refined = is_positive & _is_good(near, goal, is_positive, refine_tiou)
    refined = is_refined.sum(dim=1).clamp(min=1)
    half = near.sum(dim=-1, keepdim=True) / 2  # (B, A, 1)
    offsets = outputs.offsets.float()
    offset_goal = ((goal - near) / half).detach()
    by_offset = F.smooth_l1_loss(offsets, offset_goal, reduction="none").sum(dim=-1)
    # The goal of the quality is not detached, so its gradient moves segments as well, as in the official code. A
    # refined segment may end before it begins; its overlap then counts as 0.
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
    """Sums over positions (B, A) by window, divided by its count (B,), averaged."""
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
    """Overlap and union of segments that are given by distances from one position, shape (…, 2)."""
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
    """Of starts and of ends: on the frames, and with a small weight on the finest level in both branches."""
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
    """Mean over the windows, those without a class included as 0."""
    return F.cross_entropy(logits.float(), classes, ignore_index=NO_CLASS, reduction="sum") / len(classes)
