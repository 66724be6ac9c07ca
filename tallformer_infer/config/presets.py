"""Recipes that ship with the project.

Source: the official THUMOS14 configuration (commit 5519140, Apache-2.0) for Swin-B; Video Swin's published sizes for
Swin-S and Swin-T, which ship without a detector configuration there.
"""

from __future__ import annotations

from dataclasses import replace

from tallformer_infer.config.model import (
    BackboneConfig,
    HeadConfig,
    ModelConfig,
    PyramidConfig,
    TcmConfig,
)
from tallformer_infer.config.recipe import CandidateConfig, Recipe, SamplingConfig, WindowConfig
from tallformer_infer.errors import ConfigError

THUMOS14_CLASSES = (
    "BaseballPitch",
    "BasketballDunk",
    "Billiards",
    "CleanAndJerk",
    "CliffDiving",
    "CricketBowling",
    "CricketShot",
    "Diving",
    "FrisbeeCatch",
    "GolfSwing",
    "HammerThrow",
    "HighJump",
    "JavelinThrow",
    "LongJump",
    "PoleVault",
    "Shotput",
    "SoccerPenalty",
    "TennisSwing",
    "ThrowDiscus",
    "VolleyballSpiking",
)

SWIN_T = BackboneConfig(embed_channels=96, depths=(2, 2, 6, 2), heads=(3, 6, 12, 24), drop_path=0.1)
SWIN_S = replace(SWIN_T, depths=(2, 2, 18, 2))
SWIN_B = BackboneConfig(embed_channels=128, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), drop_path=0.2)

THUMOS14_SWIN_B = Recipe(name="thumos14-swin-b", classes=THUMOS14_CLASSES, model=ModelConfig(backbone=SWIN_B))
THUMOS14_SWIN_S = replace(THUMOS14_SWIN_B, name="thumos14-swin-s", model=ModelConfig(backbone=SWIN_S))
THUMOS14_SWIN_T = replace(THUMOS14_SWIN_B, name="thumos14-swin-t", model=ModelConfig(backbone=SWIN_T))
THUMOS14_SWIN_T_112 = replace(
    THUMOS14_SWIN_T,
    name="thumos14-swin-t-112",
    sampling=SamplingConfig(resize_px=128, crop_px=112),
)

GENERATED_CLASSES = ("bounce", "spin left", "spin right", "grow", "shrink", "orbit", "blink", "zigzag")
"""Actions of the generated videos (`tallformer_training.synthetic`)."""

DEMO = Recipe(
    name="demo",
    classes=GENERATED_CLASSES,
    model=ModelConfig(
        backbone=BackboneConfig(
            embed_channels=128,
            depths=(2,),
            heads=(4,),
            window=(16, 4, 4),
            patch=(2, 16, 16),
            stem="motion",
            pooling="max",
            drop_path=0.0,
            frozen_stages=-1,
        ),
        channels=128,
        tcm=TcmConfig(layers=2, heads=4, max_steps=64),
        pyramid=PyramidConfig(heads=4, fpn_channels=128),
        head=HeadConfig(channels=128, stacked_convs=2, scale_base=1.2),
    ),
    sampling=SamplingConfig(resize_px=64, crop_px=64),
    window=WindowConfig(window_frames=512),
    candidates=CandidateConfig(per_window=1000),
)
"""Small enough to learn from random weights on a processor; the bundled model."""

TINY = Recipe(
    name="tiny",
    classes=GENERATED_CLASSES,
    model=ModelConfig(
        backbone=BackboneConfig(
            embed_channels=16,
            depths=(1, 1, 1, 1),
            heads=(1, 2, 4, 8),
            window=(8, 3, 3),
            drop_path=0.0,
            frozen_stages=-1,
        ),
        channels=64,
        tcm=TcmConfig(layers=1, heads=4),
        pyramid=PyramidConfig(heads=4, fpn_channels=32),
        head=HeadConfig(channels=32, stacked_convs=2),
    ),
    sampling=SamplingConfig(resize_px=96, crop_px=96),
    candidates=CandidateConfig(per_window=1000, per_video=20_000),
)
"""Smallest whole model: to try the way of the data, and for tests."""

RECIPES = {
    recipe.name: recipe
    for recipe in (THUMOS14_SWIN_B, THUMOS14_SWIN_S, THUMOS14_SWIN_T, THUMOS14_SWIN_T_112, DEMO, TINY)
}


def preset(name: str) -> Recipe:
    """The recipe of that name.

    Raises:
        ConfigError: There is none; the message lists those there are.
    """
    try:
        return RECIPES[name]
    except KeyError:
        raise ConfigError(f"{name}: no such recipe; there are {', '.join(RECIPES)}") from None
