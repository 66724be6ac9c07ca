"""What `tallformer archive` shows."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tallformer_infer.archive.database import ArchiveDatabase, VideoRow
from tallformer_infer.archive.queries import FoundAction, count_by_label
from tallformer_infer.commands.tables import describe_losses
from tallformer_infer.text import clock, counted, printable


def describe_archive(database: ArchiveDatabase) -> dict[str, Any]:
    """Videos by status, hours, losses, failures, models, and actions per label, as JSON."""
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
                "message": row_losses(row),
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


def row_losses(row: VideoRow) -> str:
    """What was lost of a short or damaged video; empty where nothing was."""
    told_s = None if row.result is None else row.result.get("video", {}).get("duration_s")
    return describe_losses(told_s, row.missing_s or 0.0, row.decode_errors or 0)


def show_archive(described: dict[str, Any], *, rows: int) -> None:
    """The same for people, on stdout."""
    console = Console(highlight=False)
    counts = ", ".join(f"{count} {status}" for status, count in described["videos"].items()) or "none"
    lost = "".join(f", {count} {loss}" for loss, count in described["losses"].items())
    console.print(Text(f"videos: {counts}{lost}; {described['hours']:.2f} hours"), soft_wrap=True)
    if len(described["models"]) > 1:
        console.print(Text(f"made with {len(described['models'])} models: `tallformer label` brings all to one"))
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
    """Actions as a table on stdout."""
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
