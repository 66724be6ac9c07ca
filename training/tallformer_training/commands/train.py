"""`tallformer train`: train a detector for the user's own actions, from videos and annotations."""

from __future__ import annotations

import json
import os
import shlex
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, Self, get_args

import typer

from tallformer_infer.config import BackboneConfig, Recipe, preset, read_recipe, to_json
from tallformer_infer.console import Speaker, make_speaker
from tallformer_infer.errors import AnnotationError
from tallformer_infer.text import counted, printable

if TYPE_CHECKING:  # torch is slow to import
    from tallformer_training.datasets import DatasetRequest
    from tallformer_training.loop import TrainingConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_BASE = "kinetics400-i3d"
"""Default recipe of `--suggest`."""

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_STOP_S = 1.0
"""A signal this soon after the first is the same stop: torchrun signals its processes after the terminal does."""


@app.command()
def train_command(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    context: typer.Context,
    annotations: Annotated[
        Path,
        typer.Option(metavar="FILE", show_default=False, help="ActivityNet-form JSON, or the THUMOS14 text folder."),
    ],
    videos: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False, help="Folder of the annotated videos.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Name of a recipe, or its .json file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", show_default=False, help="Output folder of the run.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE|MODEL",
            show_default=False,
            help="Initial weights: a checkpoint (.safetensors), or a bundle such as kinetics400, whose encoder is "
            "used (default: random).",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="Training settings (.json), as under `training` in RUN/run.json.",
        ),
    ] = None,
    epochs: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            show_default=False,
            help="Passes over the videos (default: 1000; models of whole videos: 10; with points: 120, or on I3D 100 "
            "and 500 steps or more).",
        ),
    ] = None,
    ratio: Annotated[
        float | None,
        typer.Option(
            metavar="R",
            show_default=False,
            help="Share of clips to encode per step; the others come from the memory. 0: frozen encoder. (default: "
            "0.15; models of whole videos: 0.375)",
        ),
    ] = None,
    encoder_steps: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            min=0,
            show_default=False,
            help="Train a randomly initialised encoder alone first, for N steps on single clips; 0: off.",
        ),
    ] = None,
    mirrored: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A=B",
            show_default=False,
            help="Two classes that are mirror images: a mirrored video gets the other label. Repeatable.",
        ),
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(metavar="N", show_default=False, help="Random seed (default: 10; models of whole videos: 2020)."),
    ] = None,
    subset: Annotated[str | None, typer.Option(metavar="NAME", show_default=False, help="Subset to train on.")] = None,
    val_annotations: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Annotations for validation during training."),
    ] = None,
    val_videos: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False, help="Videos for validation (default: --videos).")
    ] = None,
    val_subset: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Subset for validation.")
    ] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Skip known faults in annotations, and count them.")] = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Folder for resized frames; runs can share it."),
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Decode videos in every epoch: slower, but needs no disk space.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the run in --out.")] = False,
    resume_from: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", show_default=False, help="Checkpoint of the run to continue from (default: the last)."
        ),
    ] = None,
    device: Annotated[str, typer.Option(metavar="NAME", help="cpu, cuda or auto.")] = "auto",
    precision: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            show_default=False,
            help="fp32, bf16 or fp16 (default: fp32). bf16 suits GPUs and CPUs with AMX.",
        ),
    ] = None,
    suggest: Annotated[
        bool,
        typer.Option(
            "--suggest", help=f"Propose a recipe for these annotations, from --recipe (else {_BASE}); trains nothing."
        ),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and errors.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object per line, on stderr.")] = False,
) -> None:
    """Train a detector on your own videos.

    RUN gets model.safetensors, metrics.jsonl, curves.png, checkpoints and the
    long memory. Ctrl-C finishes the current step and writes a checkpoint;
    --resume continues an interrupted run and gives identical weights.

    --init starts from trained weights: those of kinetics400, which is installed,
    or of a checkpoint (`tallformer import`). Training from random weights rarely
    works: use the recipe demo, whose small encoder can be trained from scratch,
    and train the encoder alone first (--encoder-steps).

    [bold]Examples[/bold]

      tallformer train --suggest --annotations a.json > r.json
      tallformer train --annotations a.json --videos v/ --recipe r.json
        --init kinetics400 --ratio 0 --out run
      tallformer train --annotations a.json ... --out run --resume
      torchrun --nproc-per-node 4 -m tallformer_training --annotations a.json ...

    [bold]Without trained weights[/bold]

      tallformer train --suggest --annotations a.json --recipe demo > r.json
      tallformer train ... --recipe r.json --encoder-steps 3000 --out run
    """
    with _a_line_per_problem(as_json=json_logs):
        if suggest:
            _suggest(annotations, subset, recipe, repair=repair, speaker=make_speaker(quiet=quiet, json_logs=json_logs))
            return
        given = _required(videos, recipe, out)
        if encoder_steps and init is not None:
            raise typer.BadParameter(
                "--encoder-steps trains a random encoder and --init loads a trained one; use only one of them"
            )
        settings = make_settings(
            config,
            given[1],
            epochs=epochs,
            ratio=ratio,
            seed=seed,
            encoder_steps=encoder_steps,
            mirrored=mirrored or (),
            precision=precision,
        )
        data = DataOptions(annotations, given[0], subset, val_annotations, val_videos, val_subset, repair)
        session = SessionOptions(
            init, cache, not no_cache, resume, resume_from, device, quiet, json_logs, resume_command(context)
        )
        train_as_asked(given[1], given[2], settings, data, session)


def _required(videos: Path | None, recipe: str | None, out: Path | None) -> tuple[Path, str, Path]:
    if videos is not None and recipe is not None and out is not None:
        return videos, recipe, out
    named = {"--videos": videos, "--recipe": recipe, "--out": out}
    missing = [name for name, value in named.items() if value is None]
    raise typer.BadParameter(f"{', '.join(missing)}: missing; only --suggest works without them")


def _suggest(annotations: Path, subset: str | None, base: str | None, *, repair: bool, speaker: Speaker) -> None:
    from tallformer_training.datasets.suggestion import suggest_recipe

    chosen = recipe_named(base or _BASE)
    suggestion = suggest_recipe(annotations, subset=subset, base=chosen, repair=repair)
    for line in suggestion.explanation:
        speaker.say("note", line)
    typer.echo(json.dumps(to_json(suggestion.recipe), indent=2, ensure_ascii=False))


@contextmanager
def _a_line_per_problem(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except AnnotationError as error:
        if as_json:
            raise  # cli.run writes an event for each line
        lines = str(error).splitlines()
        for line in lines:
            typer.secho(f"tallformer: error: {printable(line)}", err=True, fg=typer.colors.RED)
        if len(lines) > 1:
            typer.secho(f"tallformer: {len(lines)} problems; nothing was trained", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error


@dataclass(frozen=True)
class DataOptions:
    """Where videos and annotations are."""

    annotations: Path
    """Annotations to train on."""
    videos: Path
    """Folder of its videos."""
    subset: str | None
    """Subset to train on."""
    val_annotations: Path | None
    """Annotations for validation."""
    val_videos: Path | None
    """Folder of its videos; None: `videos`."""
    val_subset: str | None
    """Subset for validation."""
    repair: bool
    """Skip known faults of public data sets."""

    def requests(self, ignored_labels: tuple[str, ...]) -> tuple[DatasetRequest, DatasetRequest | None]:
        """Requests for training and validation."""
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
    """How the run starts or resumes, and what it logs."""

    init: Path | None
    """Checkpoint to start from."""
    cache: Path | None
    """Folder of frames."""
    use_cache: bool
    """Cache resized frames."""
    resume: bool
    """Continue the run in the output folder."""
    resume_from: Path | None
    """Checkpoint to continue from; None: the last one."""
    device: str
    """`cpu`, `cuda` or `auto`."""
    quiet: bool
    """Log only warnings and errors."""
    json_logs: bool
    """Log JSON lines."""
    resume_command: str
    """Command that continues the run."""


def make_settings(
    config: Path | None,
    recipe: str,
    *,
    epochs: int | None,
    ratio: float | None,
    seed: int | None,
    encoder_steps: int | None,
    mirrored: Sequence[str] = (),
    precision: str | None = None,
) -> TrainingConfig:
    """Settings of a file or, without one, of the recipe; options of the command line override them.

    Raises:
        ConfigError: The file cannot be read, or a setting is out of range.
    """
    from tallformer_training.loop import EncoderStageConfig, read_training_config
    from tallformer_training.loop.config import Precision, settings_of

    settings = settings_of(recipe_named(recipe)) if config is None else read_training_config(config)
    if epochs is not None:
        settings = replace(settings.lasting(epochs), least_steps=0)
    if ratio is not None:
        settings = replace(settings, ratio=ratio)
    if precision is not None:
        if precision not in get_args(Precision):
            raise typer.BadParameter(f"--precision {precision}: expected one of {', '.join(get_args(Precision))}")
        settings = replace(settings, precision=precision)  # type: ignore[arg-type]  # checked
    if mirrored:
        pairs = tuple(_mirrored_pair(text) for text in mirrored)
        settings = replace(settings, augmentation=replace(settings.augmentation, mirrored_classes=pairs))
    if encoder_steps == 0:
        settings = replace(settings, encoder_stage=None)
    elif encoder_steps is not None:
        stage = settings.encoder_stage
        stage = EncoderStageConfig(steps=encoder_steps) if stage is None else replace(stage, steps=encoder_steps)
        settings = replace(settings, encoder_stage=stage)
    if settings.encoder_stage is not None and precision is not None:
        settings = replace(settings, encoder_stage=replace(settings.encoder_stage, precision=settings.precision))
    return settings if seed is None else replace(settings, seed=seed)


def _mirrored_pair(text: str) -> tuple[str, str]:
    one, equals, other = (part.strip() for part in text.partition("="))
    if not (one and equals and other) or "=" in other:
        raise typer.BadParameter(f"--mirrored {text!r}: expected two classes, such as 'turn left=turn right'")
    return one, other


def train_as_asked(
    recipe: str, out: Path, settings: TrainingConfig, data: DataOptions, session: SessionOptions
) -> None:
    """Train in all processes of the run, and print the path of the weights.

    Raises:
        KeyboardInterrupt: The run was stopped; a checkpoint was written and the command to continue printed.
    """
    from tallformer_training.loop import TrainingJob, join_processes, train

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
    )
    with join_processes(session.device) as processes:
        speaker = make_speaker(quiet=session.quiet or not processes.is_main, json_logs=session.json_logs)
        stop = StopBetweenSteps(
            lambda: speaker.say("stopping", "stopping after this step, with a checkpoint (Ctrl-C again: at once)")
        )
        try:
            with stop:
                result = train(job, processes, until=stop, speaker=speaker)
        except KeyboardInterrupt:
            _say_how_to_continue(speaker, out, session.resume_command)
            raise
        line = f"written: {result.model}, after {counted(result.steps, 'step')}"
        speaker.say("written", line, out=str(result.model), steps=result.steps)
        if not result.is_finished:
            _say_how_to_continue(speaker, out, session.resume_command)
        stop.raise_again()


def _say_how_to_continue(speaker: Speaker, out: Path, command: str) -> None:
    """Print the command that continues a stopped run, unless it has not started yet."""
    from tallformer_training.loop.job import RUN_FILE

    if not (out / RUN_FILE).exists():
        return
    speaker.say("resumable", f"to continue: {command}", command=command)


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
    """The recipe of a .json file, or the preset of that name."""
    return read_recipe(Path(name)) if name.endswith(".json") else preset(name)


def _require_learning(recipe: Recipe) -> None:
    """Refuse to train an encoder alone if its first stages are frozen, and so would stay random."""
    backbone = recipe.model.backbone
    frozen = backbone.frozen_stages if isinstance(backbone, BackboneConfig) else -1
    if frozen >= 0:
        raise typer.BadParameter(
            f"recipe {recipe.name}: frozen_stages={frozen} freezes the first stages of the encoder, which are random "
            "without --init; set it to -1, or use the recipe demo"
        )


class StopBetweenSteps:
    """Tells after every training step whether to stop; handles SIGINT and SIGTERM inside its `with` block.

    The first signal stops the run after the current step. A second one, or one before the first step (when there is
    nothing to save), calls the previous handler.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        """Call `on_stop` at the first signal, to inform the user."""
        self.signal: int | None = None
        """The signal that stopped the run."""
        self._on_stop = on_stop
        self._is_stepping = False
        self._told_s = 0.0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop now."""
        self._is_stepping = True
        return self.signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_again(self) -> None:
        """Call the previous handler if a signal arrived, so that the program exits as interrupted.

        Raises:
            KeyboardInterrupt: A signal arrived.
        """
        if self.signal is not None:
            self._pass_on(self.signal, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None and self._is_stepping:
            self.signal, self._told_s = number, time.monotonic()
            self._on_stop()
        elif self.signal is None or time.monotonic() - self._told_s >= _SAME_STOP_S:
            self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
