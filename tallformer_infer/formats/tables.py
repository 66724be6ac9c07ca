"""CSV, TSV and JSON lines: a row per action, of as many videos as there are.

A video without actions is a row of which only the video is filled in. CSV and JSON lines count in seconds. TSV counts
in milliseconds and begins with `start`, `end`, `text`, as Whisper's does.

Source: RFC 4180; the columns of Whisper's TSV as its writer has them.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.json_rows import shown
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.formats.escaping import CELL, LINE, escape, guard_formula, unescape, unguard_formula
from tallformer_infer.formats.files import read_bytes, read_text
from tallformer_infer.formats.labelled import LabelledVideo, in_time_order, milliseconds
from tallformer_infer.formats.rows import GatheredVideos, number

CSV_COLUMNS = ("video", "start_s", "end_s", "label", "score")
TSV_COLUMNS = ("start", "end", "text", "score", "video")


def encode_csv(videos: Sequence[LabelledVideo]) -> str:
    """Videos as CSV in UTF-8 with every text quoted; what begins like a formula gets an apostrophe before it."""
    text = io.StringIO()
    writer = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for row in _rows(videos, times=_seconds):
        cells = [row[column] for column in CSV_COLUMNS]
        writer.writerow([guard_formula(escape(cell, CELL)) if isinstance(cell, str) else cell for cell in cells])
    return text.getvalue()


def encode_tsv(videos: Sequence[LabelledVideo]) -> str:
    """Videos as lines of cells between tabs, times in whole milliseconds."""
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
    """Videos as one JSON object per line."""
    return "".join(f"{_json(row)}\n" for row in _rows(videos, times=_seconds))


def read_csv(path: Path) -> tuple[LabelledVideo, ...]:
    """Read CSV with a heading: `start_s`, `end_s` and `label`, perhaps `video` and `score`, in any order.

    A file without the column `video` is of one video, named after the file. Cells may be separated by semicolons, and
    numbers then have commas, as spreadsheet programs of some countries save them.

    Raises:
        AnnotationError: The file cannot be read, lacks a column, or has wrong rows; one line each.
    """
    text = read_bytes(path)
    try:
        decoded = text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not text in UTF-8 (byte {error.start}); save it as UTF-8") from error
    separator = ";" if decoded.partition("\n")[0].count(";") > decoded.partition("\n")[0].count(",") else ","
    rows = csv.reader(io.StringIO(decoded, newline=""), delimiter=separator, strict=True)
    try:
        table = [(rows.line_num, row) for row in rows]
    except csv.Error as error:
        raise AnnotationError(f"{path}: line {rows.line_num}: not CSV: {error}") from error
    to_number = _with_commas if separator == ";" else number
    return _read_table(path, table, names=("start_s", "end_s", "label"), to_seconds=to_number)


def read_tsv(path: Path) -> tuple[LabelledVideo, ...]:
    """Read cells between tabs with a heading: `start`, `end` (milliseconds) and `text`, perhaps `score` and `video`.

    Raises:
        AnnotationError: The file cannot be read, lacks a column, or has wrong rows; one line each.
    """
    lines = read_text(path).split("\n")
    table = [(place, line.split("\t")) for place, line in enumerate(lines, start=1) if line]
    return _read_table(path, table, names=("start", "end", "text"), to_seconds=_from_milliseconds)


def read_jsonl(path: Path) -> tuple[LabelledVideo, ...]:
    """Read one JSON object per line: `start_s`, `end_s` and `label`, perhaps `video` and `score`.

    Raises:
        AnnotationError: The file cannot be read, or has wrong lines; one line each.
    """
    problems = Problems(str(path))
    found = GatheredVideos(problems)
    for place, line in enumerate(read_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            problems.add(f"line {place}", f"not JSON: {error}")
            continue
        if not isinstance(row, dict) or not isinstance(row.get("video", ""), str):
            problems.add(f"line {place}", f'expected an object with "start_s", "end_s" and "label", got {shown(row)}')
            continue
        video = row.get("video", path.stem)
        if "video" not in row:
            found.add_video(video, has_bare_name=True)
        if "video" in row and all(row.get(key) is None for key in ("start_s", "end_s", "label")):
            found.add_video(video)
            continue
        ends_s = [row.get("start_s"), row.get("end_s")]
        found.add(video, f"line {place}", ends_s, row.get("label"), score=row.get("score"))
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
    return json.dumps(row) if CELL.search(text) or LINE.search(text) else text  # only \u escapes can carry those


def _read_table(
    path: Path,
    table: list[tuple[int, list[str]]],
    *,
    names: tuple[str, str, str],
    to_seconds: Callable[[object], float | None],
) -> tuple[LabelledVideo, ...]:
    heading = [cell.strip() for cell in table[0][1]] if table else []
    if missing := [name for name in names if name not in heading]:
        raise AnnotationError(
            f"{path}: lacks the column {', '.join(missing)}; expected a heading with {', '.join(names)}"
        )
    problems = Problems(str(path))
    found = GatheredVideos(problems)
    for place, cells in table[1:]:
        if not any(cells):
            continue
        if len(cells) != len(heading):
            problems.add(f"line {place}", f"has {len(cells)} cells, expected {len(heading)} as in the heading")
            continue
        row = {name: unescape(unguard_formula(cell)) for name, cell in zip(heading, cells, strict=True)}
        video = row.get("video", path.stem)
        if "video" not in row:
            found.add_video(video, has_bare_name=True)
        values = [row[name] for name in names]
        if "video" in row and not any(values):
            found.add_video(video)
            continue
        ends_s = [value if (time_s := to_seconds(value)) is None else time_s for value in values[:2]]
        score = row.get("score", "").replace(",", ".") or None
        found.add(video, f"line {place}", ends_s, values[2], score=score)
    return found.videos()


def _from_milliseconds(value: object) -> float | None:
    found = number(value)
    return None if found is None else round(found / 1000, 6)


def _with_commas(value: object) -> float | None:
    return number(value.replace(",", ".") if isinstance(value, str) else value)
