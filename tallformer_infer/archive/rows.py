"""What the archive knows of one video."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass
from typing import Any, Literal

Status = Literal["waiting", "running", "done", "failed", "ignored"]
"""`ignored`: a file of a folder that turned out not to be a video."""

FailureKind = Literal["media", "read", "crash", "killed", "hang", "output", "scores", "bug"]
"""`media`: nothing to decode; `read`: the source broke off; `crash`, `killed`, `hang`: what became of the worker;
`output`: its results cannot be written; `scores`: the file of class scores has none of it; `bug`: anything else."""

Loss = Literal["short", "damaged"]
"""What a finished video lacks: `short`: its end; `damaged`: places that could not be decoded or were left out."""

DbText = str | bytes


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """One row of `videos`; None where it is not known yet."""

    id: int
    """Number of the row."""
    source: str
    """Absolute path, or address."""
    name: str
    """Name of its result files below the results folder, without their endings; `/` between folders."""
    is_guess: bool
    """It was found in a folder and its name does not say that it is a video."""
    size_bytes: int | None
    """Size when it was last looked at."""
    mtime_ns: int | None
    """Time of change when it was last looked at, in nanoseconds."""
    content: str | None
    """What it held: `sha256:…` of a file, `address:…` of an address."""
    status: Status
    """What became of it."""
    attempts: int
    """Attempts that ended, well or not; one that was cut short by the end of the run does not count."""
    error_kind: FailureKind | None
    """Of the last attempt, if that failed."""
    error: str | None
    """One line that says why."""
    duration_s: float | None
    """Length of what was decoded, in seconds."""
    missing_s: float | None
    """What its header promises and the file does not hold at its end, in seconds."""
    decode_errors: int | None
    """Places that are damaged or left out; a missing end is one of them."""
    result: dict[str, Any] | None
    """Everything of the `Result` but its actions, as JSON."""
    selection: dict[str, Any] | None
    """Which actions were kept, a `Selection` as JSON."""
    remarks: tuple[str, ...]
    """What else there is to know, one line each."""
    encoder_hash: str | None
    """What decided its features, see `StageHashes`."""
    localizer_hash: str | None
    """What decided its candidates."""
    actions_hash: str | None
    """What decided its actions."""
    outputs: tuple[str, ...]
    """Formats of the result files that were written."""
    bundle_sha256: str | None
    """Hash of the model's description."""
    recipe_name: str | None
    """Name of the recipe."""
    recipe_sha256: str | None
    """Hash of the recipe."""
    versions: dict[str, str] | None
    """Versions of tallformer and of the libraries that decode and run the graphs."""
    started_at: str | None
    """Begin of the last attempt, UTC."""
    finished_at: str | None
    """End of the last attempt, UTC."""

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What the video lacks; nothing where it is whole, or not done."""
        is_short = bool(self.missing_s)
        is_damaged = (self.decode_errors or 0) > is_short
        return (*(("short",) if is_short else ()), *(("damaged",) if is_damaged else ()))


def row_from(record: sqlite3.Row) -> VideoRow:
    """A row as it stands in the database."""
    value = {key: record[key] for key in record.keys() if key != "name_key"}  # noqa: SIM118 (a Row is no mapping)
    value["source"], value["name"] = from_db(value["source"]), from_db(value["name"])
    value["is_guess"] = bool(value["is_guess"])
    for name in ("result", "selection", "versions"):
        value[name] = None if value[name] is None else json.loads(value[name])
    value["remarks"], value["outputs"] = tuple(json.loads(value["remarks"])), tuple(json.loads(value["outputs"]))
    return VideoRow(**value)


def to_db(text: str) -> DbText:
    """A name as SQLite takes it: a file name that is not UTF-8 can only go in as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def from_db(value: DbText) -> str:
    """The inverse of `to_db`."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
