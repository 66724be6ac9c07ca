"""Settings of training that belong to the recipes that ship with the project.

Source: the official configurations (commit 5519140, Apache-2.0; values only), and the paper for the ratio of 12 GB.
"""

from __future__ import annotations

from dataclasses import replace

from tallformer_infer.config import Recipe, RefinedHeadConfig
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


def settings_of(recipe: Recipe) -> TrainingConfig:
    """What a recipe is trained with unless the user says otherwise: by its name, else by the kind of its head."""
    match recipe.name:
        case "anet-swin-b-12gb":
            return ACTIVITYNET_12GB
        case "hacs-swin-b":
            return HACS
        case _:
            return ACTIVITYNET if isinstance(recipe.model.head, RefinedHeadConfig) else THUMOS14
