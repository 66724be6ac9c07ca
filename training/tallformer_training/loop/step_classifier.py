"""Classify the actions in progress at each feature step: an auxiliary task for random encoders.

# Note [a teacher for the encoder]
The paper's encoder is pretrained on Kinetics. A random one learns slowly through the localizer: most of the localizer's
input are old features from the memory, and few anchors are positive. A linear classifier of the actions in progress at
every encoded feature step gives every step a gradient of its own. It is not part of the saved weights, so nothing
changes at test time.

Source: own design; deep supervision (arXiv 1409.5185) is the idea.
"""

from __future__ import annotations

import math

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

_PRIOR = 0.05
"""Initial score of every class."""


class StepClassifier(nn.Module):
    """Class logits of every feature step."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, classes)
        nn.init.constant_(self.linear.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, features: Tensor) -> Tensor:
        """Map encoded clips (N, C, steps) to logits (N, steps, K)."""
        logits: Tensor = self.linear(features.transpose(1, 2))
        return logits


def step_labels(
    segments_frames: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    first_frames: NDArray[np.int64],
    steps: int,
    stride: int,
    classes: int,
) -> Tensor:
    """Actions in progress at the middle of each feature step of some clips.

    Args:
        segments_frames: Segments of the whole video, shape (N, 2).
        labels: Their classes, shape (N,).
        first_frames: First frame of each of K clips, shape (K,).
        steps: Feature steps per clip.
        stride: Frames per feature step.
        classes: Number of classes.

    Returns:
        1 for actions in progress, else 0, shape (K, steps, classes).
    """
    middles = first_frames[:, None] + stride * (np.arange(steps) + 0.5)  # (K, steps)
    inside = (segments_frames[:, 0] <= middles[..., None]) & (middles[..., None] < segments_frames[:, 1])
    marks = np.zeros((*middles.shape, classes), np.float32)
    for row, label in enumerate(labels.tolist()):
        marks[..., label] = np.maximum(marks[..., label], inside[..., row])
    return torch.from_numpy(marks)


def step_loss(logits: Tensor, marks: Tensor) -> Tensor:
    """Sum of the binary cross-entropies of all steps and classes, of shape (N, steps, K)."""
    return F.binary_cross_entropy_with_logits(logits.float(), marks.to(logits.device), reduction="sum")
