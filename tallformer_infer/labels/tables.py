"""CSV, TSV, JSON lines and Parquet: a row per action, for any number of videos.

A video without actions is a row with only the video filled in. Times are in seconds, except in TSV, which uses
milliseconds and starts with the columns `start`, `end`, `text`, as Whisper's TSV does.

Source: RFC 4180; the columns of Whisper's TSV as its writer has them.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError, ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.labels.files import (
    CELL,
    LINE,
    Problems,
    escape,
    guard_formula,
    number,
    read_bytes,
    read_decoded,
    read_text,
    shown,
    unescape,
    unguard_formula,
)
from tallformer_infer.labels.segments import GatheredVideos, LabelledVideo, in_time_order, milliseconds, named_after

CSV_COLUMNS = ("video", "start_s", "end_s", "label", "score")
TSV_COLUMNS = ("start", "end", "text", "score", "video")
REQUIRED = ("start_s", "end_s", "label")
"""Required columns."""
_ALIASES = {
    alias: name
    for name, aliases in {
        "video": "path file filename file_name video_id video_name video_path media_file media_file_name",
        "start_s": "start_seconds start_sec t_start start_timestamp",
        "end_s": "stop_s end_seconds stop_seconds end_sec t_end stop_timestamp end_timestamp",
        "start": "begin start_time begin_time",
        "end": "stop end_time stop_time",
        "label": "text action class behavior behaviour",
        "score": "confidence probability",
    }.items()
    for alias in aliases.split()
}
"""Column names used by other programs."""
_SEPARATOR = re.compile(r'"?sep=([^"\r\n])"?\r?\n', re.IGNORECASE)
_CLOCK = re.compile(r"(-?)(?:(\d+):)?([0-5]?\d):([0-5]?\d(?:[.,]\d+)?)")


def encode_csv(videos: Sequence[LabelledVideo]) -> str:
    """Encode videos as CSV with all text quoted; text that starts like a formula is prefixed with an apostrophe."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for row in _rows(videos, times=_seconds):
        cells = [row[column] for column in CSV_COLUMNS]
        writer.writerow([guard_formula(escape(cell, CELL)) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def encode_tsv(videos: Sequence[LabelledVideo]) -> str:
    """Encode videos as TSV, with times in whole milliseconds."""
    lines = ["\t".join(TSV_COLUMNS)]
    for row in _rows(videos, times=milliseconds):
        cells = (row["start_s"], row["end_s"], row["label"], row["score"], row["video"])
        lines.append(
            "\t".join(
                guard_formula(escape(cell, LINE)) if isinstance(cell, str) else "" if cell is None else str(cell)
                for cell in cells
            )
        )
    return "\n".join(lines) + "\n"


def encode_jsonl(videos: Sequence[LabelledVideo]) -> str:
    """Encode videos as JSON lines, one object per action."""
    return "".join(f"{_json(row)}\n" for row in _rows(videos, times=_seconds))


def read_csv(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read CSV with a header row, as saved by spreadsheet programs.

    Columns, in any order and letter case: `start_s`, `end_s` (seconds, or hours:minutes:seconds) and `label`;
    optionally `video` or `path`, and `score`. `start` and `end` are accepted if all their cells are clock times. A file
    without a video column is about one video, named after the file. The separator is a comma, semicolon, tab or bar, or
    the one given in a line `sep=` before the header.

    Raises:
        AnnotationError: The file cannot be read, lacks a column, or has malformed rows; one line each.
    """
    separator, table = _table(path)
    return _read_table(path, table, problems, _time_or_thousands if separator == "," else _time)


def read_columns(path: Path) -> list[str]:
    """The columns of a table by their names here, from its header alone.

    Raises:
        AnnotationError: The file cannot be read.
    """
    return _heading(_table(path, most_lines=1)[1])


def read_rows(path: Path, problems: Problems) -> list[tuple[str, dict[str, str]]]:
    """Rows of a table: the name of each row for messages, and its cells by the columns of `read_columns`.

    Raises:
        AnnotationError: The file cannot be read.
    """
    _, table = _table(path)
    return list(_cells_by_column(_heading(table), table, problems))


def _table(path: Path, *, most_lines: int | None = None) -> tuple[str, list[tuple[int, list[str]]]]:
    """Separator of a CSV file, and the line number and cells of every non-empty line."""
    text, first_line = read_decoded(path), 1
    if declared := _SEPARATOR.match(text):
        text, first_line = text[declared.end() :], 2
    heading = text.lstrip("\r\n").partition("\n")[0]
    separator = declared[1] if declared else max(",;\t|", key=heading.count)
    rows = csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
    try:
        lines = ((rows.line_num + first_line - 1, row) for row in rows if any(cell.strip() for cell in row))
        table = list(itertools.islice(lines, most_lines))
    except csv.Error as error:
        raise AnnotationError(f"{path}: line {rows.line_num + first_line - 1}: not CSV: {error}") from error
    return separator, table


def read_tsv(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read TSV with a header row: `start`, `end` (milliseconds) and `text`, optionally `score` and `video`.

    A file without these three columns of Whisper's is read by `read_csv`.

    Raises:
        AnnotationError: The file cannot be read, lacks a column, or has malformed rows; one line each.
    """
    lines = read_text(path).split("\n")
    table = [(place, line.split("\t")) for place, line in enumerate(lines, start=1) if line.strip()]
    if table and not {"start", "end", "text"} <= {cell.strip().casefold() for cell in table[0][1]}:
        return read_csv(path, problems)
    return _read_table(path, table, problems, _time_in_milliseconds, are_milliseconds=True)


def read_jsonl(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read one JSON object per line: `start_s`, `end_s` and `label`, optionally `video` or `path`, and `score`.

    Raises:
        AnnotationError: The file cannot be read, or has malformed lines; one line each.
    """
    found = GatheredVideos(problems)
    for place, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(f"line {place}", f"not JSON: {error}")
            continue
        expected = f'expected an object with "start_s", "end_s" and "label", got {shown(row)}'
        if not isinstance(row, dict):
            problems.add(f"line {place}", expected)
            continue
        row = {_column(key): value for key, value in reversed(row.items())}
        if not isinstance(row.get("video", ""), str | None):
            problems.add(f"line {place}", expected)
            continue
        _add_row(found, f"line {place}", row, path, _time_or_thousands)
    return found.videos()


def read_parquet(path: Path, problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read Parquet with the columns of `archive export`: `path`, `start_s`, `end_s`, `label` and `score`.

    Raises:
        AnnotationError: The file cannot be read, lacks a column, or has malformed rows; one line each.
        ExtraError: pyarrow is not installed.
    """
    try:
        import pyarrow  # noqa: PLC0415 (an extra)
        from pyarrow import parquet  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ExtraError(
            f"parquet needs the extra 'archive' (pyarrow is not installed): {install_command('archive')}"
        ) from error
    try:
        table = parquet.read_table(pyarrow.BufferReader(read_bytes(path)))
    except (pyarrow.ArrowException, OSError) as error:
        raise AnnotationError(f"{path}: not Parquet: {' '.join(str(error).split())}") from error
    names = {_column(name): name for name in reversed(table.column_names)}
    _require_columns(path, list(names))
    found = GatheredVideos(problems)
    columns = {key: table.column(names[key]).to_pylist() for key in (*REQUIRED, "video", "score") if key in names}
    for place in range(table.num_rows):
        _add_row(found, f"row {place + 1}", {key: column[place] for key, column in columns.items()}, path, number)
    return found.videos()


def _rows(videos: Sequence[LabelledVideo], *, times: Callable[[float], float | int]) -> Iterator[dict[str, Any]]:
    for video in videos:
        if not video.segments:
            yield {"video": video.name, "start_s": None, "end_s": None, "label": None, "score": None}
        for segment in in_time_order(video.segments):
            yield {
                "video": video.name,
                "start_s": times(segment.start_s),
                "end_s": times(segment.end_s),
                "label": segment.label,
                "score": None if segment.score is None else round(segment.score, 6),
            }


def _seconds(value: float) -> float:
    return round(float(value), 6) + 0.0


def _json(row: dict[str, Any]) -> str:
    text = json.dumps(row, ensure_ascii=False, allow_nan=False)
    return json.dumps(row) if CELL.search(text) or LINE.search(text) else text  # these need \u escapes


def _read_table(
    path: Path,
    table: list[tuple[int, list[str]]],
    problems: Problems,
    to_seconds: Callable[[object], float | None],
    *,
    are_milliseconds: bool = False,
) -> tuple[LabelledVideo, ...]:
    heading = _heading(table)
    clocks = {"start": "start_s", "end": "end_s"}
    if are_milliseconds or _has_clocks(heading, table):
        heading = [clocks.get(name, name) for name in heading]
    _require_columns(path, heading, names=("start", "end", "text") if are_milliseconds else REQUIRED)
    found = GatheredVideos(problems)
    for place, row in _cells_by_column(heading, table, problems):
        row["score"] = str(row.get("score") or "").replace(",", ".")
        unit = "whole milliseconds (columns for seconds are start_s, end_s)" if are_milliseconds else "seconds"
        _add_row(found, place, row, path, to_seconds, unit)
    return found.videos()


def _heading(table: list[tuple[int, list[str]]]) -> list[str]:
    heading = [_column(cell) for cell in table[0][1]] if table else []
    while heading and not heading[-1]:  # trailing commas written by spreadsheet programs
        heading.pop()
    return heading


def _cells_by_column(
    heading: list[str], table: list[tuple[int, list[str]]], problems: Problems
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row's name for messages and its cells; a row of another length is a problem."""
    for place, cells in table[1:]:
        row = _cells_of(heading, cells)
        if row is None:
            problems.add(f"line {place}", f"has {len(cells)} cells, expected {len(heading)} as in the header")
        else:
            yield f"line {place}", row


def _column(name: str) -> str:
    """Normalize the name of a column: `Path` is `video`, `Start (s)` is `start_s`."""
    key = re.sub(r"[\s_-]+", "_", name.strip().casefold().replace("(", " ").replace(")", " ")).strip("_")
    return _ALIASES.get(key, key)


def _require_columns(path: Path, heading: list[str], *, names: tuple[str, str, str] = REQUIRED) -> None:
    missing = [name for name, key in zip(names, REQUIRED, strict=True) if key not in heading]
    if not missing:
        return
    hint = f"; expected a header row with {', '.join(names)}"
    if missing == ["start_s", "end_s"] and {"start", "end"} <= set(heading):
        hint = ": start and end have no unit; rename them to start_s and end_s if they are in seconds"
    raise AnnotationError(f"{path}: lacks the column {', '.join(missing)}{hint}")


def _has_clocks(heading: list[str], table: list[tuple[int, list[str]]]) -> bool:
    """Whether all cells of `start` and `end` are clock times (hours:minutes:seconds), which need no unit."""
    columns = [heading.index(name) for name in ("start", "end") if name in heading]
    cells = [cells[column] for _, cells in table[1:] for column in columns if column < len(cells)]
    return bool(cells) and all(_CLOCK.fullmatch(cell.strip()) for cell in cells if cell.strip())


def _cells_of(heading: list[str], cells: list[str]) -> dict[str, Any] | None:
    """Cells by column, the first one of duplicate columns; None if a required cell is missing or there are too many."""
    if any(cell.strip() for cell in cells[len(heading) :]):
        return None
    if any(name in REQUIRED for name in heading[len(cells) :]):
        return None
    pairs = list(zip(heading, cells, strict=False))
    return {name: unescape(unguard_formula(cell)) for name, cell in reversed(pairs)}


def _add_row(
    found: GatheredVideos,
    key: str,
    row: dict[str, Any],
    path: Path,
    to_seconds: Callable[[object], float | None],
    unit: str = "seconds",
) -> None:
    """Add an action, or a video without actions if only the video is filled in."""
    video = row.get("video")
    values = [row.get(name) for name in REQUIRED]
    if video is None:
        about = named_after(path)
        video = about.name
        found.add_video(video, has_bare_name=about.has_bare_name)
    elif not video:
        found.refuse(key, "has an empty video column; expected the name of a video")
        return
    elif all(value in (None, "") for value in values):
        found.add_video(video)
        return
    ends_s = [to_seconds(value) for value in values[:2]]
    if None in ends_s:
        found.refuse(key, f"expected start and end in {unit}, got {shown(values[:2])}")
        return
    score = row.get("score")
    found.add(video, key, ends_s, values[2], score=None if score == "" else score)


def _time(value: object) -> float | None:
    """Parse a number of seconds, also with a decimal comma, or a clock time; None for anything else."""
    if not isinstance(value, str):
        return number(value)
    text = value.strip()
    if clock := _CLOCK.fullmatch(text):
        sign, hours, minutes, seconds = clock.groups()
        found = int(hours or 0) * 3600 + int(minutes) * 60 + float(seconds.replace(",", "."))
        return round(-found if sign else found, 6)
    return number(text.replace(",", ".") if re.fullmatch(r"-?\d+,\d+", text) else text)


def _time_or_thousands(value: object) -> float | None:
    """Like `_time`, but None for `1,500`, whose comma may also be a thousands separator."""
    return None if isinstance(value, str) and re.fullmatch(r"\s*-?\d+,\d{3}\s*", value) else _time(value)


def _time_in_milliseconds(value: object) -> float | None:
    """Like `_time` for a whole number of milliseconds, returned in seconds; None for a fraction (likely seconds)."""
    found = _time(value)
    if found is None or (isinstance(value, str) and ":" in value):
        return found
    return found / 1000 if found.is_integer() else None
