"""What a forward pass costs, whatever the head."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from tallformer_infer.config import Recipe
from tallformer_training.assignment import Targets
from tallformer_training.losses import detection_losses
from tallformer_training.model import ContrastOutputs, Outputs, PointOutputs, RefinedOutputs
from tallformer_training.point_losses import point_losses
from tallformer_training.point_targets import PointTargets
from tallformer_training.refined_losses import refined_losses
from tallformer_training.refined_targets import RefinedTargets
from tallformer_training.training.config import TrainingConfig


@dataclass(frozen=True)
class Costs:
    """Losses of the windows of one forward pass, divided by its own normaliser."""

    total: Tensor
    """What is differentiated, a scalar."""
    classification: Tensor
    """The part that says what is shown: focal losses; of a refined head also those of quality and class."""
    segment: Tensor
    """The part that says when; of a refined head also that of boundaries."""


def window_costs(
    outputs: Outputs,
    targets: Targets | RefinedTargets | PointTargets,
    anchors_frames: Tensor,
    config: TrainingConfig,
    *,
    recipe: Recipe,
) -> Costs:
    """Compare what the head says about B windows with what they should learn.

    Args:
        outputs: What the head says.
        targets: What the windows learn, on any device.
        anchors_frames: Of an anchor head, on the device of `outputs`, shape (A, 2).
        config: Settings of the losses.
        recipe: Levels and classes.
    """
    if isinstance(outputs, RefinedOutputs):
        assert isinstance(targets, RefinedTargets), "targets of another head"
        refined = refined_losses(outputs, targets.to(outputs.class_logits.device), refine_tiou=config.refine_tiou)
        segment = refined.segment + refined.refined_segment + refined.start + refined.end
        return Costs(refined.total, refined.total - segment, segment)
    if isinstance(outputs, PointOutputs):
        assert isinstance(targets, PointTargets), "targets of another head"
        points = point_losses(
            outputs,
            targets.to(outputs.logits.device),
            steps=recipe.finest_steps,
            level_strides=recipe.model.level_strides,
        )
        segment = config.points.segment_weight * points.segment
        return Costs(points.classification + segment, points.classification, segment)
    assert isinstance(targets, Targets), "targets of another head"
    assert not isinstance(outputs, ContrastOutputs), "it is not trained"
    targets = _moved(targets, anchors_frames.device)
    losses = detection_losses(outputs, anchors_frames, targets, classes=len(recipe.classes))
    return Costs(losses.total, losses.classification.sum(), losses.segment.sum())


def _moved(targets: Targets, device: torch.device) -> Targets:
    return Targets(
        targets.assigned.to(device),
        targets.labels.to(device),
        targets.label_weights.to(device),
        targets.segments_frames.to(device),
    )
