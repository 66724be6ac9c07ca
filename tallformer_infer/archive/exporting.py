"""Export the actions of an archive to one file, or one file per video."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any

from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.places import place_in
from tallformer_infer.archive.queries import ActionFilter, FoundAction, list_actions
from tallformer_infer.archive.results import file_name, stored_result
from tallformer_infer.config import from_json
from tallformer_infer.errors import ArchiveError, OutputError
from tallformer_infer.files import replacing
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

_BY_ACTION = ("parquet", "csv", "jsonl")
EXPORT_FORMATS: tuple[str, ...] = (*_BY_ACTION, *(name for name in FOR_RESULTS if name not in _BY_ACTION))
"""Formats: first those that take every filter, then those of whole videos."""
FOLDER_FORMATS = tuple(name for name in FOR_RESULTS if FORMATS[name].holds_one_video)
"""Formats of one video per file."""
COLUMNS = ("path", "start_s", "end_s", "label", "score")
_ROWS_AT_ONCE = 50_000


def export_actions(database: ArchiveDatabase, wanted: ActionFilter, out: Path, form: str) -> int:
    """Write the actions that pass, by video and start. A file is replaced whole or not at all.

    Args:
        database: The archive.
        wanted: Which actions; all but `parquet`, `csv` and `jsonl` hold whole videos and take only the path.
        out: The file; for formats of one video per file a folder, in which they get the names of the result files.
        form: One of `EXPORT_FORMATS`.

    Returns:
        How many there are.

    Raises:
        ArchiveError: The results are of several models, or a label is not known.
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
    try:
        with replacing(out) as temporary:
            return write(temporary)
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error


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
        raise OutputError(f"{out}: {form} holds one video per file; name a folder")
    count = 0
    for row in database.videos("done"):
        if wanted.matches(row.source):
            path = place_in(out, file_name(row.name, form))
            result = stored_result(database, row)
            write_content(encode_labels([labelled_video(result)], form, folder=path.parent), path)
            count += len(result.actions)
    return count
