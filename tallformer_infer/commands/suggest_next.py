"""`tallformer suggest-next`: which videos of an archive to label next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from tallformer_infer.archive.suggesting import Suggestion, Suggestions

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def suggest_next(
    archive: Annotated[
        Path, typer.Argument(metavar="ARCHIVE", show_default=False, help="Output folder of `tallformer label`.")
    ],
    count: Annotated[int, typer.Option("--count", "-n", min=1, metavar="N", help="Number of videos.")] = 10,
    labelled: Annotated[
        Path | None,
        typer.Option(metavar="TRUTH", help="Ground truth: its videos are labelled already and are not suggested."),
    ] = None,
    store: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of stored features (default: `store` in ARCHIVE).")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """Suggest which videos of an archive to label next.

    Chooses videos that differ from those already labelled or suggested, and
    whose actions have scores near 0.5. Uses the features and actions that
    `label` stored: no video is read, and nothing is written.

    [bold]Examples[/bold]

      tallformer suggest-next labels --count 20
      tallformer suggest-next labels --labelled truth.json
      tallformer suggest-next labels --json | jq -r '.videos[].path'
    """
    from tallformer_infer.archive.database import ArchiveDatabase
    from tallformer_infer.archive.store import FeatureStore
    from tallformer_infer.archive.suggesting import suggest_next as suggest

    known = frozenset[str]() if labelled is None else _labelled_in(labelled)
    if store is not None and not store.is_dir():
        raise typer.BadParameter(f"--store {store}: no such folder")
    with ArchiveDatabase(archive) as database:
        found = suggest(database, FeatureStore(store or archive / "store"), labelled=known, count=count)
    if as_json:
        typer.echo(json.dumps(_as_json(found), indent=2))
    else:
        _show(found)


def _labelled_in(path: Path) -> frozenset[str]:
    """Every video of a truth file, whatever its subset."""
    from tallformer_infer.labels import Problems, read_annotations

    problems = Problems(str(path))
    found = read_annotations(path, subset=None, defaults=("training", "validation", "testing"), problems=problems)
    problems.raise_if_any()
    return found.others | {video.name for video in found.videos}


def _as_json(found: Suggestions) -> dict[str, Any]:
    return {
        "candidates": found.candidates,
        "labelled": found.labelled,
        "without_features": found.without_features,
        "videos": [
            {
                "path": one.source,
                "duration_s": round(one.duration_s, 3),
                "value": round(one.value, 4),
                "novelty": round(one.novelty, 4),
                "nearest": one.nearest,
                "uncertainty": round(one.uncertainty, 4),
                "actions": one.actions,
                "reasons": _reasons(one),
            }
            for one in found.videos
        ],
    }


def _reasons(one: Suggestion) -> list[str]:
    from tallformer_infer.labels import bare_name_of
    from tallformer_infer.text import clock, counted, printable

    near = "the middle of the archive" if one.nearest is None else printable(bare_name_of(one.nearest))
    reasons = [f"{'far from' if one.novelty >= 0.5 else 'apart from'} {near}"]
    if one.doubtful is None:
        return [*reasons, "no action was found"]
    doubtful = one.doubtful
    return [
        *reasons,
        f"{counted(one.actions, 'action')}, least sure: {printable(doubtful.label)} {doubtful.score:.2f} "
        f"at {clock(doubtful.start_s)}",
    ]


def _show(found: Suggestions) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from tallformer_infer.text import counted, printable

    console = Console(highlight=False)
    table = Table("value", "novelty", "uncertainty", "video", "why", box=None, pad_edge=False)
    for one in found.videos:
        table.add_row(
            f"{one.value:.2f}",
            f"{one.novelty:.2f}",
            f"{one.uncertainty:.2f}",
            Text(printable(one.source), overflow="fold"),
            Text("; ".join(_reasons(one))),
        )
    console.print(table)
    if found.without_features:
        left_out = counted(found.without_features, "video")
        typer.echo(f"tallformer: left out {left_out} without stored features; `tallformer label` stores them", err=True)
    if not found.videos:
        typer.echo("tallformer: no video is left that differs from those labelled", err=True)
