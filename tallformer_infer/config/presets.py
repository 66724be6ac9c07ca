"""Recipes that ship with the project.

Source: the official THUMOS14 and ActivityNet configurations (commit 5519140, Apache-2.0) for Swin-B; Video Swin's
published sizes for Swin-S and Swin-T, which ship without a detector configuration there; OpenTAD
(github.com/sming256/OpenTAD, commit 01c58b9, Apache-2.0; values only) for ActionFormer.
"""

from __future__ import annotations

from dataclasses import replace

from tallformer_infer.config.class_lists import ACTIVITYNET_CLASSES, KINETICS400_CLASSES, THUMOS14_CLASSES
from tallformer_infer.config.model import (
    BackboneConfig,
    ContrastHeadConfig,
    HeadConfig,
    I3dConfig,
    ModelConfig,
    PointHeadConfig,
    PyramidConfig,
    RefinedHeadConfig,
    TcmConfig,
)
from tallformer_infer.config.recipe import CandidateConfig, Recipe, SamplingConfig, SuppressConfig, WindowConfig
from tallformer_infer.errors import ConfigError

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

ANET_SWIN_B = Recipe(
    name="anet-swin-b",
    classes=ACTIVITYNET_CLASSES,
    model=ModelConfig(
        backbone=replace(SWIN_B, frozen_stages=-1),
        tcm=TcmConfig(max_steps=96),
        pyramid=PyramidConfig(kind="convolution", levels=6, fpn_channels=512, norm="group"),
        head=RefinedHeadConfig(kind="refined"),
    ),
    sampling=SamplingConfig(sample_fps=30.0, most_frames=768, fill="black"),
    window=WindowConfig(window_frames=768),
    candidates=CandidateConfig(per_window=2 * 189),
    suppress=SuppressConfig(
        method="soft_gaussian", sigma=0.85, score_threshold=1e-9, min_score=1e-9, max_per_video=5000
    ),
)
"""Whole videos of one class each, 189 proposals per window."""
ANET_SWIN_B_12GB = replace(ANET_SWIN_B, name="anet-swin-b-12gb")
"""The same model, trained with fewer clips at once: see `tallformer_training.loop.config`."""
ANET_SWIN_T = replace(
    ANET_SWIN_B, name="anet-swin-t", model=replace(ANET_SWIN_B.model, backbone=replace(SWIN_T, frozen_stages=-1))
)
HACS_SWIN_B = replace(
    ANET_SWIN_B,
    name="hacs-swin-b",
    model=replace(ANET_SWIN_B.model, head=RefinedHeadConfig(kind="refined", classes_per_proposal=1)),
    candidates=CandidateConfig(per_window=189),
)

I3D = I3dConfig(kind="i3d")
I3D_PIXELS = (127.5, 127.5, 127.5)
"""Mean and standard deviation: its Kinetics weights need pixels from -1 to 1."""
THUMOS14_I3D = replace(
    THUMOS14_SWIN_B,
    name="thumos14-i3d",
    model=replace(THUMOS14_SWIN_B.model, backbone=I3D),
    sampling=replace(THUMOS14_SWIN_B.sampling, resize_px=112, crop_px=96, mean=I3D_PIXELS, std=I3D_PIXELS),
)
"""AFSD's encoder at AFSD's 96 px, everything else as with Video Swin; the paper has no settings for it."""
ANET_I3D = replace(
    ANET_SWIN_B,
    name="anet-i3d",
    model=replace(ANET_SWIN_B.model, backbone=I3D),
    sampling=replace(ANET_SWIN_B.sampling, resize_px=112, crop_px=96, mean=I3D_PIXELS, std=I3D_PIXELS),
)

KINETICS400_I3D = Recipe(
    name="kinetics400-i3d",
    classes=KINETICS400_CLASSES,
    model=ModelConfig(
        backbone=I3D,
        tcm=None,
        head=ContrastHeadConfig(
            kind="contrast",
            lengths_steps=(6, 8, 9, 12, 15, 18, 23, 29, 36, 45, 56, 70, 87, 109, 136, 170, 187),
            stride_part=0.25,
            margin_part=0.5,
            least_margin_steps=2,
            most_margin_steps=48,
            margins="larger",
            logit_steps=3,
            smoothing_steps=1,
            inside_power=0.5,
            contrast_power=0.5,
        ),
    ),
    sampling=SamplingConfig(
        sample_fps=25.0, resize="short_side", resize_px=256, crop_px=224, mean=I3D_PIXELS, std=I3D_PIXELS, fill="edge"
    ),
    window=WindowConfig(window_frames=3072, clip_frames=64, overlap=0.75, ends_partly=True),
    candidates=CandidateConfig(per_window=2000),
    suppress=SuppressConfig(score_threshold=0.05, tiou_threshold=0.3),
)
"""I3D trained on Kinetics-400, with its own classifier; settings were measured in docs/kinetics.md."""
KINETICS400_I3D_FAST = replace(
    KINETICS400_I3D,
    name="kinetics400-i3d-fast",
    sampling=replace(KINETICS400_I3D.sampling, resize_px=128, crop_px=112),
)
"""The same weights on smaller pictures: half the work."""

ACTIONFORMER = PyramidConfig(kind="transformer", levels=6, heads=4, attention_steps=(), fpn_channels=512)
OPENTAD_SWIN_T = Recipe(
    name="thumos14-opentad-swin-t",
    classes=THUMOS14_CLASSES,
    model=ModelConfig(
        backbone=replace(SWIN_T, frozen_stages=-1), tcm=None, pyramid=ACTIONFORMER, head=PointHeadConfig(kind="points")
    ),
    sampling=SamplingConfig(resize="short_side", resize_px=224, resize_filter="bilinear", fill="edge"),
    window=WindowConfig(window_frames=1024, clip_frames=1024, overlap=0.5),
    candidates=CandidateConfig(per_window=2000),
    suppress=SuppressConfig(
        method="soft_gaussian", sigma=0.7, score_threshold=0.001, min_score=0.001, max_per_video=2000
    ),
)
"""OpenTAD's Video Swin-T with ActionFormer: a window of 68 s is a single clip."""

THUMOS14_SWIN_T_ACTIONFORMER = replace(
    OPENTAD_SWIN_T,
    name="thumos14-swin-t-actionformer",
    model=replace(OPENTAD_SWIN_T.model, backbone=SWIN_T),
    sampling=SamplingConfig(),
    window=WindowConfig(window_frames=1024, overlap=0.5),
)
"""Clips of 32 frames, suitable for a long memory, and ActionFormer."""
THUMOS14_SWIN_B_ACTIONFORMER = replace(
    THUMOS14_SWIN_T_ACTIONFORMER,
    name="thumos14-swin-b-actionformer",
    model=replace(OPENTAD_SWIN_T.model, backbone=SWIN_B),
)

GENERATED_CLASSES = ("bounce", "spin left", "spin right", "grow", "shrink", "orbit", "blink", "zigzag")
"""Actions of the generated videos (`tallformer_training.synthetic`)."""

MOTION_ENCODER = BackboneConfig(
    embed_channels=128,
    depths=(2,),
    heads=(4,),
    window=(16, 4, 4),
    patch=(2, 16, 16),
    stem="motion",
    pooling="max",
    drop_path=0.0,
    frozen_stages=-1,
)
"""For training from random weights: see decision 19 in docs/decisions.md."""

DEMO = Recipe(
    name="demo",
    classes=GENERATED_CLASSES,
    model=ModelConfig(
        backbone=MOTION_ENCODER,
        channels=128,
        tcm=TcmConfig(layers=2, heads=4, max_steps=64),
        pyramid=PyramidConfig(heads=4, fpn_channels=128),
        head=HeadConfig(channels=128, stacked_convs=2, scale_base=1.2),
    ),
    sampling=SamplingConfig(resize_px=64, crop_px=64),
    window=WindowConfig(window_frames=512),
    candidates=CandidateConfig(per_window=1000),
)
"""Small enough to train from random weights on a CPU; the bundled model."""

ANET_DEMO = replace(
    ANET_SWIN_B,
    name="anet-demo",
    classes=GENERATED_CLASSES,
    model=ModelConfig(
        backbone=replace(MOTION_ENCODER, embed_channels=80),
        channels=64,
        tcm=TcmConfig(layers=2, heads=4, max_steps=96),
        pyramid=PyramidConfig(kind="convolution", levels=6, fpn_channels=64, norm="group"),
        head=RefinedHeadConfig(kind="refined"),
    ),
    sampling=replace(ANET_SWIN_B.sampling, sample_fps=15.0, resize_px=64, crop_px=64),
)
"""Equally small, for whole videos of one class each."""

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
"""Smallest complete model, for tests of the pipeline."""

RECIPES = {
    recipe.name: recipe
    for recipe in (
        THUMOS14_SWIN_B,
        THUMOS14_SWIN_S,
        THUMOS14_SWIN_T,
        THUMOS14_SWIN_T_112,
        THUMOS14_I3D,
        ANET_SWIN_B,
        ANET_SWIN_B_12GB,
        ANET_SWIN_T,
        ANET_I3D,
        KINETICS400_I3D,
        KINETICS400_I3D_FAST,
        HACS_SWIN_B,
        OPENTAD_SWIN_T,
        THUMOS14_SWIN_T_ACTIONFORMER,
        THUMOS14_SWIN_B_ACTIONFORMER,
        DEMO,
        ANET_DEMO,
        TINY,
    )
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
