"""From what the head says to segments with scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tallformer_infer.config import HeadConfig
from tallformer_training.model.anchors import level_anchors
from tallformer_training.model.head import HeadOutputs

MAX_LENGTH_DELTA = 1.0
"""Upper bound of the logarithmic length change. There is no lower one. The official code has it in training and
testing, so weights are trained with it."""


class Segments(NamedTuple):
    """Anchors of a batch of windows that are kept, moved to where the head puts them."""

    segments_frames: Tensor
    """(start, end) in frames of the whole video, shape (B, A, 2)."""
    scores: Tensor
    """Score in [0, 1] of each class, shape (B, A, K)."""


def decode_segments(anchors: Tensor, regressions: Tensor) -> Tensor:
    """Move and stretch anchors.

    Args:
        anchors: Segments (start, end) in frames, shape (…, 2).
        regressions: Move of the centre in anchor lengths, and logarithm of the change of length, shape (…, 2).

    Returns:
        Segments (start, end) in frames, shape (…, 2), not limited to the window.
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

    Segments are limited to the real frames of their window first and moved to their place in the video afterwards.
    Anchors in the zero padding behind the real frames are kept, and with them segments of length 0 there.

    Args:
        outputs: What the head says.
        config: Anchors.
        strides: Frames per step of each level.
        anchors_per_level: Anchors of each level to keep, those with the best class first; if there are no more than
            that, all are kept in their own order.
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
