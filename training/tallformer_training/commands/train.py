"""`tallformer train`: a detector for the user's own actions, from videos and annotations."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from tallformer_infer.config import to_json
from tallformer_infer.errors import AnnotationError
from tallformer_infer.text import printable
from tallformer_training.commands.train_options import (
    DataOptions,
    SessionOptions,
    make_display,
    make_settings,
    recipe_named,
    resume_command,
    train_as_asked,
)

if TYPE_CHECKING:
    from tallformer_training.training.display import Display

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_BASE = "kinetics400-i3d"
"""What `--suggest` starts from unless it is told."""


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
            help="What to start from: a checkpoint (.safetensors), or a bundle such as kinetics400, whose encoder is "
            "taken; else random.",
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
            metavar="N", show_default=False, help="Passes over the videos (default: 1000; models of whole videos: 10)."
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
            help="Train an encoder without weights alone first, for N steps on single clips; 0: off.",
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
    works: take the recipe demo, whose small encoder can learn from nothing, and
    train it alone first (--encoder-steps).

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
            _suggest(annotations, subset, recipe, repair=repair, display=make_display(quiet=quiet, json_logs=json_logs))
            return
        given = _required(videos, recipe, out)
        if encoder_steps and init is not None:
            raise typer.BadParameter(
                "--encoder-steps is for an encoder without trained weights; leave it out, or --init"
            )
        settings = make_settings(
            config,
            given[1],
            epochs=epochs,
            ratio=ratio,
            seed=seed,
            encoder_steps=encoder_steps,
            mirrored=mirrored or (),
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
    raise typer.BadParameter(f"{', '.join(missing)}: missing; only --suggest does without")


def _suggest(annotations: Path, subset: str | None, base: str | None, *, repair: bool, display: Display) -> None:
    from tallformer_training.datasets.suggestion import suggest_recipe

    chosen = recipe_named(base or _BASE)
    suggestion = suggest_recipe(annotations, subset=subset, base=chosen, repair=repair)
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
