"""The official tiny detector as a recipe of ours, for tests against its numbers."""

from __future__ import annotations

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
from tallformer_infer.config.presets import THUMOS14_CLASSES

TINY_THUMOS = Recipe(
    name="golden-tiny",
    classes=THUMOS14_CLASSES,
    model=ModelConfig(
        backbone=BackboneConfig(embed_channels=24, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8)),
        channels=64,
        tcm=TcmConfig(heads=4),
        pyramid=PyramidConfig(heads=4, fpn_channels=32),
        head=HeadConfig(channels=32),
    ),
    sampling=SamplingConfig(resize="none", crop_px=64),
    window=WindowConfig(window_frames=96),
)
"""golden/thumos_tiny_config.json with the window of its 64 px video."""
