"""Contrast head: detection without trained localization, from a clip classifier's scores at each feature step.

# Note [contrast]
A class is likelier during an action than before and after it. Candidates are all segments of a fixed grid; their score
is the mean probability inside compared with the means in a margin on either side (outer-inner contrast). Means are
products of 0/1 matrices, (segments x steps) times (steps x classes), so the head consists of matrix products and
element-wise operators.

# Note [a segment's own window]
Windows overlap, and the margin of a segment near the end of one is complete only in the next. To make results
independent of the position of windows, each segment is scored in exactly one window: the one in which it starts between
`reach` and `reach + step` steps, where `reach` is the largest distance of steps that a score depends on, and `step` the
distance of windows. The first window also scores earlier segments, and the last one, which has frames after the video's
end (`WindowConfig.ends_partly`), later ones.

Source: outer-inner contrast, Shou et al., "AutoLoc" (ECCV 2018, arXiv 1807.08333), there a loss; idea only.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tallformer_infer.config import ContrastHeadConfig, Recipe
from tallformer_training.model.head import Segments

_LEAST_REAL_PART = 0.5
"""Smallest share of a segment inside the video, if it extends beyond its end, where it is cut off."""


class ContrastOutputs(NamedTuple):
    """Outputs of the classifier for B windows."""

    probabilities: Tensor
    """Smoothed probability of each class at each step, 0 after the video's end, shape (B, S, K)."""
    is_real: Tensor
    """1 for steps of the video and 0 after its end, shape (B, S)."""


class ContrastHead(nn.Module):
    """A linear classifier of feature steps, and segments scored by contrast; see Note [contrast]."""

    starts: Tensor
    lengths: Tensor
    margins: Tensor
    steps: Tensor

    def __init__(self, recipe: Recipe, config: ContrastHeadConfig) -> None:
        """Make the head with a random classifier.

        Args:
            recipe: Windows, clips and classes.
            config: Grid of segments and scoring.
        """
        super().__init__()
        self.config = config
        self.stride_frames = recipe.model.encoder_stride
        self.window_frames = recipe.window.window_frames
        self.home_steps = (config.reach_steps, config.reach_steps + recipe.window_step_steps)
        self.classifier = nn.Linear(recipe.model.backbone.out_channels, len(recipe.classes))
        rows = segment_grid(config, window_steps=recipe.window_steps, clip_steps=recipe.clip_steps)
        for name, column in zip(("starts", "lengths", "margins"), rows.unbind(1), strict=True):
            self.register_buffer(name, column.clone(), persistent=False)
        self.register_buffer("steps", torch.arange(float(recipe.window_steps)), persistent=False)

    def forward(self, features: Tensor, real_frames: Tensor) -> ContrastOutputs:
        """Classify each step.

        Args:
            features: Features of the encoder, shape (B, C, S).
            real_frames: Frames of each window that are not padding, shape (B,).
        """
        real_steps = (real_frames + (self.stride_frames - 1)) // self.stride_frames
        is_real = (self.steps < real_steps[:, None]).to(features.dtype)  # (B, S)
        logits = self._averaged(self.classifier(features.transpose(1, 2)), is_real, self.config.logit_steps)
        probabilities = (logits / self.config.temperature).softmax(dim=-1)
        return ContrastOutputs(self._averaged(probabilities, is_real, self.config.smoothing_steps), is_real)

    def decode(self, outputs: ContrastOutputs, window_start_frames: Tensor, real_frames: Tensor) -> Segments:
        """Score all segments of the grid; those of other windows, and those after the video's end, get 0.

        Args:
            outputs: From `forward`.
            window_start_frames: First frame of each window in the video, shape (B,).
            real_frames: Frames of each window that are not padding, shape (B,).
        """
        scores = self._scores(outputs)
        is_own = self._are_own(outputs, window_start_frames, real_frames)
        scores = scores * is_own[..., None].to(scores.dtype)
        ends = self.starts + self.lengths
        segments = torch.stack([self.starts, ends], dim=-1) * self.stride_frames  # (A, 2)
        limits = real_frames.to(scores.dtype)[:, None, None]
        return Segments(torch.minimum(segments, limits) + window_start_frames.to(scores.dtype)[:, None, None], scores)

    def _scores(self, outputs: ContrastOutputs) -> Tensor:
        """Scores of all segments, shape (B, A, K)."""
        config = self.config
        ends = self.starts + self.lengths
        inside, count = self._sums(outputs, self.starts, ends)
        inside = inside / count.clamp(min=1)
        sides = []
        for first, last in ((self.starts - self.margins, self.starts), (ends, ends + self.margins)):
            total, count = self._sums(outputs, first, last)
            margin = self.margins[:, None]
            sides.append((total + (margin - count) * config.edge_part * inside) / margin)
        outside = torch.maximum(*sides) if config.margins == "larger" else (sides[0] + sides[1]) / 2
        contrast = (inside - config.contrast_weight * outside).clamp(min=0)
        score = contrast if config.contrast_power == 1 else contrast**config.contrast_power
        return score if config.inside_power == 0 else score * inside**config.inside_power

    def _sums(self, outputs: ContrastOutputs, firsts: Tensor, lasts: Tensor) -> tuple[Tensor, Tensor]:
        """Sums of probabilities over steps [first, last), shape (B, A, K), and counts of real ones, shape (B, A, 1)."""
        is_inside = (self.steps >= firsts[:, None]) & (self.steps < lasts[:, None])  # (A, S), constant
        weights = is_inside.to(outputs.probabilities.dtype)
        return weights @ outputs.probabilities, (weights @ outputs.is_real[..., None])

    def _are_own(self, outputs: ContrastOutputs, window_start_frames: Tensor, real_frames: Tensor) -> Tensor:
        """Whether this window scores a segment, shape (B, A); see Note [a segment's own window]."""
        first, last = self.home_steps
        is_first = (window_start_frames == 0)[:, None]
        is_last = (real_frames < self.window_frames)[:, None]
        real_steps = outputs.is_real.sum(dim=1, keepdim=True)
        inside = real_steps - self.starts  # steps of the video from the segment's start
        is_long_enough = inside >= self.lengths * _LEAST_REAL_PART
        return (is_first | (self.starts >= first)) & (is_last | (self.starts < last)) & is_long_enough & (inside > 0)

    def _averaged(self, values: Tensor, is_real: Tensor, width: int) -> Tensor:
        """Averages of (B, S, K) over `width` steps, of which only real ones count; 0 for steps that are not real."""
        values, real = (values * is_real[..., None]).transpose(1, 2), is_real[:, None]
        if width == 1:
            return values.transpose(1, 2)
        means, counted = (F.avg_pool1d(x, width, stride=1, padding=width // 2) for x in (values, real))
        return (means / counted.clamp(min=1 / width) * real).transpose(1, 2)


def segment_grid(config: ContrastHeadConfig, *, window_steps: int, clip_steps: int) -> Tensor:
    """Candidates of a window: start, length and margin in steps, shape (A, 3), the shortest first.

    Segments that start in the window and end after it are included: the video may end earlier.
    """
    rows = [
        (start, length, config.margin_steps(length))
        for length in config.lengths_steps
        for start in range(0, window_steps, config.stride_steps(length, clip_steps))
    ]
    return torch.tensor(rows, dtype=torch.float32)  # half the size of int64 in an exported file
