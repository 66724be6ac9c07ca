"""A detector small enough for a test of its behaviour, with random weights."""

from __future__ import annotations

import torch
from torch import Tensor

from tallformer_infer.config import (
    BackboneConfig,
    HeadConfig,
    ModelConfig,
    PyramidConfig,
    Recipe,
    SamplingConfig,
    TcmConfig,
    WindowConfig,
)
from tallformer_training.model import Detector

SMALL = Recipe(
    name="small",
    classes=("run", "jump"),
    model=ModelConfig(
        backbone=BackboneConfig(
            embed_channels=16, depths=(2, 2), heads=(1, 2), window=(4, 3, 3), drop_path=0.2, frozen_stages=-1
        ),
        channels=32,
        tcm=TcmConfig(layers=2, heads=4, max_steps=16),
        pyramid=PyramidConfig(heads=4, levels=3, attention_steps=(3, 3), fpn_channels=32),
        head=HeadConfig(channels=32, stacked_convs=1),
    ),
    sampling=SamplingConfig(resize="none", crop_px=32),
    window=WindowConfig(window_frames=64, clip_frames=16),
)


def build(recipe: Recipe = SMALL, *, checkpointing: bool = False, seed: int = 0) -> Detector:
    """The detector with weights of that seed, in training mode."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Detector(recipe, checkpointing=checkpointing)


def numbers(*shape: int, seed: int = 0) -> Tensor:
    """Normal numbers of that shape and seed."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
