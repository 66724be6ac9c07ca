"""Point head: at every position of every level, the distances to the ends of its action, and its class.

Source: ActionFormer (Zhang et al., ECCV 2022, arXiv 2202.07925) as in OpenTAD (github.com/sming256/OpenTAD, commit
3dd7b03, Apache-2.0; behaviour only).
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tallformer_infer.config import PointHeadConfig
from tallformer_training.model.head import Segments
from tallformer_training.model.transformer_pyramid import ConvLayerNorm

_PRIOR = 0.01
"""Initial score of every position and class."""
FIRST_NORMALISER = 100.0
"""Initial normaliser of the losses, see `follow`."""


class PointOutputs(NamedTuple):
    """Outputs of the head for B windows; its A positions are those of all levels, finest first."""

    logits: Tensor
    """Logits of classes, shape (B, A, K)."""
    distances: Tensor
    """Distances from each position to start and end of its segment, in strides of its level, at least 0, (B, A, 2)."""
    is_real: Tensor
    """Whether a position is in the video, bool, shape (B, A)."""


class PointHead(nn.Module):
    """Two convolution towers, shared by all levels, and a scale per level."""

    loss_normaliser: Tensor

    def __init__(self, channels: int, config: PointHeadConfig, *, classes: int, levels: int) -> None:
        super().__init__()
        self.cls_convs = nn.ModuleList(ConvLayerNorm(channels, channels) for _ in range(config.stacked_convs))
        self.reg_convs = nn.ModuleList(ConvLayerNorm(channels, channels) for _ in range(config.stacked_convs))
        self.cls_head = nn.Conv1d(channels, classes, 3, padding=1)
        self.reg_head = nn.Conv1d(channels, 2, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.tensor(1.0)) for _ in range(levels))
        self.register_buffer("loss_normaliser", torch.tensor(FIRST_NORMALISER))
        assert self.cls_head.bias is not None
        nn.init.constant_(self.cls_head.bias, -math.log((1 - _PRIOR) / _PRIOR))

    def forward(self, levels: list[Tensor], masks: list[Tensor]) -> PointOutputs:
        """Run on each level.

        Args:
            levels: Shape (B, C, S), (B, C, S / 2), … (rounded up).
            masks: 1 for steps of the video and 0 after its end, shape (B, 1, S), (B, 1, S / 2), …
        """
        logits, distances = [], []
        for level, mask, scale in zip(levels, masks, self.scales, strict=True):
            what, where = level, level
            for cls_conv, reg_conv in zip(self.cls_convs, self.reg_convs, strict=True):
                what, where = cls_conv(what, mask), reg_conv(where, mask)
            logits.append(self.cls_head(what))
            distances.append((self.reg_head(where) * scale).relu())
        is_real = torch.cat(masks, dim=-1)[:, 0] > 0
        return PointOutputs(_rows(logits), _rows(distances), is_real)

    @torch.no_grad()
    def follow(self, positives: int, *, momentum: float) -> float:
        """Update the normaliser of the losses, a running mean of the number of positive positions.

        Args:
            positives: Positive positions of a training step, at least 1.
            momentum: Weight of the previous value, in [0, 1).

        Returns:
            The normaliser of this step.
        """
        self.loss_normaliser.mul_(momentum).add_((1 - momentum) * positives)
        return float(self.loss_normaliser)


def point_centres(steps: int, level_strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Positions of all levels, finest first.

    Centres are at `step * stride`, without half a stride: weights are trained this way.

    Args:
        steps: Steps of the finest level; each level has half of the previous one, rounded up.
        level_strides: Frames per step of each level.

    Returns:
        Frames of the window, and the stride of their level in frames, each of shape (A,).
    """
    centres, strides = [], []
    for stride in level_strides:
        centres.append(torch.arange(steps, dtype=torch.float32) * stride)
        strides.append(torch.full((steps,), float(stride)))
        steps = -(-steps // 2)
    return torch.cat(centres), torch.cat(strides)


def point_segments(centres_frames: Tensor, strides_frames: Tensor, distances: Tensor) -> Tensor:
    """Segments (start, end) in frames, not clamped to the window.

    Args:
        centres_frames: Shape (A,).
        strides_frames: Strides of the positions' levels, shape (A,).
        distances: Distances to start and end in strides, shape (B, A, 2).

    Returns:
        Shape (B, A, 2).
    """
    far = distances * strides_frames[:, None]
    return torch.stack([centres_frames - far[..., 0], centres_frames + far[..., 1]], dim=-1)


def decode_points(
    outputs: PointOutputs,
    *,
    steps: int,
    level_strides: tuple[int, ...],
    window_start_frames: Tensor,
    real_frames: Tensor,
) -> Segments:
    """Decode a batch of windows.

    Segments are first clamped to the real frames of their window, then shifted to their position in the video.
    Positions after the real frames get scores of 0.

    Args:
        outputs: Outputs of the head.
        steps: Steps of the finest level.
        level_strides: Frames per step of each level.
        window_start_frames: First frame of each window in the video, shape (B,).
        real_frames: Frames of each window that are not padding, shape (B,).
    """
    centres, strides = (value.to(outputs.distances) for value in point_centres(steps, level_strides))
    segments = point_segments(centres, strides, outputs.distances)
    ends = real_frames.to(segments.dtype)[:, None, None]
    starts = window_start_frames.to(segments.dtype)[:, None, None]
    scores = outputs.logits.sigmoid() * outputs.is_real[..., None].to(outputs.logits.dtype)
    return Segments(torch.minimum(segments.clamp(min=0), ends) + starts, scores)


def _rows(levels: list[Tensor]) -> Tensor:
    """Levels of (B, N, S) as rows (B, A, N)."""
    return torch.cat(levels, dim=-1).transpose(1, 2)
