"""Settings of training that are not part of the recipe, their presets, and number formats of the forward pass.

They affect how weights are trained, not the architecture.

Source of the presets: the official configurations (commit 5519140, Apache-2.0; values only), and the paper for the
ratio of 12 GB; OpenTAD's for ActionFormer (github.com/sming256/OpenTAD, commit 01c58b9, Apache-2.0; values only).
"""

from __future__ import annotations

import contextlib
import json
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import torch

from tallformer_infer.config import I3dConfig, PointHeadConfig, Recipe, RefinedHeadConfig, from_json
from tallformer_infer.errors import ConfigError
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.memory import Sampling, encoded_count
from tallformer_training.memory.bank import StoredType
from tallformer_training.schedule import ScheduleConfig
from tallformer_training.targets import AssignmentConfig, PointConfig

_AT_LEAST_ONE = (
    "epochs",
    "windows_per_video",
    "batch_windows",
    "accumulation",
    "validate_every_epochs",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "loader_threads",
)

Precision = Literal["fp32", "bf16", "fp16"]

I3D_RATIO, I3D_WHOLE_RATIO = 0.4, 1 / 3
"""Those of the paper for THUMOS14 and ActivityNet: 6 of 15 clips, 8 of 24."""


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """Optimiser and learning rates."""

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    """`sgd` with momentum, as in the official THUMOS14 code; `adam`, as in that for ActivityNet; `adamw`, which trains
    faster from random weights."""
    base_lr: float = 0.01
    """Learning rate of all weights but those of the encoder."""
    encoder_factor: float = 0.4
    """Learning rate of the encoder, as a multiple of `base_lr`."""
    momentum: float = 0.9
    """Momentum of `sgd`."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Betas of `adam` and `adamw`."""
    weight_decay: float = 1e-4
    """`sgd` and `adam`: for all weights; `adamw`: only for matrices, not for norms, biases and tables."""

    def __post_init__(self) -> None:
        if not self.base_lr > 0 or not self.encoder_factor >= 0:
            raise ConfigError(
                f"base_lr={self.base_lr} must be above 0, encoder_factor={self.encoder_factor} at least 0"
            )


@dataclass(frozen=True, kw_only=True)
class EncoderStageConfig:
    """How a random encoder is trained on single clips, before the detector."""

    steps: int
    """Training steps; the learning rate falls as a cosine over all of them."""
    batch_clips: int = 32
    """Clips per process and step."""
    optimiser: OptimiserConfig = OptimiserConfig(kind="adamw", base_lr=2e-3, encoder_factor=1.0, weight_decay=0.05)
    """Optimiser and learning rates."""
    warmup_steps: int = 100
    """Steps until the full learning rate is reached."""
    precision: Precision = "fp32"
    """Number format of the forward pass."""
    min_factor: float = 0.02
    """Factor of the learning rate at the end."""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_clips"):
            if getattr(self, name) < 1:
                raise ConfigError(f"encoder_stage: {name}={getattr(self, name)} must be at least 1")

    @property
    def schedule(self) -> ScheduleConfig:
        """The learning rate schedule: the stage as one period."""
        return ScheduleConfig(period_epochs=1, min_factor=self.min_factor, warmup_steps=self.warmup_steps)


@dataclass(frozen=True, kw_only=True)
class TrainingConfig:
    """Settings of a training run besides recipe and data. Defaults: the official THUMOS14 settings."""

    ratio: float = 0.15
    """Share r of a window's clips that are encoded; the others come from the memory. 0 freezes the encoder."""
    sampling: Sampling = "random"
    """How the encoded clips of a window are chosen."""
    shift: bool = True
    """For models of whole videos: cut clips differently in each epoch, see `plan`, Note [shifted clips]."""
    refine_tiou: float = 0.6
    """For refined heads: overlap with its segment from which a proposal learns to be refined."""
    epochs: int = 1000
    """Passes over the videos."""
    least_steps: int = 0
    """Training steps of the shortest run: with few videos, there are more epochs."""
    windows_per_video: int = 1
    """Windows per video and epoch."""
    batch_windows: int = 4
    """Windows per process in one forward pass."""
    accumulation: int = 1
    """Forward and backward passes per training step."""
    optimiser: OptimiserConfig = OptimiserConfig()
    """Optimiser and learning rates."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """Schedule of the learning rate."""
    smooth_schedule: bool = False
    """Update the cosine at every step instead of every epoch."""
    max_gradient_norm: float | None = None
    """Largest norm of the gradient over all weights; None does not clip."""
    ema_decay: float | None = None
    """Decay of a running mean of the weights, which is validated and saved; None keeps no mean."""
    assignment: AssignmentConfig = field(default_factory=AssignmentConfig)
    """Assignment of anchors to segments."""
    points: PointConfig = field(default_factory=PointConfig)
    """For point heads: assignment of positions to segments."""
    encoder_stage: EncoderStageConfig | None = None
    """Train the encoder alone first, if the run starts from random weights; see `encoder_stage`."""
    keep_encoder_norms: bool = False
    """Freeze the statistics of the encoder's batch norms while the detector is trained."""
    step_loss_weight: float = 0.0
    """Weight of the loss of a classifier of encoded feature steps, used only in training; see `step_classifier`."""
    least_part: float = 0.75
    """Share of a segment inside the window (or of the window that it covers) from which the window learns it."""
    augmentation: AugmentationConfig = field(default_factory=AugmentationConfig)
    """Random augmentation."""
    precision: Precision = "fp32"
    """Number format of the forward pass."""
    checkpointing: bool = False
    """Recompute the encoder's activations in the backward pass instead of keeping them."""
    memory_dtype: StoredType = "float16"
    """Number format of the memory."""
    memory_start: Literal["encode", "zeros"] = "encode"
    """Fill the memory by encoding every clip once, or with zeros (for a random encoder)."""
    validate_every_epochs: int = 10
    """Epochs between validations, if there are validation annotations; the last epoch is always validated."""
    checkpoint_every_steps: int = 500
    """Training steps between checkpoints; the last step always has one."""
    keep_checkpoints: int = 2
    """Number of checkpoints to keep."""
    loader_threads: int = 2
    """Threads that read clips ahead."""
    ignored_labels: tuple[str, ...] = ("Ambiguous",)
    """Annotated classes that count as background."""
    seed: int = 10
    """Seed of all random numbers."""

    def __post_init__(self) -> None:
        if not 0 <= self.ratio <= 1:
            raise ConfigError(f"ratio={self.ratio} must be in [0, 1]")
        if not 0 <= self.least_part < 1:
            raise ConfigError(f"least_part={self.least_part} must be in [0, 1)")
        if not 0 <= self.refine_tiou <= 1:
            raise ConfigError(f"refine_tiou={self.refine_tiou} must be in [0, 1]")
        if self.step_loss_weight < 0:
            raise ConfigError(f"step_loss_weight={self.step_loss_weight} must be at least 0")
        if self.least_steps < 0:
            raise ConfigError(f"least_steps={self.least_steps} must be at least 0")
        for name in _AT_LEAST_ONE:
            if getattr(self, name) < 1:
                raise ConfigError(f"{name}={getattr(self, name)} must be at least 1")
        if self.ema_decay is not None and not 0 <= self.ema_decay < 1:
            raise ConfigError(f"ema_decay={self.ema_decay} must be in [0, 1)")
        if self.max_gradient_norm is not None and not self.max_gradient_norm > 0:
            raise ConfigError(f"max_gradient_norm={self.max_gradient_norm} must be above 0")

    def require_fit(self, recipe: Recipe) -> None:
        """Check that recipe and settings fit together.

        Raises:
            ConfigError: They do not.
        """
        clips = recipe.window.clips
        if self.ratio > 0 and encoded_count(clips, self.ratio) == 0:
            raise ConfigError(
                f"ratio={self.ratio} of {clips} clips is less than one clip; use at least {1 / clips:.3g}, "
                "or 0 to freeze the encoder"
            )
        if recipe.sampling.most_frames is not None and self.windows_per_video != 1:
            raise ConfigError(
                f"windows_per_video={self.windows_per_video} must be 1: the recipe {recipe.name} sees whole videos"
            )
        for pair in self.augmentation.mirrored_classes:
            for name in pair:
                if name not in recipe.classes:
                    raise ConfigError(f"augmentation: mirrored_classes names {name!r}, which is no class of the recipe")

    def lasting(self, epochs: int) -> TrainingConfig:
        """The settings with another number of epochs; a learning rate that falls once over all epochs still does."""
        is_once = self.schedule.period_epochs == self.epochs
        schedule = replace(self.schedule, period_epochs=epochs) if is_once else self.schedule
        return replace(self, epochs=epochs, schedule=schedule)

    def shifts(self, recipe: Recipe) -> bool:
        """Whether windows start before their video; see `plan`, Note [shifted clips]."""
        return self.shift and recipe.sampling.most_frames is not None

    def window_clips(self, recipe: Recipe) -> int:
        """Clips of a window in training."""
        return recipe.window.clips + self.shifts(recipe)

    def window_ratio(self, recipe: Recipe) -> float:
        """Share of clips encoded in training, so that their number is that of `ratio` of an unshifted window."""
        if not self.shifts(recipe) or self.ratio == 1:
            return self.ratio
        return self.ratio * recipe.window.clips / self.window_clips(recipe)

    @property
    def has_mirrored_memory(self) -> bool:
        """Whether mirrored videos have separate entries in the memory; see `plan`, Note [mirrored videos]."""
        return self.augmentation.flip > 0 and bool(self.augmentation.mirrored_classes)


def read_training_config(path: Path) -> TrainingConfig:
    """Read settings from a JSON file; missing keys have their defaults.

    Raises:
        ConfigError: The file cannot be read, or a key is unknown or wrong; the message names it.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    try:
        return from_json(TrainingConfig, value, where="training")
    except (ConfigError, ValueError) as error:
        raise ConfigError(f"{path}: {error}") from error


def autocast(precision: Precision, device: torch.device) -> AbstractContextManager[object]:
    """Context for a forward pass in mixed precision; fp32 changes nothing."""
    if precision == "fp32":
        return contextlib.nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16 if precision == "bf16" else torch.float16)


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
"""Windows per process; the official run has four processes."""


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
"""Windows per process; OpenTAD's run has two processes and stops after 120 of the 1500 epochs of its schedule."""


ACTIONFORMER = replace(OPENTAD, ratio=0.3, batch_windows=2, checkpointing=False, memory_start="encode")
"""The same with a long memory: 9 of 32 clips are encoded."""


OWN_FILMS = TrainingConfig(
    epochs=100,
    least_steps=500,
    windows_per_video=2,
    batch_windows=8,
    optimiser=OptimiserConfig(kind="adamw", base_lr=1e-3, encoder_factor=0.1, weight_decay=0.05),
    schedule=ScheduleConfig(period_epochs=100, min_factor=0.02, warmup_steps=50),
    smooth_schedule=True,
    max_gradient_norm=1.0,
    ema_decay=0.95,
    keep_encoder_norms=True,
)
"""A point head on some hundred actions, with I3D that knows Kinetics; docs/real.md has results with r = 0."""


def settings_of(recipe: Recipe) -> TrainingConfig:
    """Default settings of a recipe: by its name, else by its head and encoder."""
    match recipe.name:
        case "anet-swin-b-12gb":
            return ACTIVITYNET_12GB
        case "hacs-swin-b":
            return HACS
        case _:
            return _by_encoder(recipe, _by_head(recipe))


def _by_encoder(recipe: Recipe, settings: TrainingConfig) -> TrainingConfig:
    """Encode more clips if the encoder is the small one."""
    if not isinstance(recipe.model.backbone, I3dConfig):
        return settings
    if isinstance(recipe.model.head, PointHeadConfig):
        return OWN_FILMS
    return replace(settings, ratio=I3D_WHOLE_RATIO if isinstance(recipe.model.head, RefinedHeadConfig) else I3D_RATIO)


def _by_head(recipe: Recipe) -> TrainingConfig:
    match recipe.model.head:
        case RefinedHeadConfig():
            return ACTIVITYNET
        case PointHeadConfig():
            return OPENTAD if recipe.window.clips == 1 else ACTIONFORMER
        case _:
            return THUMOS14
