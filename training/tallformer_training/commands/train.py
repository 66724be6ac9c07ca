"""`tallformer train`: a detector for the user's own actions, from videos and annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallformer_infer.commands.text import printable
from tallformer_infer.config import Recipe, preset, read_recipe, to_json
from tallformer_infer.errors import AnnotationError

if TYPE_CHECKING:
    from tallformer_training.datasets import DatasetRequest
    from tallformer_training.training import TrainingConfig

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def train_command(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    annotations: Annotated[
        Path, typer.Option(show_default=False, help="ActivityNet-form JSON, or the THUMOS14 text folder.")
    ],
    videos: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False, help="Folder of the annotated videos.")
    ] = None,
    recipe: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", show_default=False, help="A recipe's name, or its .json file.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="RUN", show_default=False, help="Folder for everything that comes out.")
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(metavar="FILE", show_default=False, help="Checkpoint to start from (.safetensors); else random."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(metavar="FILE", show_default=False, help="Settings of training (.json).")
    ] = None,
    epochs: Annotated[int | None, typer.Option(show_default=False, help="Passes over the videos.")] = None,
    ratio: Annotated[
        float | None,
        typer.Option(metavar="R", show_default=False, help="Part of the clips to encode; memory gives the others."),
    ] = None,
    seed: Annotated[int | None, typer.Option(show_default=False, help="Makes runs repeatable.")] = None,
    subset: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Subset to learn from.")
    ] = None,
    val_annotations: Annotated[
        Path | None, typer.Option(show_default=False, help="Annotations to measure mAP on while training.")
    ] = None,
    val_videos: Annotated[
        Path | None, typer.Option(metavar="DIR", show_default=False, help="Their videos; else those of --videos.")
    ] = None,
    val_subset: Annotated[
        str | None, typer.Option(metavar="NAME", show_default=False, help="Subset to measure on.")
    ] = None,
    repair: Annotated[
        bool, typer.Option("--repair", help="Pass over known faults of annotations, and count them.")
    ] = False,
    cache: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Folder of resized frames; runs may share it."),
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Decode videos each time: slow, no disk.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in --out.")] = False,
    resume_from: Annotated[
        Path | None,
        typer.Option(metavar="DIR", show_default=False, help="Checkpoint of the run to go on from; else the last."),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or auto.")] = "auto",
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Propose a recipe for these annotations; trains nothing.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object per line.")] = False,
) -> None:
    """Train a detector on your own videos.

    Give the videos as they are: frames are taken while training. RUN gets model.safetensors, metrics.jsonl,
    curves.png, checkpoints and the long memory. Ctrl-C loses what came after the last checkpoint; --resume goes on.

    [bold]Examples[/bold]

      tallformer train --suggest --annotations a.json > recipe.json
      tallformer train --annotations a.json --videos videos/ --recipe recipe.json --out run/
      tallformer train --annotations a.json --videos videos/ --recipe recipe.json --out run/ --resume
      torchrun --nproc-per-node 4 -m tallformer_training --annotations a.json ...
    """
    with _a_line_per_problem(as_json=json_logs):
        if suggest:
            _suggest(annotations, subset, recipe, repair=repair, json_logs=json_logs)
            return
        given = _required(videos, recipe, out)
        settings = _settings(config, epochs=epochs, ratio=ratio, seed=seed)
        data = _Data(annotations, given[0], subset, val_annotations, val_videos, val_subset, repair)
        _train(
            given[1],
            given[2],
            settings,
            data,
            _Session(init, cache, not no_cache, resume, resume_from, device, quiet, json_logs),
        )


@dataclass(frozen=True)
class _Data:
    annotations: Path
    videos: Path
    subset: str | None
    val_annotations: Path | None
    val_videos: Path | None
    val_subset: str | None
    repair: bool

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
class _Session:
    init: Path | None
    cache: Path | None
    use_cache: bool
    resume: bool
    resume_from: Path | None
    device: str
    quiet: bool
    json_logs: bool


def _required(videos: Path | None, recipe: str | None, out: Path | None) -> tuple[Path, str, Path]:
    if videos is not None and recipe is not None and out is not None:
        return videos, recipe, out
    named = {"--videos": videos, "--recipe": recipe, "--out": out}
    missing = [name for name, value in named.items() if value is None]
    raise typer.BadParameter(f"{' and '.join(missing)} must be given, unless --suggest is")


def _settings(config: Path | None, *, epochs: int | None, ratio: float | None, seed: int | None) -> TrainingConfig:
    from tallformer_training.training import TrainingConfig, read_training_config

    settings = TrainingConfig() if config is None else read_training_config(config)
    if epochs is not None:
        settings = replace(settings, epochs=epochs)
    if ratio is not None:
        settings = replace(settings, ratio=ratio)
    return settings if seed is None else replace(settings, seed=seed)


def _train(recipe: str, out: Path, settings: TrainingConfig, data: _Data, session: _Session) -> None:
    from tallformer_training.training import TrainingJob, join_processes, train
    from tallformer_training.training.display import Display

    training, validation = data.requests(settings.ignored_labels)
    job = TrainingJob(
        recipe=_recipe(recipe),
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
        result = train(job, processes)
        display = Display(is_quiet=session.quiet or not processes.is_main, as_json=session.json_logs)
        line = f"written: {result.model}, after {result.steps} steps"
        display.say(line, event="written", out=str(result.model), steps=result.steps)


def _recipe(name: str) -> Recipe:
    return read_recipe(Path(name)) if name.endswith(".json") else preset(name)


def _suggest(annotations: Path, subset: str | None, base: str | None, *, repair: bool, json_logs: bool) -> None:
    from tallformer_training.datasets.suggestion import suggest_recipe
    from tallformer_training.training.display import Display

    chosen = _recipe(base or "thumos14-swin-t")
    suggestion = suggest_recipe(annotations, subset=subset, base=chosen, repair=repair)
    display = Display(is_quiet=False, as_json=json_logs)
    for line in suggestion.explanation:
        display.say(line)
    typer.echo(json.dumps(to_json(suggestion.recipe), indent=2, ensure_ascii=False))


@contextmanager
def _a_line_per_problem(*, as_json: bool) -> Iterator[None]:
    try:
        yield
    except AnnotationError as error:
        if as_json:
            raise  # the command line writes an event for each line
        lines = str(error).splitlines()
        for line in lines:
            typer.secho(f"tallformer: error: {printable(line)}", err=True, fg=typer.colors.RED)
        if len(lines) > 1:
            typer.secho(f"tallformer: {len(lines)} problems; nothing was trained", err=True, fg=typer.colors.RED)
        raise typer.Exit(1) from error
