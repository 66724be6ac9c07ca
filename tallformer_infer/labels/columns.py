"""Rows of many segments as arrays, fast: {"segment", "label"} and perhaps "score" each."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.labels.files import Problems, shown
from tallformer_infer.labels.names import composed


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
    """Shape (N,)."""


def to_columns(rows: Rows, problems: Problems) -> Columns:
    """Turn rows into arrays; what is wrong goes to `problems`, and the result is only good if nothing is.

    Numbers may be written as strings, as some THUMOS14 files do.
    """
    flat = [row for rows_of_video in rows.lists for row in rows_of_video]
    columns = _convert(rows, flat)
    if columns is None:
        flat = _find_malformed(rows, flat, problems)
        columns = _convert(rows, flat) if flat else None
    if columns is None:
        none = np.zeros(0, np.int64)
        return Columns((), none, none, np.zeros((0, 2)), np.zeros(0))
    _check_values(rows, columns, problems)
    return columns


def _convert(rows: Rows, flat: Sequence[Any]) -> Columns | None:
    labels: dict[str, int] = {}
    try:
        class_indices = [labels.setdefault(row["label"], len(labels)) for row in flat]
        names = dict.fromkeys(composed(label) for label in labels)
        segments_s = np.asarray([row["segment"] for row in flat], np.float64)
        scores = np.asarray([row["score"] for row in flat], np.float64)
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


def _find_malformed(rows: Rows, flat: Sequence[Any], problems: Problems) -> list[dict[str, Any]]:
    """Note what is wrong with each row; if nothing is, the rows with their numbers as floats, else none."""
    before = problems.count
    for number, row in enumerate(flat):
        if not isinstance(row, dict):
            problems.add(rows.key(number), f'expected an object with "segment" and "label", got {shown(row)}')
            continue
        for name in ("segment", "label", "score"):
            if name not in row:
                problems.add(rows.key(number), f'has no "{name}"')
            elif (expected := _what_was_expected(name, row[name])) is not None:
                problems.add(f"{rows.key(number)}.{name}", f"expected {expected}, got {shown(row[name])}")
    if problems.count > before:
        return []
    return [
        {
            "segment": [float(time) for time in row["segment"]],
            "label": row["label"],
            "score": float(row["score"]),
        }
        for row in flat
    ]


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
