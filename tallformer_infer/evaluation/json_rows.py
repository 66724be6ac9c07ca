"""JSON files of segments: reading them strictly, and turning their rows into arrays fast."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.evaluation.video_names import composed

MOST_UNPACKED_BYTES = 1 << 29
"""Content of a packed file; labels of a thousand hours are a hundredth of it."""


@dataclass(frozen=True)
class Rows:
    """The segments of some videos as they stand in a file: {"segment", "label"} and perhaps "score" each."""

    keys: list[str]
    """Where the list of each video stands, for messages: `results.v1`."""
    lists: list[list[Any]]
    """The list of each video."""

    @cached_property
    def ends(self) -> list[int]:
        """Number of rows up to and with each list."""
        return list(accumulate(len(rows_of_video) for rows_of_video in self.lists))

    def key(self, row: int) -> str:
        """Where the row with number `row`, counted over all lists, stands."""
        number = bisect_right(self.ends, row)
        first = self.ends[number] - len(self.lists[number])
        return f"{self.keys[number]}[{row - first}]"


@dataclass(frozen=True)
class Columns:
    """Rows as arrays."""

    labels: tuple[str, ...]
    """In the order of their first appearance."""
    list_indices: NDArray[np.int64]
    """Number of the list each row is from, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Row of `labels`, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Start and end in seconds, shape (N, 2)."""
    scores: NDArray[np.float64]
    """Shape (N,), or (0,) where scores were not asked for."""


def read_bytes(path: Path) -> bytes:
    """The content of a file; of one that ends in `.gz`, what is packed in it.

    Raises:
        AnnotationError: It cannot be read or unpacked.
    """
    try:
        if path.suffix.lower() != ".gz":
            return path.read_bytes()
        with gzip.open(path) as packed:
            content = packed.read(MOST_UNPACKED_BYTES + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise AnnotationError(f"{path}: not gzip, or cut short: {error}") from error
    except OSError as error:
        raise AnnotationError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    if len(content) > MOST_UNPACKED_BYTES:
        raise AnnotationError(f"{path}: unpacks to more than {MOST_UNPACKED_BYTES >> 20} MB")
    return content


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON file whose top level is an object.

    Raises:
        AnnotationError: There is no such file, it is not JSON, a key appears twice, or it is not an object.
    """
    try:
        value = json.loads(read_bytes(path), object_pairs_hook=_object_without_duplicates)
    except RecursionError as error:
        raise AnnotationError(f"{path}: not JSON: nested too deeply") from error
    except _DuplicateKeyError as error:
        raise AnnotationError(f"{path}: the key {error} appears twice in one object; keep one of them") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: not JSON, and no text") from error
    except ValueError as error:
        raise AnnotationError(f"{path}: not JSON: {error}") from error
    if not isinstance(value, dict):
        raise AnnotationError(f"{path}: expected a JSON object, got {shown(value)}")
    return value


def to_columns(rows: Rows, problems: Problems, *, scored: bool) -> Columns:
    """Turn rows into arrays; what is wrong goes to `problems`, and the result is only good if nothing is.

    Numbers may be written as strings, as some THUMOS14 files do.
    """
    flat = [row for rows_of_video in rows.lists for row in rows_of_video]
    columns = _convert(rows, flat, scored=scored)
    if columns is None:
        flat = _find_malformed(rows, flat, problems, scored=scored)
        columns = _convert(rows, flat, scored=scored) if flat else None
    if columns is None:
        none = np.zeros(0, np.int64)
        return Columns((), none, none, np.zeros((0, 2)), np.zeros(0))
    _check_values(rows, columns, problems)
    return columns


def shown(value: object) -> str:
    """A short picture of a JSON value for messages."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def number(value: object) -> float | None:
    """A finite number, also one written as text; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None


def _convert(rows: Rows, flat: Sequence[Any], *, scored: bool) -> Columns | None:
    labels: dict[str, int] = {}
    try:
        class_indices = [labels.setdefault(row["label"], len(labels)) for row in flat]
        names = dict.fromkeys(composed(label) for label in labels)
        segments_s = np.asarray([row["segment"] for row in flat], np.float64)
        scores = np.asarray([row["score"] for row in flat] if scored else [], np.float64)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
        return None
    well_formed = segments_s.shape == (len(flat), 2) or not flat
    if not well_formed or scores.ndim != 1 or not all(isinstance(label, str) and label for label in labels):
        return None
    if len(names) < len(labels):  # one label in two spellings
        places = {name: place for place, name in enumerate(names)}
        merged = np.array([places[composed(label)] for label in labels], np.int64)
        class_indices = merged[np.asarray(class_indices, np.int64)].tolist()
    return Columns(
        labels=tuple(names),
        list_indices=np.repeat(np.arange(len(rows.lists)), [len(rows_of_video) for rows_of_video in rows.lists]),
        class_indices=np.asarray(class_indices, np.int64),
        segments_s=segments_s.reshape(-1, 2),
        scores=scores,
    )


def _find_malformed(rows: Rows, flat: Sequence[Any], problems: Problems, *, scored: bool) -> list[dict[str, Any]]:
    """Note what is wrong with each row; if nothing is, the rows with their numbers as floats, else none."""
    names = ("segment", "label", "score") if scored else ("segment", "label")
    before = problems.count
    for number, row in enumerate(flat):
        if not isinstance(row, dict):
            problems.add(rows.key(number), f'expected an object with "segment" and "label", got {shown(row)}')
            continue
        for name in names:
            if name not in row:
                problems.add(rows.key(number), f'has no "{name}"')
            elif (expected := _what_was_expected(name, row[name])) is not None:
                problems.add(f"{rows.key(number)}.{name}", f"expected {expected}, got {shown(row[name])}")
    if problems.count > before:
        return []
    floats = [{"segment": [float(time) for time in row["segment"]], "label": row["label"]} for row in flat]
    return (
        [row | {"score": float(given["score"])} for row, given in zip(floats, flat, strict=True)] if scored else floats
    )


def _what_was_expected(name: str, value: object) -> str | None:
    if name == "label":
        return None if isinstance(value, str) and value else "the name of a class"
    if name == "score":
        return None if _is_number(value) else "a number"
    if isinstance(value, list) and len(value) == 2 and all(_is_number(item) for item in value):
        return None
    return "[start, end] in seconds"


def _is_number(value: object) -> bool:
    if not isinstance(value, str | int | float):
        return False
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _check_values(rows: Rows, columns: Columns, problems: Problems) -> None:
    finite = np.isfinite(columns.segments_s).all(axis=1)
    backwards = finite & (columns.segments_s[:, 1] < columns.segments_s[:, 0])
    for row in np.flatnonzero(~finite | backwards).tolist():
        start, end = columns.segments_s[row].tolist()
        if backwards[row]:
            problems.add(f"{rows.key(row)}.segment", f"ends at {end:g} s, before it starts at {start:g} s")
        else:
            problems.add(f"{rows.key(row)}.segment", f"expected [start, end] in seconds, got [{start:g}, {end:g}]")
    for row in np.flatnonzero(~np.isfinite(columns.scores)).tolist():
        problems.add(f"{rows.key(row)}.score", f"expected a number, got {columns.scores[row]:g}")


class _DuplicateKeyError(Exception):
    pass


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        counts = Counter(key for key, _ in pairs)
        raise _DuplicateKeyError(json.dumps(counts.most_common(1)[0][0], ensure_ascii=False))
    return value
