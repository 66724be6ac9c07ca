"""Precision and recall of the predictions above a score."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.evaluation.ranking import Ranked


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


def _point(score_threshold: float, kept: int, hits: list[int], truth_count: int) -> OperatingPoint:
    return OperatingPoint(
        score_threshold=score_threshold,
        kept=kept,
        precision=tuple(number / kept if kept else None for number in hits),
        recall=tuple(number / truth_count for number in hits),
    )
