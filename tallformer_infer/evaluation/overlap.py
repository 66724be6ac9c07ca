"""Temporal overlap of every prediction with every truth of its own group, for millions of pairs at once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
"""float64 or float32."""

PAIRS_AT_ONCE = 1 << 21
"""Pairs expanded at a time: about 200 MB, however many predictions and truths share a group."""

_SMALLEST_UNION = 1e-6
"""Unions are floored here, so that two segments without length overlap by 0 and not by 0/0."""


@dataclass(frozen=True)
class Pairs:
    """Predictions and truths that overlap, ordered by prediction, then truth."""

    predictions: NDArray[np.int64]
    """Row of the prediction, shape (P,)."""
    truths: NDArray[np.int64]
    """Row of the truth, shape (P,)."""
    tiou: FloatArray
    """Their overlap in (0, 1], shape (P,)."""


def tiou_of_pairs(a: FloatArray, b: FloatArray, *, of_nothing: float = 0.0) -> FloatArray:
    """Temporal intersection over union, row by row, in the precision of the inputs.

    Args:
        a: Half-open segments (start, end), shape (N, 2).
        b: Half-open segments (start, end), shape (N, 2), same unit and type as `a`.
        of_nothing: Overlap of two segments without length, which is 0/0; see Note [two metrics].

    Returns:
        Overlaps in [0, 1], shape (N,). Segments that only touch overlap by 0.
    """
    shared = np.maximum(np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0]), 0)
    # The order of these sums is the evaluators': another one moves results across a threshold by one rounding.
    union = (b[:, 1] - b[:, 0]) + (a[:, 1] - a[:, 0]) - shared
    overlap: FloatArray = shared / np.maximum(union, union.dtype.type(_SMALLEST_UNION))
    if of_nothing:
        overlap[union == 0] = of_nothing
    return overlap


def overlapping_pairs(
    prediction_groups: NDArray[np.int64],
    prediction_segments: FloatArray,
    truth_groups: NDArray[np.int64],
    truth_segments: FloatArray,
    *,
    at_least: float,
    of_nothing: float = 0.0,
) -> Pairs:
    """Find all pairs of the same group that overlap by `at_least`.

    Args:
        prediction_groups: Group of each prediction (a video, or a class in a video), shape (N,).
        prediction_segments: Segments (start, end), shape (N, 2).
        truth_groups: Group of each truth, shape (M,).
        truth_segments: Segments (start, end), shape (M, 2), same unit and type.
        at_least: Smallest tIoU kept, above 0.
        of_nothing: As `tiou_of_pairs` takes it.

    Returns:
        The pairs, in memory proportional to their number, not to the number of comparisons.
    """
    by_group = np.argsort(truth_groups, kind="stable")
    first = np.searchsorted(truth_groups[by_group], prediction_groups, side="left")
    counts = np.searchsorted(truth_groups[by_group], prediction_groups, side="right") - first
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], FloatArray]] = []
    for part in _parts(counts):
        predictions = np.repeat(part, counts[part])
        within = np.arange(len(predictions)) - np.repeat(np.cumsum(counts[part]) - counts[part], counts[part])
        truths = by_group[first[predictions] + within]
        tiou = tiou_of_pairs(prediction_segments[predictions], truth_segments[truths], of_nothing=of_nothing)
        kept = tiou >= tiou.dtype.type(at_least)
        found.append((predictions[kept], truths[kept], tiou[kept]))
    if not found:
        none = np.zeros(0, np.int64)
        return Pairs(none, none, np.zeros(0, prediction_segments.dtype))
    return Pairs(*(np.concatenate(column) for column in zip(*found, strict=True)))


def _parts(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Predictions that have any truth to compare with, in runs of about `PAIRS_AT_ONCE` comparisons."""
    busy = np.flatnonzero(counts)
    number = np.cumsum(counts[busy]) // PAIRS_AT_ONCE
    yield from np.split(busy, np.flatnonzero(np.diff(number)) + 1) if len(busy) else ()
