"""Precision and recall of the predictions above a score, and the score from which on they are as wished."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.evaluation.ranking import Ranked

_ROUNDING = 1e-12
"""9 right of 10 are a precision of 0.9, whichever way the product is rounded."""


@dataclass(frozen=True, kw_only=True)
class OperatingPoint:
    """How good the predictions of at least some score are, at each tIoU threshold."""

    score_threshold: float
    """Lowest score kept."""
    kept: int
    """Predictions kept."""
    precision: tuple[float | None, ...]
    """Share of kept predictions that found a truth, in [0, 1]; None where none is kept."""
    recall: tuple[float, ...]
    """Share of truths that were found, in [0, 1]."""


def operating_points(
    ranked: Ranked, truth_counts: NDArray[np.int64], *, score_threshold: float
) -> tuple[OperatingPoint, list[OperatingPoint]]:
    """Precision and recall over all classes, and of each class.

    Args:
        ranked: Predictions with the truth that each found; dropping the low scores changes none of these.
        truth_counts: Truths of each class, at least 1, shape (K,).
        score_threshold: Lowest score kept.
    """
    kept = ranked.scores >= score_threshold
    classes, right = ranked.classes[kept], ranked.found[:, kept] >= 0
    kept_counts = np.bincount(classes, minlength=len(truth_counts))
    hits = np.stack([np.bincount(classes[row], minlength=len(truth_counts)) for row in right])  # (T, K)
    per_class = [
        _point(score_threshold, kept_count, hits_of_class, truth_count)
        for kept_count, hits_of_class, truth_count in zip(
            kept_counts.tolist(), hits.T.tolist(), truth_counts.tolist(), strict=True
        )
    ]
    overall = _point(score_threshold, len(classes), hits.sum(axis=1).tolist(), int(truth_counts.sum()))
    return overall, per_class


def choose_threshold(
    scores: NDArray[np.float64],
    is_right: NDArray[np.bool_],
    *,
    truth_count: int,
    wanted_precision: float | None = None,
    least_right: int = 1,
) -> float | None:
    """The score from which on predictions are worth keeping.

    It lies halfway between the lowest score kept and the highest left out, so that rounding moves nothing across it.

    Args:
        scores: Falling, shape (N,).
        is_right: Whether each prediction found a truth, shape (N,).
        truth_count: Truths there are, at least 1.
        wanted_precision: Keep as many right ones as can be had at this precision, in (0, 1], or a better one;
            None: keep what makes F1, the harmonic mean of precision and recall, the highest. Of equals, the fewest.
        least_right: Right ones that must be kept to believe in a wanted precision.

    Returns:
        The threshold; None where nothing is right, or no score has the wanted precision.
    """
    if not is_right.any():
        return None
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # equal scores are kept or left out together
    hits, kept = np.cumsum(is_right)[ends], ends + 1
    if wanted_precision is None:
        best = int(np.argmax(2 * hits / (kept + truth_count)))
    else:
        good = (hits >= wanted_precision * kept * (1 - _ROUNDING)) & (hits >= max(least_right, 1))
        if not good.any():
            return None
        best = int(np.argmax(np.where(good, hits, -1)))
    lowest = float(scores[ends[best]])
    next_lower = float(scores[ends[best] + 1]) if best + 1 < len(ends) else 0.0
    middle = (lowest + next_lower) / 2
    return middle if middle > next_lower else lowest


def _point(score_threshold: float, kept: int, hits: list[int], truth_count: int) -> OperatingPoint:
    return OperatingPoint(
        score_threshold=score_threshold,
        kept=kept,
        precision=tuple(number / kept if kept else None for number in hits),
        recall=tuple(number / truth_count for number in hits),
    )
