"""Anchor head: anchors, class logits and segment offsets for each, and decoding of them to segments with scores.

Source: RetinaNet (arXiv 1708.02002), over time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor, nn

from tallformer_infer.config import HeadConfig
from tallformer_training.model.pyramid import ConvNorm

_PRIOR = 0.01
"""Initial score of every anchor and class."""

MAX_LENGTH_DELTA = 1.0
"""Upper bound of the logarithmic length change; there is no lower bound. The official code applies it in training and
testing, so weights are trained with it."""


class HeadOutputs(NamedTuple):
    """Outputs of the head, per level, finest first."""

    logits: list[Tensor]
    """Per level (B, scales * K, S); channel `scale * K + class`."""
    regressions: list[Tensor]
    """Per level (B, scales * 2, S); channel `scale * 2` moves the centre, the next one scales the length."""


class AnchorHead(nn.Module):
    """Two convolution towers, shared by all levels, batch norm statistics included."""

    def __init__(self, in_channels: int, classes: int, config: HeadConfig) -> None:
        super().__init__()
        self.cls_convs = _tower(in_channels, config)
        self.reg_convs = _tower(in_channels, config)
        self.retina_cls = nn.Conv1d(config.channels, config.scales * classes, 3, padding=1)
        self.retina_reg = nn.Conv1d(config.channels, config.scales * 2, 3, padding=1)
        self._initialise()

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        """Run on each level (B, C, S), finest first.

        In training every batch norm processes levels one by one, with the statistics of that level.
        """
        return HeadOutputs(
            [self.retina_cls(self.cls_convs(level)) for level in levels],
            [self.retina_reg(self.reg_convs(level)) for level in levels],
        )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=0.01)
        for predictor in (self.retina_cls, self.retina_reg):
            assert predictor.bias is not None
            nn.init.zeros_(predictor.bias)
        assert self.retina_cls.bias is not None
        nn.init.constant_(self.retina_cls.bias, -math.log((1 - _PRIOR) / _PRIOR))


def _tower(in_channels: int, config: HeadConfig) -> nn.Sequential:
    # Batch norm whatever the pyramid's norm: the official head has no other.
    return nn.Sequential(
        *(
            ConvNorm(config.channels if index else in_channels, config.channels, 3, norm="batch", relu=True)
            for index in range(config.stacked_convs)
        )
    )


def level_anchors(steps: int, stride: int, config: HeadConfig, device: torch.device | None = None) -> Tensor:
    """Anchors of one level.

    Centres are at `step * stride`, *without* the usual half stride: the official code's offset is 0, and weights are
    trained with it. Anchors may extend beyond the window.

    Args:
        steps: Feature steps of the level.
        stride: Frames per step.
        config: Anchor lengths.
        device: Device of the result.

    Returns:
        Segments (start, end) in frames, shape (steps * scales, 2); all scales of a step before the next step.
    """
    scales = torch.tensor([2 ** (index / config.scales) for index in range(config.scales)], device=device)
    half = stride * config.scale_base * scales / 2
    base = torch.stack([-half, half], dim=-1)  # (scales, 2)
    centres = torch.arange(steps, device=device, dtype=torch.float32) * stride
    return (centres[:, None, None] + base).flatten(0, 1)


def anchors_in_video(steps: int, stride: int, config: HeadConfig, *, frames: int) -> Tensor:
    """Which anchors of a level start their stride within the first `frames` frames, bool, shape (steps * scales,).

    Training uses it with the padded length, so all are true. Nothing is masked at test time: anchors in the zero
    padding are kept, and may become segments of length 0 at the end of the video.
    """
    return (torch.arange(steps) < -(-frames // stride)).repeat_interleave(config.scales)


class Segments(NamedTuple):
    """Decoded segments of a batch of windows, with scores."""

    segments_frames: Tensor
    """(start, end) in frames of the whole video, shape (B, A, 2)."""
    scores: Tensor
    """Score in [0, 1] of each class, shape (B, A, K)."""


def decode_segments(anchors: Tensor, regressions: Tensor) -> Tensor:
    """Move and scale anchors.

    Args:
        anchors: Segments (start, end) in frames, shape (…, 2).
        regressions: Shift of the centre in anchor lengths, and logarithm of the length factor, shape (…, 2).

    Returns:
        Segments (start, end) in frames, shape (…, 2), not clamped to the window.
    """
    centre = (anchors[..., 0] + anchors[..., 1]) / 2
    length = anchors[..., 1] - anchors[..., 0]
    centre = centre + regressions[..., 0] * length
    half = length * regressions[..., 1].clamp(max=MAX_LENGTH_DELTA).exp() / 2
    return torch.stack([centre - half, centre + half], dim=-1)


def decode_windows(
    outputs: HeadOutputs,
    config: HeadConfig,
    *,
    strides: tuple[int, ...],
    anchors_per_level: int,
    window_start_frames: Tensor,
    real_frames: Tensor,
) -> Segments:
    """Decode a batch of windows.

    Segments are first clamped to the real frames of their window, then shifted to their position in the video.
    Anchors in the zero padding after the real frames are kept, and become segments of length 0.

    Args:
        outputs: Outputs of the head.
        config: Anchors.
        strides: Frames per step of each level.
        anchors_per_level: Anchors of each level to keep, those with the best class first; a level with no more anchors
            keeps all, in their order.
        window_start_frames: First frame of each window in the video, shape (B,).
        real_frames: Frames of each window that are not padding, shape (B,).

    Returns:
        Kept anchors of all levels, finest level first.
    """
    kept = [
        _decode_level(level_logits, level_regressions, config, stride=stride, keep=anchors_per_level)
        for level_logits, level_regressions, stride in zip(*outputs, strides, strict=True)
    ]
    segments = torch.cat([segments for segments, _ in kept], dim=1)
    scores = torch.cat([scores for _, scores in kept], dim=1)
    ends = real_frames.to(segments.dtype)[:, None, None]
    starts = window_start_frames.to(segments.dtype)[:, None, None]
    return Segments(torch.minimum(segments.clamp(min=0), ends) + starts, scores)


def _decode_level(logits: Tensor, regressions: Tensor, config: HeadConfig, *, stride: int, keep: int) -> Segments:
    """Decode one level to segments (B, A, 2) in frames of the window and scores (B, A, K)."""
    anchors = level_anchors(logits.shape[-1], stride, config, logits.device)  # (A, 2)
    scores = _per_anchor(logits, config.scales).sigmoid()
    deltas = _per_anchor(regressions, config.scales)
    if keep >= len(anchors):
        return Segments(decode_segments(anchors, deltas), scores)
    best = scores.amax(dim=-1).topk(keep, dim=-1).indices  # (B, keep)
    rows = best[..., None]
    segments = decode_segments(anchors[best], deltas.gather(1, rows.expand(-1, -1, 2)))
    return Segments(segments, scores.gather(1, rows.expand(-1, -1, scores.shape[-1])))


def _per_anchor(x: Tensor, scales: int) -> Tensor:
    """Turn (B, scales * N, S) into (B, S * scales, N), the order of the anchors."""
    values = x.shape[1] // scales
    return x.transpose(1, 2).reshape(-1, x.shape[-1] * scales, values)
