"""Predictions from the highest score to the lowest, with the truth that each found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.evaluation.alignment import Aligned
from tallformer_infer.evaluation.annotations import Truth
from tallformer_infer.evaluation.matching import by_falling_score, match_greedily
from tallformer_infer.evaluation.overlap import FloatArray, overlapping_pairs
from tallformer_infer.evaluation.protocols import Protocol


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Predictions that count, one row each, from the highest score to the lowest."""

    scores: NDArray[np.float64]
    """Falling, shape (N,)."""
    classes: NDArray[np.int64]
    """Row of `Truth.labels`, shape (N,)."""
    videos: NDArray[np.int64]
    """Row of `Truth.videos`, shape (N,)."""
    segments: FloatArray
    """Start and end in seconds, in the precision of the protocol, shape (N, 2)."""
    found: NDArray[np.int64]
    """Row of the truth each found at each threshold, or -1 for none, shape (T, N)."""


def rank(aligned: Aligned, truth: Truth, protocol: Protocol) -> Ranked:
    """Order predictions by score and give each its truth, by the rules of `protocol`."""
    kind = np.dtype(np.float32 if protocol.single_precision else np.float64)
    segments: FloatArray = aligned.segments_s.astype(kind)
    order = by_falling_score(aligned.scores.astype(kind), aligned.video_indices, ties=protocol.ties)
    pairs = overlapping_pairs(
        aligned.class_indices * len(truth.videos) + aligned.video_indices,
        segments,
        truth.class_indices * len(truth.videos) + truth.video_indices,
        truth.segments_s.astype(kind),
        at_least=min(protocol.tiou_thresholds),
        of_nothing=1.0 if protocol.matches_nothing else 0.0,
    )
    found = match_greedily(
        pairs,
        order,
        truth_count=len(truth.segments_s),
        tiou_thresholds=protocol.tiou_thresholds,
        ties=protocol.ties,
    )
    return Ranked(
        scores=aligned.scores[order],
        classes=aligned.class_indices[order],
        videos=aligned.video_indices[order],
        segments=segments[order],
        found=found[:, order],
    )
