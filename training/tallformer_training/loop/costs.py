"""Targets of the windows of a training step, and losses of a forward pass, for every head."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import ContrastHeadConfig, HeadConfig, PointHeadConfig, Recipe, RefinedHeadConfig
from tallformer_training.augmentation import mirrored
from tallformer_training.datasets import TrainingVideo, crop_truth
from tallformer_training.loop.config import TrainingConfig
from tallformer_training.loop.plan import PlannedWindow
from tallformer_training.loop.step_classifier import step_labels
from tallformer_training.losses import detection_losses, point_losses, refined_losses
from tallformer_training.model import ContrastOutputs, Outputs, PointOutputs, RefinedOutputs
from tallformer_training.model.head import level_anchors
from tallformer_training.targets import (
    PointTargets,
    RefinedTargets,
    Targets,
    Truth,
    make_point_targets,
    make_refined_targets,
    make_targets,
)


@dataclass(frozen=True)
class Costs:
    """Losses of the windows of one forward pass, divided by its own normaliser."""

    total: Tensor
    """The loss to differentiate, a scalar."""
    classification: Tensor
    """Classification part: focal losses; for a refined head also those of quality and class."""
    segment: Tensor
    """Localization part; for a refined head also that of boundaries."""


def window_costs(
    outputs: Outputs,
    targets: Targets | RefinedTargets | PointTargets,
    anchors_frames: Tensor,
    config: TrainingConfig,
    *,
    recipe: Recipe,
) -> Costs:
    """Losses of the head's outputs for B windows.

    Args:
        outputs: Outputs of the head.
        targets: Targets of the windows, on any device.
        anchors_frames: Anchors of an anchor head, on the device of `outputs`, shape (A, 2).
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
    assert not isinstance(outputs, ContrastOutputs), "it cannot be trained"
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


@dataclass(frozen=True, eq=False)
class StepTargets:
    """Targets of some windows, and the normaliser of their losses."""

    targets: Targets | RefinedTargets | PointTargets
    """Targets of B windows."""
    normaliser: int
    """Anchor head: sum over windows of max(positive anchors, 1); refined head: number of windows; point head: number of
    positive positions, at least 1."""
    positive: int
    """Positive positions; windows without any count as 1."""


class TargetMaker:
    """Makes targets from the segments of a data set."""

    def __init__(
        self, recipe: Recipe, config: TrainingConfig, videos: Sequence[TrainingVideo], frames: Mapping[str, int]
    ) -> None:
        self._recipe = recipe
        self._config = config
        self._segments = {
            video.name: video.segments_frames(video.rate_fps(recipe.sampling), frames[video.name]) for video in videos
        }
        self._labels = {video.name: video.labels for video in videos}
        has_anchors = isinstance(recipe.model.head, HeadConfig)
        self.anchors_frames = recipe_anchors(recipe) if has_anchors else torch.zeros(0, 2)
        """Anchors (start, end) of all levels, shape (A, 2); empty for other heads."""

    def make(self, windows: Sequence[PlannedWindow]) -> StepTargets:
        """Targets of `windows`, on the CPU."""
        truths = [self._truth(window) for window in windows]
        truth = Truth.stack([segments for segments, _ in truths], [labels for _, labels in truths])
        recipe, classes = self._recipe, len(self._recipe.classes)
        strides = recipe.model.level_strides
        match recipe.model.head:
            case RefinedHeadConfig():
                refined = make_refined_targets(truth, level_strides=strides, window_frames=recipe.window.window_frames)
                return StepTargets(refined, len(windows), _count_positive(refined))
            case PointHeadConfig():
                points = make_point_targets(
                    truth, steps=recipe.finest_steps, level_strides=strides, classes=classes, config=self._config.points
                )
                return StepTargets(points, max(int(points.is_positive.sum()), 1), _count_positive(points))
            case HeadConfig():
                targets = make_targets(self.anchors_frames, truth, classes=classes, config=self._config.assignment)
                positive = _count_positive(targets)
                return StepTargets(targets, positive, positive)
            case ContrastHeadConfig():
                raise AssertionError("refused before: it cannot be trained")
            case _:
                assert_never(recipe.model.head)

    def mark_steps(self, windows: Sequence[PlannedWindow]) -> Tensor:
        """Actions in progress at each feature step of the encoded clips, shape (N, clip steps, K), 0 or 1."""
        recipe = self._recipe
        parts = [
            step_labels(
                self._segments[window.video],
                self._window_labels(window, self._labels[window.video]),
                first_frames=window.start_frame + np.array(window.encoded_clips, np.int64) * recipe.window.clip_frames,
                steps=recipe.clip_steps,
                stride=recipe.model.encoder_stride,
                classes=len(recipe.classes),
            )
            for window in windows
        ]
        return torch.cat(parts)

    def _window_labels(self, window: PlannedWindow, labels: NDArray[np.int64]) -> NDArray[np.int64]:
        if not window.is_mirrored:
            return labels
        return mirrored(labels, self._recipe.classes, self._config.augmentation.mirrored_classes)

    def _truth(self, window: PlannedWindow) -> tuple[Tensor, Tensor]:
        begin = max(window.start_frame, 0)  # steps before the video are left out before the localizer
        cropped = crop_truth(
            self._segments[window.video],
            self._labels[window.video],
            start_frame=begin,
            frames=window.start_frame + window.real_frames - begin,
            least_part=self._config.least_part,
        )
        labels = self._window_labels(window, cropped.labels)
        return torch.from_numpy(cropped.segments_frames), torch.from_numpy(labels)


def _count_positive(targets: Targets | RefinedTargets | PointTargets) -> int:
    return int(targets.is_positive.sum(dim=1).clamp(min=1).sum())


def recipe_anchors(recipe: Recipe) -> Tensor:
    """Anchors of a whole window, all levels, finest first, in frames, shape (A, 2)."""
    steps = recipe.finest_steps
    anchors = []
    for stride in recipe.model.level_strides:
        anchors.append(level_anchors(steps, stride, recipe.model.anchor_head))
        steps = -(-steps // 2)
    return torch.cat(anchors)
