"""Anchors: fixed segments at every step of every pyramid level, in frames of the window."""

from __future__ import annotations

import torch
from torch import Tensor

from tallformer_infer.config import HeadConfig


def level_anchors(steps: int, stride: int, config: HeadConfig, device: torch.device | None = None) -> Tensor:
    """Anchors of one level.

    Centres are at `step * stride`, *without* the usual half stride: the official code's offset is 0, and weights are
    trained with it. Anchors may reach beyond the window.

    Args:
        steps: Feature steps of the level.
        stride: Frames per step.
        config: Anchor lengths.
        device: Where to make them.

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

    Training uses it with the padded length, where it is all true. Nothing is masked at test time: anchors in the
    zero padding stay, and may become segments of length 0 at the end of the video.
    """
    return (torch.arange(steps) < -(-frames // stride)).repeat_interleave(config.scales)
