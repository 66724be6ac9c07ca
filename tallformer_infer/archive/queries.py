"""Query the actions of an archive, in well under 0.1 s for a million, and export them to files.

Note [which index]
    Actions are returned best first. A scan of the index by score stops as soon as enough actions pass the filters; it
    is slow only if few pass. Those are found faster by time or by video, and then sorted. SQLite cannot know which case
    applies, so matches are counted first, up to a limit, and the query names the index.
    Source: sqlite.org/lang_indexedby.
"""

from __future__ import annotations

import csv
import fnmatch
import itertools
import json
import re
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tallformer_infer.archive.database import ArchiveDatabase, from_db
from tallformer_infer.archive.places import place_in
from tallformer_infer.archive.results import file_name, stored_result
from tallformer_infer.config import from_json
from tallformer_infer.errors import ArchiveError, OutputError
from tallformer_infer.files import replacing, writing
from tallformer_infer.labels import (
    CELL,
    FOR_RESULTS,
    FORMATS,
    activitynet_document,
    encode_labels,
    escape,
    guard_formula,
    labelled_video,
    require_libraries,
)
from tallformer_infer.results import (
    Failure,
    Selection,
    actions_document,
    check_destination,
    write_content,
    write_document,
)

_FEW = 100_000


@dataclass(frozen=True, kw_only=True)
class ActionFilter:
    """Filters for actions; None or empty: not filtered."""

    labels: tuple[str, ...] = ()
    """Exact class names."""
    min_score: float | None = None
    """Lowest score."""
    max_score: float | None = None
    """Highest score."""
    from_s: float | None = None
    """Actions that end after this, in seconds on the file's own timeline."""
    to_s: float | None = None
    """Actions that start before this, in seconds on the file's own timeline."""
    path: str | None = None
    """Pattern for the source, with `*`, `?`, `[abc]` and `[!abc]`; without these, a substring."""
    limit: int | None = 100
    """Most actions to return."""

    def matches(self, source: str) -> bool:
        """Whether a source matches `path`."""
        return self.path is None or fnmatch.fnmatchcase(source, _pattern(self.path))


@dataclass(frozen=True)
class FoundAction:
    """One action of an archive."""

    source: str
    """Absolute path or URL of the video."""
    start_s: float
    """Start, in seconds."""
    end_s: float
    """End, in seconds."""
    label: str
    """Name of the action."""
    score: float
    """Confidence in [0, 1]."""


@dataclass(frozen=True)
class _Condition:
    column: str
    sql: str
    values: tuple[Any, ...] = ()


def find_actions(database: ArchiveDatabase, wanted: ActionFilter) -> Iterator[FoundAction]:
    """Matching actions, by decreasing score, earlier ones first among equals.

    Raises:
        ArchiveError: The archive has no action with one of the labels.
    """
    connection = database.connection
    conditions = _conditions(connection, wanted)
    index = _index(connection, wanted, conditions)
    limit = "LIMIT ?" if wanted.limit is not None else ""
    values = [*_values(conditions), *([wanted.limit] if limit else [])]
    rows = connection.execute(
        "SELECT source, start_s, end_s, labels.name, best.score FROM ("
        f"SELECT id, video_id, label_id, start_s, end_s, score FROM actions INDEXED BY {index} {_where(conditions)} "
        f"ORDER BY score DESC, start_s {limit}) AS best "
        "JOIN videos ON videos.id = best.video_id JOIN labels ON labels.id = best.label_id "
        "ORDER BY best.score DESC, best.start_s, best.id",
        values,
    )
    return (FoundAction(from_db(row[0]), *row[1:]) for row in rows)


def list_actions(database: ArchiveDatabase, wanted: ActionFilter) -> Iterator[FoundAction]:
    """All matching actions, by video and start; the limit is ignored.

    Raises:
        ArchiveError: The archive has no action with one of the labels.
    """
    conditions = _conditions(database.connection, wanted)
    rows = database.connection.execute(
        "SELECT source, start_s, end_s, labels.name, score FROM actions JOIN videos ON videos.id = video_id "
        f"JOIN labels ON labels.id = label_id {_where(conditions)} ORDER BY video_id, start_s, end_s, score DESC",
        _values(conditions),
    )
    return (FoundAction(from_db(row[0]), *row[1:]) for row in rows)


def count_by_label(database: ArchiveDatabase) -> list[tuple[str, int, float]]:
    """Name, number of actions and total seconds of every label, sorted by name."""
    rows = database.connection.execute(
        "SELECT name, count, seconds FROM labels JOIN (SELECT label_id, count(*) AS count, "
        "sum(end_s - start_s) AS seconds FROM actions GROUP BY label_id) ON label_id = labels.id ORDER BY name"
    )
    return [tuple(row) for row in rows]


def _label_ids(connection: sqlite3.Connection, names: tuple[str, ...]) -> list[int]:
    known = {name: number for number, name in connection.execute("SELECT id, name FROM labels")}
    for name in names:
        if name not in known:
            raise ArchiveError(
                f"label {name!r}: no action has it; there are {', '.join(sorted(known)) or 'no actions'}"
            )
    return [known[name] for name in names]


def _video_ids(connection: sqlite3.Connection, path: str | None) -> list[int] | None:
    if path is None:
        return None
    # Not SQLite's GLOB, where [!a] and [^a] have the opposite meaning to `ActionFilter.matches`.
    matches = re.compile(fnmatch.translate(_pattern(path))).match
    return [
        number for number, source in connection.execute("SELECT id, source FROM videos") if matches(from_db(source))
    ]


def _pattern(path: str) -> str:
    return path if any(character in path for character in "*?[") else f"*{path}*"


def _conditions(connection: sqlite3.Connection, wanted: ActionFilter) -> list[_Condition]:
    # Ids are inlined, as SQLite limits the number of parameters.
    conditions = []
    if labels := _label_ids(connection, wanted.labels):
        conditions.append(_Condition("label_id", f"label_id IN ({', '.join(map(str, labels))})"))
    videos = _video_ids(connection, wanted.path)
    if videos is not None:
        conditions.append(_Condition("video_id", f"video_id IN ({', '.join(map(str, videos))})"))
    if wanted.min_score is not None:
        conditions.append(_Condition("score", "score >= ?", (wanted.min_score,)))
    if wanted.max_score is not None:
        conditions.append(_Condition("score", "score <= ?", (wanted.max_score,)))
    if wanted.to_s is not None:
        conditions.append(_Condition("start_s", "start_s < ?", (wanted.to_s,)))
    if wanted.from_s is not None:
        (longest_s,) = connection.execute("SELECT max(end_s - start_s) FROM actions").fetchone()
        conditions.append(_Condition("start_s", "start_s > ?", (wanted.from_s - (longest_s or 0.0) - 1e-6,)))
        conditions.append(_Condition("end_s", "end_s > ?", (wanted.from_s,)))
    return conditions


def _index(connection: sqlite3.Connection, wanted: ActionFilter, conditions: list[_Condition]) -> str:
    """See Note [which index]."""
    for column, name in (("video_id", "actions_by_video"), ("start_s", "actions_by_time")):
        own = [condition for condition in conditions if condition.column == column]
        if own:
            counting = f"SELECT 1 FROM actions INDEXED BY {name} {_where(own)} LIMIT {_FEW}"
            (count,) = connection.execute(f"SELECT count(*) FROM ({counting})", _values(own)).fetchone()
            if count < _FEW:
                return name
    return "actions_by_label" if len(wanted.labels) == 1 else "actions_by_score"


def _values(conditions: list[_Condition]) -> list[Any]:
    return [value for condition in conditions for value in condition.values]


def _where(conditions: list[_Condition]) -> str:
    return f"WHERE {' AND '.join(condition.sql for condition in conditions)}" if conditions else ""


_BY_ACTION = ("parquet", "csv", "jsonl")
EXPORT_FORMATS: tuple[str, ...] = (*_BY_ACTION, *(name for name in FOR_RESULTS if name not in _BY_ACTION))
"""Formats: first those that support every filter, then those with whole videos."""
FOLDER_FORMATS = tuple(name for name in FOR_RESULTS if FORMATS[name].holds_one_video)
"""Formats of one video per file."""
COLUMNS = ("path", "start_s", "end_s", "label", "score")
_ROWS_AT_ONCE = 50_000


def export_actions(database: ArchiveDatabase, wanted: ActionFilter, out: Path, form: str) -> int:
    """Write matching actions, by video and start. Files are replaced atomically.

    Args:
        database: The archive.
        wanted: Filters; formats other than `parquet`, `csv` and `jsonl` contain whole videos and only use the path.
        out: The file; for formats with one video per file a folder, with the names of the result files.
        form: One of `EXPORT_FORMATS`.

    Returns:
        Number of actions.

    Raises:
        ArchiveError: The results are of several models, or a label is unknown.
        OutputError: The file cannot be written.
        ModuleNotFoundError: pyarrow is needed and not installed.
    """
    if form in FOLDER_FORMATS:
        return _write_folder(database, wanted, out, form)
    check_destination(out, example="actions.parquet")
    match form:
        case "parquet":
            return _replace(out, lambda path: _write_parquet(path, list_actions(database, wanted)))
        case "csv":
            return _replace(out, lambda path: _write_text(path, _write_csv, list_actions(database, wanted)))
        case "jsonl":
            return _replace(out, lambda path: _write_text(path, _write_jsonl, list_actions(database, wanted)))
        case _:
            return _write_results(database, wanted, out, form)


def _replace(out: Path, write: Callable[[Path], int]) -> int:
    with writing(out), replacing(out) as temporary:
        return write(temporary)


def _write_parquet(path: Path, actions: Iterator[FoundAction]) -> int:
    import pyarrow  # noqa: PLC0415 (an extra)
    from pyarrow import parquet  # noqa: PLC0415

    text, number = pyarrow.string(), pyarrow.float64()
    kinds = {"path": text, "start_s": number, "end_s": number, "label": pyarrow.dictionary(pyarrow.int32(), text)}
    schema = pyarrow.schema([*kinds.items(), ("score", number)])
    count = 0
    with parquet.ParquetWriter(path, schema) as writer:
        while rows := list(itertools.islice(actions, _ROWS_AT_ONCE)):
            values = [{**_as_row(row), "path": _as_text(row.source)} for row in rows]
            writer.write_table(pyarrow.Table.from_pylist(values, schema=schema))
            count += len(rows)
    return count


def _write_text(
    path: Path, write: Callable[[IO[str], Iterator[FoundAction]], int], actions: Iterator[FoundAction]
) -> int:
    with path.open("x", encoding="utf-8", newline="") as file:
        return write(file, actions)


def _write_csv(file: IO[str], actions: Iterator[FoundAction]) -> int:
    """Cells as `tables.encode_csv` writes them, so that `convert` can read them."""
    writer = csv.writer(file, quoting=csv.QUOTE_NONNUMERIC)
    writer.writerow(COLUMNS)
    count = 0
    for count, action in enumerate(actions, 1):  # noqa: B007 (the last one is the count)
        cells = [_as_row(action)[column] for column in COLUMNS]
        writer.writerow([guard_formula(escape(cell, CELL)) if isinstance(cell, str) else cell for cell in cells])
    return count


def _write_jsonl(file: IO[str], actions: Iterator[FoundAction]) -> int:
    count = 0
    for count, action in enumerate(actions, 1):  # noqa: B007
        file.write(json.dumps(_as_row(action)) + "\n")
    return count


def _as_row(action: FoundAction) -> dict[str, Any]:
    """A row of `COLUMNS`; bytes of a name that are not UTF-8 become `\\xNN`."""
    path = action.source.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    return {
        "path": path,
        "start_s": action.start_s,
        "end_s": action.end_s,
        "label": action.label,
        "score": action.score,
    }


def _as_text(source: str) -> str:
    """A name for UTF-8 columns; bytes that are not UTF-8 become escapes."""
    return source.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def _write_results(
    database: ArchiveDatabase,
    wanted: ActionFilter,
    out: Path,
    form: str,
) -> int:
    rows = [row for row in database.videos("done") if wanted.matches(row.source)]
    results = [stored_result(database, row) for row in rows]
    if form not in ("json", "activitynet"):
        write_content(encode_labels([labelled_video(result) for result in results], form, folder=out.parent), out)
        return sum(len(result.actions) for result in results)
    failures = [Failure(row.source, row.error or "") for row in database.videos("failed")]
    try:
        (selection,) = {json.dumps(row.selection): row.selection for row in rows}.values()
        make = actions_document if form == "json" else activitynet_document
        kept = from_json(Selection, selection, where="selection")
        write_document(make(results, selection=kept, failures=failures), out)
    except ValueError as error:
        raise ArchiveError(
            f"{database.path.parent}: has no results, or those of several models or settings; "
            "export csv, jsonl or parquet, or label all with one model"
        ) from error
    return sum(len(result.actions) for result in results)


def _write_folder(database: ArchiveDatabase, wanted: ActionFilter, out: Path, form: str) -> int:
    require_libraries(form)
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out}: {form} holds one video per file; expected a folder")
    count = 0
    for row in database.videos("done"):
        if wanted.matches(row.source):
            path = place_in(out, file_name(row.name, form))
            result = stored_result(database, row)
            write_content(encode_labels([labelled_video(result)], form, folder=path.parent), path)
            count += len(result.actions)
    return count
