"""Variants to train: heads on one encoder, with settings for some hundred actions and a CPU."""

from __future__ import annotations

from dataclasses import dataclass, replace

from benchmarks.real_training.videos import CLASSES
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import (
    CandidateConfig,
    HeadConfig,
    ModelConfig,
    PointHeadConfig,
    PyramidConfig,
    Recipe,
    RefinedHeadConfig,
    SamplingConfig,
    SuppressConfig,
    TcmConfig,
    WindowConfig,
    preset,
)
from tallformer_training.augmentation import NO_AUGMENTATION
from tallformer_training.loop import OptimiserConfig, TrainingConfig
from tallformer_training.schedule import ScheduleConfig

CLIP_FRAMES = 32
WINDOW_FRAMES = 480
GENERATED_WINDOW_FRAMES = 288
"""At 15 frames per second: 19.2 s, as 480 at 25."""
CHANNELS = 128
WINDOWS_PER_VIDEO, BATCH_WINDOWS = 2, 8
_I3D = preset("thumos14-i3d")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """A recipe with training settings."""

    name: str
    recipe: Recipe
    config: TrainingConfig
    has_quiet_tcm: bool = False
    """Initialise the last layer of every TCM branch to zero, so that the TCM is initially the identity."""


def generated_recipe() -> Recipe:
    """The encoder of the bundle `demo`, trained on generated video, with the anchor head."""
    demo = load_bundle("demo").recipe
    window = WindowConfig(window_frames=GENERATED_WINDOW_FRAMES, clip_frames=demo.window.clip_frames)
    tcm = TcmConfig(layers=2, heads=4, max_steps=GENERATED_WINDOW_FRAMES // demo.model.encoder_stride)
    base = encoder_recipe(side_px=demo.sampling.crop_px)
    return replace(
        base,
        name="ut-generated",
        model=replace(base.model, backbone=demo.model.backbone, tcm=tcm),
        sampling=demo.sampling,
        window=window,
    )


def encoder_recipe(*, side_px: int, sample_fps: float = 25.0) -> Recipe:
    """I3D at a picture size and a frame rate, with the anchor head."""
    return replace(
        _I3D,
        name=f"ut-i3d-{side_px}",
        classes=CLASSES,
        model=ModelConfig(
            backbone=_I3D.model.backbone,
            channels=CHANNELS,
            tcm=TcmConfig(layers=2, heads=4, max_steps=WINDOW_FRAMES // 8),
            pyramid=PyramidConfig(heads=4, fpn_channels=CHANNELS),
            head=HeadConfig(channels=CHANNELS, stacked_convs=2),
        ),
        sampling=SamplingConfig(
            sample_fps=sample_fps,
            resize="squash",
            resize_px=side_px,
            crop_px=side_px,
            mean=_I3D.sampling.mean,
            std=_I3D.sampling.std,
        ),
        window=WindowConfig(window_frames=WINDOW_FRAMES, clip_frames=CLIP_FRAMES),
        candidates=CandidateConfig(per_window=1000),
    )


def heads(base: Recipe, config: TrainingConfig) -> list[Variant]:
    """The heads of the table, with the encoder of `base`."""
    plain = replace(base, model=replace(base.model, tcm=None))
    points = ModelConfig(
        backbone=base.model.backbone,
        channels=CHANNELS,
        tcm=None,
        pyramid=PyramidConfig(
            kind="transformer", levels=5, heads=4, attention_steps=(), fpn_channels=CHANNELS, stem_layers=1
        ),
        head=PointHeadConfig(kind="points"),
    )
    refined = ModelConfig(
        backbone=base.model.backbone,
        channels=CHANNELS,
        tcm=base.model.tcm,
        pyramid=PyramidConfig(kind="convolution", levels=5, fpn_channels=CHANNELS, norm="group"),
        head=RefinedHeadConfig(kind="refined"),
    )
    soft = SuppressConfig(method="soft_gaussian", sigma=0.5, score_threshold=0.001, min_score=0.001)
    return [
        Variant(name="anchor", recipe=plain, config=config),
        Variant(name="anchor-tcm", recipe=base, config=config),
        Variant(name="anchor-tcm-quiet", recipe=base, config=config, has_quiet_tcm=True),
        Variant(name="points", recipe=replace(base, model=points, suppress=soft), config=config),
        Variant(name="refined", recipe=replace(base, model=refined, suppress=soft), config=config),
    ]


def frozen_config(*, epochs: int = 30, seed: int = 0, base_lr: float = 1e-3) -> TrainingConfig:
    """Settings of a run with a frozen encoder."""
    return TrainingConfig(
        ratio=0.0,
        epochs=epochs,
        windows_per_video=WINDOWS_PER_VIDEO,
        batch_windows=BATCH_WINDOWS,
        optimiser=OptimiserConfig(kind="adamw", base_lr=base_lr, encoder_factor=0.1, weight_decay=0.05),
        schedule=ScheduleConfig(period_epochs=epochs, min_factor=0.02, warmup_steps=50),
        smooth_schedule=True,
        max_gradient_norm=1.0,
        ema_decay=0.95,
        keep_encoder_norms=True,
        augmentation=NO_AUGMENTATION,
        checkpoint_every_steps=100_000,
        keep_checkpoints=1,
        loader_threads=1,
        seed=seed,
    )
