"""What the options of `tallformer train` mean: settings, data, and the run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tallformer_infer.config import BackboneConfig, Recipe, preset, read_recipe
from tallformer_infer.text import counted
from tallformer_training.commands.stopping import StopBetweenSteps

if TYPE_CHECKING:
    from tallformer_training.datasets import DatasetRequest
    from tallformer_training.training import TrainingConfig
    from tallformer_training.training.display import Display


@dataclass(frozen=True)
class DataOptions:
    """Where videos and annotations are."""

    annotations: Path
    """What to learn."""
    videos: Path
    """Folder of its videos."""
    subset: str | None
    """Subset to learn from."""
    val_annotations: Path | None
    """What to measure mAP on."""
    val_videos: Path | None
    """Folder of its videos; None: `videos`."""
    val_subset: str | None
    """Subset to measure on."""
    repair: bool
    """Pass over known faults."""

    def requests(self, ignored_labels: tuple[str, ...]) -> tuple[DatasetRequest, DatasetRequest | None]:
        """What to learn from, and what to measure on."""
        from tallformer_training.datasets import DatasetRequest

        training = DatasetRequest(
            annotations=self.annotations,
            videos=self.videos,
            subset=self.subset,
            ignored_labels=ignored_labels,
            repair=self.repair,
        )
        if self.val_annotations is None:
            if self.val_videos is not None or self.val_subset is not None:
                raise typer.BadParameter("--val-videos and --val-subset need --val-annotations")
            return training, None
        validation = replace(
            training,
            annotations=self.val_annotations,
            videos=self.val_videos or self.videos,
            subset=self.val_subset,
            defaults=("validation", "testing"),
        )
        return training, validation


@dataclass(frozen=True)
class SessionOptions:
    """How the run begins or goes on, and what is said."""

    init: Path | None
    """Checkpoint to start from."""
    cache: Path | None
    """Folder of frames."""
    use_cache: bool
    """Keep frames."""
    resume: bool
    """Go on with the run."""
    resume_from: Path | None
    """Checkpoint to go on from."""
    device: str
    """`cpu`, `cuda` or `auto`."""
    quiet: bool
    """Show errors only."""
    json_logs: bool
    """Speak to programs."""
    resume_command: str
    """What continues the run."""


def make_settings(
    config: Path | None,
    recipe: str,
    *,
    epochs: int | None,
    ratio: float | None,
    seed: int | None,
    encoder_steps: int | None,
    mirrored: Sequence[str] = (),
) -> TrainingConfig:
    """Settings of a file, or those that belong to the recipe, with what the command line says instead.

    Raises:
        ConfigError: The file cannot be read, or a setting is out of range.
    """
    from tallformer_training.training import EncoderStageConfig, read_training_config
    from tallformer_training.training.presets import settings_of

    settings = settings_of(recipe_named(recipe)) if config is None else read_training_config(config)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    if ratio is not None:
        settings = replace(settings, ratio=ratio)
    if mirrored:
        pairs = tuple(_mirrored_pair(text) for text in mirrored)
        settings = replace(settings, augmentation=replace(settings.augmentation, mirrored_classes=pairs))
    if encoder_steps == 0:
        settings = replace(settings, encoder_stage=None)
    elif encoder_steps is not None:
        stage = settings.encoder_stage
        stage = EncoderStageConfig(steps=encoder_steps) if stage is None else replace(stage, steps=encoder_steps)
        settings = replace(settings, encoder_stage=stage)
    return settings if seed is None else replace(settings, seed=seed)


def _mirrored_pair(text: str) -> tuple[str, str]:
    one, equals, other = (part.strip() for part in text.partition("="))
    if not (one and equals and other) or "=" in other:
        raise typer.BadParameter(f"--mirrored {text!r}: expected two classes, such as 'turn left=turn right'")
    return one, other


def train_as_asked(
    recipe: str, out: Path, settings: TrainingConfig, data: DataOptions, session: SessionOptions
) -> None:
    """Train in all processes of the run, and say where the weights are.

    Raises:
        KeyboardInterrupt: The run was stopped; a checkpoint is written, and the command to continue it shown.
    """
    from tallformer_training.training import TrainingJob, join_processes, train

    training, validation = data.requests(settings.ignored_labels)
    chosen = recipe_named(recipe)
    if settings.encoder_stage is not None and session.init is None:
        _require_learning(chosen)
    job = TrainingJob(
        recipe=chosen,
        config=settings,
        training=training,
        validation=validation,
        out=out,
        start=session.init,
        cache=session.cache,
        use_cache=session.use_cache,
        resume=session.resume or session.resume_from is not None,
        resume_from=session.resume_from,
        quiet=session.quiet,
        json_logs=session.json_logs,
    )
    with join_processes(session.device) as processes:
        display = make_display(quiet=session.quiet or not processes.is_main, json_logs=session.json_logs)
        stop = StopBetweenSteps(
            lambda: display.say("stopping after this step, with a checkpoint (Ctrl-C again: at once)", event="stopping")
        )
        try:
            with stop:
                result = train(job, processes, until=stop)
        except KeyboardInterrupt:
            _say_how_to_continue(display, out, session.resume_command)
            raise
        line = f"written: {result.model}, after {counted(result.steps, 'step')}"
        display.say(line, event="written", out=str(result.model), steps=result.steps)
        if not result.is_finished:
            _say_how_to_continue(display, out, session.resume_command)
        stop.raise_again()


def _say_how_to_continue(display: Display, out: Path, command: str) -> None:
    """Show the command that continues a run which was stopped, unless nothing of it has begun."""
    from tallformer_training.training.job import RUN_FILE

    if not (out / RUN_FILE).exists():
        return
    display.say(f"to continue: {command}", event="resumable", command=command)


def resume_command(context: typer.Context) -> str:
    """The command line that continues the run of `context`: its options and --resume."""
    given: list[str] = []
    for parameter in context.command.params:
        name = parameter.name or ""
        source, value = context.get_parameter_source(name), context.params.get(name)
        if source is None or source.name != "COMMANDLINE" or name in ("resume", "resume_from"):
            continue
        option = max(parameter.opts, key=len)
        for item in value if isinstance(value, (list, tuple)) else [value]:
            given += [option] if item is True else [option, str(item)]
    program = "torchrun … -m tallformer_training" if "WORLD_SIZE" in os.environ else "tallformer train"
    return f"{program} {shlex.join(given)} --resume"


def recipe_named(name: str) -> Recipe:
    """A recipe of its own file, or one of those that are known by name."""
    return read_recipe(Path(name)) if name.endswith(".json") else preset(name)


def make_display(*, quiet: bool, json_logs: bool) -> Display:
    """What says how far things are."""
    from tallformer_training.training.display import Display

    return Display(is_quiet=quiet, as_json=json_logs)


def _require_learning(recipe: Recipe) -> None:
    """Refuse to teach an encoder alone whose first stages would stay as they were drawn."""
    backbone = recipe.model.backbone
    frozen = backbone.frozen_stages if isinstance(backbone, BackboneConfig) else -1
    if frozen >= 0:
        raise typer.BadParameter(
            f"recipe {recipe.name}: frozen_stages={frozen} keeps the first stages of the encoder as they are, which is "
            "random without --init; set it to -1, or take the recipe demo"
        )
