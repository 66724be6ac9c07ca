"""Settings of training that belong to the recipes that ship with the project.

Source: the official configurations (commit 5519140, Apache-2.0; values only), and the paper for the ratio of 12 GB;
OpenTAD's for ActionFormer (github.com/sming256/OpenTAD, commit 01c58b9, Apache-2.0; values only).
"""

from __future__ import annotations

from dataclasses import replace

from tallformer_infer.config import I3dConfig, PointHeadConfig, Recipe, RefinedHeadConfig
from tallformer_training.schedule import ScheduleConfig
from tallformer_training.training.config import OptimiserConfig, TrainingConfig

THUMOS14 = TrainingConfig()
ACTIVITYNET = TrainingConfig(
    ratio=0.375,
    sampling="jittered",
    epochs=10,
    batch_windows=1,
    optimiser=OptimiserConfig(kind="adam", base_lr=1e-4, encoder_factor=0.04, weight_decay=1e-4),
    schedule=ScheduleConfig(warmup_steps=0, drop_epochs=(8,)),
    least_part=0.0,
    checkpointing=True,
    validate_every_epochs=1,
    seed=2020,
)
"""Per process; the official run has four."""
ACTIVITYNET_12GB = replace(ACTIVITYNET, ratio=1 / 8)
HACS = replace(ACTIVITYNET, epochs=15)
OPENTAD = TrainingConfig(
    ratio=1.0,
    epochs=120,
    batch_windows=1,
    optimiser=OptimiserConfig(kind="adamw", base_lr=1e-4, encoder_factor=0.1, weight_decay=0.05),
    schedule=ScheduleConfig(period_epochs=1500, min_factor=0.0, warmup_steps=500),
    max_gradient_norm=1.0,
    ema_decay=0.999,
    checkpointing=True,
    memory_start="zeros",
    validate_every_epochs=5,
)
"""Per process; OpenTAD's run has two. It stops after 120 of the 1500 epochs that the learning rate is planned for."""
ACTIONFORMER = replace(OPENTAD, ratio=0.3, batch_windows=2, checkpointing=False, memory_start="encode")
"""The same with a long memory: 9 of 32 clips are encoded."""


I3D_RATIO, I3D_WHOLE_RATIO = 0.4, 1 / 3
"""The paper's, for THUMOS14 and ActivityNet: 6 of 15 clips, 8 of 24."""


def settings_of(recipe: Recipe) -> TrainingConfig:
    """What a recipe is trained with unless the user says otherwise: by its name, else by its head and encoder."""
    match recipe.name:
        case "anet-swin-b-12gb":
            return ACTIVITYNET_12GB
        case "hacs-swin-b":
            return HACS
        case _:
            return _by_encoder(recipe, _by_head(recipe))


def _by_encoder(recipe: Recipe, settings: TrainingConfig) -> TrainingConfig:
    """More clips at once where the encoder is the small one; with points nobody has published it."""
    if not isinstance(recipe.model.backbone, I3dConfig):
        return settings
    return replace(settings, ratio=I3D_WHOLE_RATIO if isinstance(recipe.model.head, RefinedHeadConfig) else I3D_RATIO)


def _by_head(recipe: Recipe) -> TrainingConfig:
    match recipe.model.head:
        case RefinedHeadConfig():
            return ACTIVITYNET
        case PointHeadConfig():
            return OPENTAD if recipe.window.clips == 1 else ACTIONFORMER
        case _:
            return THUMOS14
