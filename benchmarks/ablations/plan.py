"""The runs for the questions of `groups`: each variant differs from the base in one setting.

# Note [settings shared by all runs]
`BASE_RECIPE`, `BASE_CONFIG` and `START_CONFIG` may be changed: nothing else depends on their values. Earlier results
then no longer match the runs, and are refused.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace

from benchmarks.ablations.groups import BASE, group_named
from benchmarks.train_demo import DEMO
from tallformer_infer.config import ModelConfig, PointHeadConfig, PyramidConfig, Recipe, TcmConfig
from tallformer_infer.errors import ConfigError
from tallformer_training.loop import EncoderStageConfig, OptimiserConfig, TrainingConfig
from tallformer_training.memory import Sampling, encoded_count
from tallformer_training.schedule import ScheduleConfig

SEEDS = (1, 2, 3)
EPOCHS = 20
CLIP_FRAMES, WINDOW_CLIPS, LONGEST_CLIPS = 32, 15, 19
TCM = TcmConfig(layers=2, heads=4, max_steps=LONGEST_CLIPS * CLIP_FRAMES // 8)
"""One table of relative positions for all lengths of windows."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The generated videos, with other seeds than those of the demo model."""

    training_videos: int = 30
    testing_videos: int = 16
    minutes: float = 2.0
    """Length of each video."""
    training_seed: int = 17
    testing_seed: int = 19


@dataclass(frozen=True, kw_only=True)
class Variant:
    """Settings of runs that differ only in their seed."""

    name: str
    """Name in `groups`."""
    recipe: Recipe
    """Architecture, frames and windows."""
    config: TrainingConfig
    """Training settings."""
    start: str
    """Encoder to start from, see `starts`."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """A variant with a seed."""

    variant: Variant
    seed: int

    @property
    def name(self) -> str:
        """Unique among all runs."""
        return f"{self.variant.name}-seed-{self.seed}"

    @property
    def config(self) -> TrainingConfig:
        """Training settings with the seed."""
        return replace(self.variant.config, seed=self.seed)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All runs, and the videos they share."""

    variants: tuple[Variant, ...]
    seeds: tuple[int, ...] = SEEDS
    data: DataConfig = DataConfig()
    start_config: TrainingConfig | None = None
    """Training settings of starts that are not given: their encoder stage; None trains no starts."""
    start_classes: tuple[str, ...] | None = None
    """Classes on which starts are trained; None: all."""

    def runs(self, only: Collection[str] = ()) -> Iterator[Run]:
        """Runs of the named groups or variants (default: all), ordered by seed, so that all rows progress equally.

        Raises:
            ConfigError: A name is neither a group nor a variant.
        """
        wanted = self._variants(only)
        for seed in self.seeds:
            for variant in self.variants:
                if variant.name in wanted:
                    yield Run(variant=variant, seed=seed)

    def starts(self) -> dict[str, Recipe]:
        """The required encoders, each with a recipe that it must fit."""
        return {variant.start: variant.recipe for variant in reversed(self.variants)}

    def _variants(self, only: Collection[str]) -> set[str]:
        names = {variant.name for variant in self.variants}
        if not only:
            return names
        wanted: set[str] = set()
        for name in only:
            group = group_named(name)
            if group is None and name not in names:
                raise ConfigError(f"{name}: no such ablation; see --list")
            wanted |= {name} if group is None else {row.variant for row in group.rows}
        return wanted


def _base_recipe() -> Recipe:
    recipe = DEMO.recipe
    return replace(
        recipe,
        name="ablation",
        model=replace(recipe.model, tcm=TCM),
        window=replace(recipe.window, window_frames=WINDOW_CLIPS * CLIP_FRAMES, clip_frames=CLIP_FRAMES),
    )


BASE_RECIPE = _base_recipe()
BASE_CONFIG = replace(
    DEMO.config,
    ratio=0.3,
    sampling="random",
    epochs=EPOCHS,
    windows_per_video=2,
    batch_windows=4,
    optimiser=OptimiserConfig(kind="adamw", base_lr=1e-3, encoder_factor=0.2, weight_decay=0.05),
    schedule=ScheduleConfig(period_epochs=EPOCHS, min_factor=0.02, warmup_steps=50),
    ema_decay=0.99,
    encoder_stage=None,
    step_loss_weight=0.0,
    memory_start="encode",
    checkpoint_every_steps=100,
    keep_checkpoints=1,
)
START_CLASSES = ("bounce", "spin left", "grow", "blink")
"""Half of the classes: a frozen encoder (r = 0) must not be trained on all classes already. Kinetics does not contain
the actions of THUMOS14 either."""
START_CONFIG = replace(
    BASE_CONFIG,
    encoder_stage=EncoderStageConfig(steps=400, batch_clips=16),
    augmentation=replace(BASE_CONFIG.augmentation, flip=0.0, mirrored_classes=()),
    epochs=1,
    memory_start="zeros",
    seed=0,
)
"""Without mirroring, as the mirror image of a trained class may be another class."""


def whole_plan() -> Plan:
    """The runs of all groups: 17 variants with three seeds."""
    variants = [
        _variant(BASE),
        *(_variant(f"r-{ratio:g}", ratio=ratio) for ratio in (0.0, 0.15, 0.4, 0.6, 1.0)),
        _variant("no-tcm", replace(BASE_RECIPE, model=replace(BASE_RECIPE.model, tcm=None))),
        *(_variant(f"support-{seconds}", _window(clips)) for seconds, clips in ((8, 4), (16, 8), (40, LONGEST_CLIPS))),
        # As many clips as the base encodes per window: what fits into the same memory without a long memory.
        _variant("short-term", _window(encoded_count(WINDOW_CLIPS, BASE_CONFIG.ratio)), ratio=1.0),
        *_encoders(),
        *(_variant(f"px-{side}", _resolution(side), start=f"px-{side}") for side in (32, 48)),
        _variant("stratified", sampling="stratified"),
        _variant("points", replace(BASE_RECIPE, model=_points(BASE_RECIPE.model))),
    ]
    return Plan(variants=tuple(variants), start_config=START_CONFIG, start_classes=START_CLASSES)


def _variant(
    name: str,
    recipe: Recipe = BASE_RECIPE,
    *,
    ratio: float = BASE_CONFIG.ratio,
    sampling: Sampling = BASE_CONFIG.sampling,
    start: str = BASE,
) -> Variant:
    return Variant(name=name, recipe=recipe, config=replace(BASE_CONFIG, ratio=ratio, sampling=sampling), start=start)


def _window(clips: int) -> Recipe:
    return replace(BASE_RECIPE, window=replace(BASE_RECIPE.window, window_frames=clips * CLIP_FRAMES))


def _resolution(side_px: int) -> Recipe:
    return replace(BASE_RECIPE, sampling=replace(BASE_RECIPE.sampling, resize_px=side_px, crop_px=side_px))


def _points(model: ModelConfig) -> ModelConfig:
    """ActionFormer's pyramid and head with the base's channels and convolutions per tower; the pyramid replaces the
    TCM. Six levels, as in ActionFormer: the coarsest learns segments whose farther end is more than 8.5 s away."""
    pyramid = PyramidConfig(
        kind="transformer", levels=6, heads=model.pyramid.heads, attention_steps=(), fpn_channels=model.channels
    )
    head = PointHeadConfig(kind="points", stacked_convs=model.anchor_head.stacked_convs)
    return replace(model, tcm=None, pyramid=pyramid, head=head)


def _encoders() -> Iterator[Variant]:
    backbone = BASE_RECIPE.model.backbone
    sizes = {
        "encoder-small": replace(backbone, embed_channels=backbone.embed_channels // 2),
        "encoder-large": replace(backbone, depths=(*backbone.depths[:-1], 2 * backbone.depths[-1])),
    }
    for name, size in sizes.items():
        yield _variant(name, replace(BASE_RECIPE, model=replace(BASE_RECIPE.model, backbone=size)), start=name)
