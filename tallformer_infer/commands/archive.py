"""`tallformer archive`: query and export the results of `tallformer label`, as tables, JSON or files."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from tallformer_infer.commands.options import exported_named
from tallformer_infer.text import clock, counted, printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.archive.database import ArchiveDatabase
    from tallformer_infer.archive.queries import FoundAction


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Query and export labelled results.",
)

_Folder = Annotated[
    Path, typer.Argument(metavar="DIR", show_default=False, help="Output folder of `tallformer label`.")
]
_Labels = Annotated[
    list[str] | None, typer.Option("--label", "-l", metavar="NAME", help="Only this class. Repeatable.")
]
_MinScore = Annotated[float | None, typer.Option(metavar="X", help="Lowest score.")]
_MaxScore = Annotated[float | None, typer.Option(metavar="X", help="Highest score.")]
_From = Annotated[float | None, typer.Option("--from", metavar="S", help="Only actions that end after this second.")]
_To = Annotated[float | None, typer.Option("--to", metavar="S", help="Only actions that start before this second.")]
_Path = Annotated[
    str | None,
    typer.Option(
        "--path", metavar="PATTERN", help="Only videos whose path matches, such as '*/2024/*', or contains this."
    ),
]


@app.command()
def status(
    folder: _Folder,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
    rows: Annotated[int, typer.Option(min=0, metavar="N", help="Failures to show.")] = 20,
) -> None:
    """Show how far an archive is, what failed and why, and its actions per label."""
    from tallformer_infer.archive.database import ArchiveDatabase

    with ArchiveDatabase(folder) as database:
        described = describe_archive(database)
        if as_json:
            typer.echo(json.dumps(described, indent=2))
        else:
            show_archive(described, rows=rows)


@app.command()
def retry(
    folder: _Folder,
    path: _Path = None,
    kinds: Annotated[
        list[str] | None,
        typer.Option("--kind", metavar="KIND", help="Only media, read, crash, killed, hang, output, scores or bug."),
    ] = None,
) -> None:
    """Have the next `tallformer label` try failed videos again."""
    from tallformer_infer.archive.database import ArchiveDatabase, FailureKind
    from tallformer_infer.archive.queries import ActionFilter
    from tallformer_infer.text import counted

    for kind in kinds or ():
        if kind not in get_args(FailureKind):
            names = ", ".join(get_args(FailureKind))
            raise typer.BadParameter(f"--kind {kind}: no such kind of failure; there are {names}")
    wanted = ActionFilter(path=path)
    with ArchiveDatabase(folder, writes=True) as database:
        failed = [
            row.id
            for row in database.videos("failed")
            if wanted.matches(row.source) and (not kinds or row.error_kind in kinds)
        ]
        database.let_wait(failed, forget_attempts=True)
    typer.echo(f"{counted(len(failed), 'video')} will be tried again by the next `tallformer label`")


@app.command()
def query(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    folder: _Folder,
    labels: _Labels = None,
    min_score: _MinScore = None,
    max_score: _MaxScore = None,
    from_s: _From = None,
    to_s: _To = None,
    path: _Path = None,
    limit: Annotated[int, typer.Option(min=0, metavar="N", help="Number of actions, best first; 0: all.")] = 100,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """List actions, those of the highest scores first.

    [bold]Examples[/bold]

      tallformer archive query labels --label wave --min-score 0.6
      tallformer archive query labels --path '*/2024/*' --from 60 --to 120
    """
    from tallformer_infer.archive.database import ArchiveDatabase
    from tallformer_infer.archive.queries import find_actions

    wanted = _filter(labels, min_score, max_score, from_s, to_s, path, limit or None)
    with ArchiveDatabase(folder) as database:
        found = find_actions(database, wanted)
        if as_json:
            for action in found:
                typer.echo(as_json_line(action))
        else:
            show_actions(list(found), limit=limit)


@app.command()
def export(  # noqa: PLR0913, PLR0917
    folder: _Folder,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", show_default=False, help="Output file or folder.")
    ],
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            parser=exported_named,
            help="Output format (default: from the ending of --out).",
            show_default=False,
        ),
    ] = None,
    labels: _Labels = None,
    min_score: _MinScore = None,
    max_score: _MaxScore = None,
    from_s: _From = None,
    to_s: _To = None,
    path: _Path = None,
) -> None:
    """Write actions to one file, by video and start.

    Formats: parquet, csv, jsonl; json, activitynet, tsv, labelstudio, via and
    boris hold whole videos, and so do srt, vtt, eaf, otio, edl, fcp7 and
    ffmetadata, of which --out is a folder. Of the filters these take --path.
    """
    from tallformer_infer.archive.database import ArchiveDatabase
    from tallformer_infer.archive.queries import EXPORT_FORMATS, FOLDER_FORMATS, export_actions
    from tallformer_infer.text import counted, printable

    chosen = form or out.suffix.lstrip(".")
    if form is None and chosen in FOLDER_FORMATS:
        raise typer.BadParameter(f"{out}: {chosen} holds one video per file; name a folder, and --format {chosen}")
    if chosen not in EXPORT_FORMATS:
        names = ", ".join(EXPORT_FORMATS)
        raise typer.BadParameter(f"{out}: its ending names no format; --format is one of {names}")
    filters = (labels or None, min_score, max_score, from_s, to_s)
    if chosen not in ("parquet", "csv", "jsonl") and any(value is not None for value in filters):
        raise typer.BadParameter(f"--format {chosen} holds whole videos: of the filters it takes --path only")
    wanted = _filter(labels, min_score, max_score, from_s, to_s, path, None)
    with ArchiveDatabase(folder) as database:
        count = export_actions(database, wanted, out, chosen)
    typer.echo(f"wrote {counted(count, 'action')} to {printable(out)}", err=True)


def _filter(
    labels: list[str] | None,
    min_score: float | None,
    max_score: float | None,
    from_s: float | None,
    to_s: float | None,
    path: str | None,
    limit: int | None,
) -> Any:
    from tallformer_infer.archive.queries import ActionFilter

    return ActionFilter(
        labels=tuple(labels or ()),
        min_score=min_score,
        max_score=max_score,
        from_s=from_s,
        to_s=to_s,
        path=path,
        limit=limit,
    )


def describe_archive(database: ArchiveDatabase) -> dict[str, Any]:
    """Videos by status, hours, losses, failures, models, and actions per label, as JSON."""
    from tallformer_infer.archive.queries import count_by_label

    rows = database.videos()
    models = collections.Counter((row.recipe_name, row.bundle_sha256) for row in rows if row.status == "done")
    return {
        "videos": dict(sorted(collections.Counter(row.status for row in rows).items())),
        "losses": dict(sorted(collections.Counter(loss for row in rows for loss in row.losses).items())),
        "hours": round(sum(row.duration_s or 0.0 for row in rows) / 3600, 4),
        "models": [
            {"recipe": recipe, "bundle_sha256": sha256, "videos": count} for (recipe, sha256), count in models.items()
        ],
        "labels": [
            {"label": name, "actions": count, "seconds": round(seconds, 3)}
            for name, count, seconds in count_by_label(database)
        ],
        "incomplete": [
            {
                "path": row.source,
                "missing_s": round(row.missing_s or 0.0, 3),
                "decode_errors": row.decode_errors,
                "losses": row.losses,
                "message": row.describe_losses(),
            }
            for row in rows
            if row.losses
        ],
        "failures": [
            {"path": row.source, "kind": row.error_kind, "error": row.error, "attempts": row.attempts}
            for row in rows
            if row.status == "failed"
        ],
    }


def show_archive(described: dict[str, Any], *, rows: int) -> None:
    """Print what `describe_archive` found, on stdout."""
    console = Console(highlight=False)
    counts = ", ".join(f"{count} {status}" for status, count in described["videos"].items()) or "none"
    lost = "".join(f", {count} {loss}" for loss, count in described["losses"].items())
    console.print(Text(f"videos: {counts}{lost}; {described['hours']:.2f} hours"), soft_wrap=True)
    if len(described["models"]) > 1:
        console.print(Text(f"made with {len(described['models'])} models; run `tallformer label` to bring all to one"))
    if described["labels"]:
        table = Table("label", "actions", "time", box=None, pad_edge=False)
        for one in described["labels"]:
            table.add_row(Text(printable(one["label"])), f"{one['actions']}", clock(one["seconds"], digits=0))
        console.print(table)
    incomplete = described["incomplete"]
    for one in incomplete[:rows]:
        console.print(Text(f"{printable(one['path'])}: {one['message']}", style="yellow"), soft_wrap=True)
    if len(incomplete) > rows:
        console.print(Text(f"… and {counted(len(incomplete) - rows, 'incomplete video')} more; --json lists all"))
    failures = described["failures"]
    for one in failures[:rows]:
        tries = f", after {counted(one['attempts'], 'attempt')}" if one["attempts"] > 1 else ""
        line = printable(one["error"])
        path = printable(one["path"])
        console.print(
            Text(f"{line if line.startswith(path) else f'{path}: {line}'} ({one['kind']}{tries})", style="red"),
            soft_wrap=True,
        )
    if len(failures) > rows:
        console.print(Text(f"… and {counted(len(failures) - rows, 'failure')} more; --json lists all"))


def show_actions(found: Sequence[FoundAction], *, limit: int) -> None:
    """Print actions as a table, on stdout."""
    console = Console(highlight=False)
    table = Table("score", "label", "start", "end", "video", box=None, pad_edge=False)
    for action in found:
        table.add_row(
            f"{action.score:.3f}",
            Text(printable(action.label)),
            clock(action.start_s),
            clock(action.end_s),
            Text(printable(action.source), overflow="fold"),
        )
    console.print(table)
    if limit and len(found) == limit:
        console.print(Text(f"the best {limit}; --limit 0 shows all"))


def as_json_line(action: FoundAction) -> str:
    """An action as one line of JSON."""
    return json.dumps(
        {
            "path": action.source,
            "start_s": round(action.start_s, 6),
            "end_s": round(action.end_s, 6),
            "label": action.label,
            "score": round(action.score, 6),
        }
    )
