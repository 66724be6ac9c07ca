"""From right and wrong predictions to precision, recall and average precision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Curve:
    """Precision against recall, at each score where another truth is found."""

    recall: NDArray[np.float64]
    """Rising, in (0, 1], shape (N,)."""
    precision: NDArray[np.float64]
    """In (0, 1], shape (N,)."""
    scores: NDArray[np.float64]
    """Score of the prediction that found the truth, falling, shape (N,)."""

    @property
    def average_precision(self) -> float:
        """Area under the curve made monotone: at each recall, the best precision at that recall or a higher one."""
        rises = np.diff(self.recall, prepend=0.0)
        return float(np.dot(rises, np.maximum.accumulate(self.precision[::-1])[::-1]))


def curve(is_right: NDArray[np.bool_], scores: NDArray[np.float64], *, truth_count: int) -> Curve:
    """Precision against recall of predictions in the order of falling score.

    Only the points where recall rises are kept: between them precision falls, so that neither the area nor the best
    precision from some recall on changes.

    Args:
        is_right: Whether each prediction found a truth, shape (N,).
        scores: Falling, shape (N,).
        truth_count: Truths there are, at least 1.

    Raises:
        ValueError: There is no truth.
    """
    if truth_count < 1:
        raise ValueError(f"expected at least one truth, got {truth_count = }")
    places = np.flatnonzero(is_right)
    hits = np.arange(1, len(places) + 1, dtype=np.float64)
    return Curve(recall=hits / truth_count, precision=hits / (places + 1), scores=scores[places])


def average_precision_per_class(
    is_right: NDArray[np.bool_],
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    truth_counts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Average precision of each class at each threshold.

    Args:
        is_right: Whether each prediction found a truth, predictions in the order of falling score, shape (T, N).
        scores: Falling, shape (N,).
        classes: Class of each prediction, in [0, K), shape (N,).
        truth_counts: Truths of each class, at least 1, shape (K,).

    Returns:
        Shape (T, K), in [0, 1]; 0 for a class that was never predicted.
    """
    by_class = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[by_class], np.arange(len(truth_counts) + 1))
    average_precision = np.zeros((len(is_right), len(truth_counts)))
    for row, right in enumerate(is_right):
        for class_, truth_count in enumerate(truth_counts.tolist()):
            rows = by_class[bounds[class_] : bounds[class_ + 1]]
            average_precision[row, class_] = curve(right[rows], scores[rows], truth_count=truth_count).average_precision
    return average_precision
