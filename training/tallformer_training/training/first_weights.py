"""Random weights that see motion from the first step: for an encoder that starts from nothing.

# Note [why plain random weights do not start]
With Swin's usual random weights a small encoder of small moving things stays at chance for a long time. A linear probe
shows why: the mean of its random features over space does not tell whether anything acts (`benchmarks/probe_start.py`).
Three things hide motion, and each has a remedy that needs no data but a few clips:

- A patch of two frames is projected as it is, so its colours drown what changes. Here its filters take the difference
  of both frames, with random filters in space.
- The norm behind them blows up the noise of patches in which nothing moves. Here a random bias holds it down: where
  little changes a token is about that bias, where much changes it is the change.
- What moves covers few patches, so the mean over space hardly changes. Here the last norm is scaled and shifted such
  that every channel has mean 0 and deviation 1 over the steps of some clips.

Linear layers are drawn for their width (Glorot), as Swin's fixed deviation of 0.02 is too small for few channels.

Source: own design; data-dependent scaling after Krähenbühl et al. (arXiv 1511.06856).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tallformer_training.model.backbone import VideoSwin
from tallformer_training.model.clips import encode_clips

_CHANGE_GAIN = 2.0
"""Deviation of a filter's answer to two frames that differ by 1 everywhere, as a multiple of that of a unit filter."""
_BIAS = 0.7
_SMALLEST = 1e-4


@torch.no_grad()
def see_motion(encoder: VideoSwin, *, seed: int) -> None:
    """Draw the encoder's weights anew; see Note [why plain random weights do not start].

    Args:
        encoder: With patches of two frames.
        seed: Makes the weights repeatable.

    Raises:
        ValueError: Patches are not of two frames.
    """
    projection = encoder.patch_embed.proj
    channels, colours, depth, height, width = projection.weight.shape
    if depth != 2:
        raise ValueError(f"expected patches of 2 frames, got {depth}")
    generator = torch.Generator().manual_seed(seed)
    deviation = _CHANGE_GAIN / math.sqrt(colours * height * width)
    filters = torch.randn(channels, colours, height, width, generator=generator) * deviation
    projection.weight.copy_(torch.stack([-filters, filters], dim=2))
    assert projection.bias is not None
    projection.bias.copy_(torch.randn(channels, generator=generator) * _BIAS)
    for module in encoder.modules():
        if isinstance(module, nn.Linear):
            bound = math.sqrt(6 / sum(module.weight.shape))
            module.weight.copy_((torch.rand(module.weight.shape, generator=generator) * 2 - 1) * bound)


@torch.no_grad()
def standardise_features(encoder: VideoSwin, clips: Iterable[Tensor]) -> None:
    """Scale and shift the last norm so that pooled features have mean 0 and deviation 1 in every channel.

    Args:
        encoder: In evaluation mode.
        clips: Batches of normalised RGB, shape (N, 3, F, H, W).
    """
    features = torch.cat([encode_clips(encoder, batch).transpose(0, 1).flatten(1) for batch in clips], dim=1)  # (C, N)
    mean, deviation = features.mean(dim=1), features.std(dim=1) + _SMALLEST
    encoder.norm.bias.sub_(mean).div_(deviation)
    encoder.norm.weight.div_(deviation)
