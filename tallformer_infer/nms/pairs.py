"""Candidates as pairs of a segment and a class: how they come about, and what suppression asks of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.nms.clusters import MAX_CLASSES
from tallformer_infer.structures import Candidates


def pairs_above(
    segments_frames: NDArray[np.float32], scores: NDArray[np.float32], *, score_threshold: float
) -> Candidates:
    """Every (segment, class) pair whose score is above the threshold, by segment, then class.

    Among equal scores suppression prefers the earlier row, so this order decides ties as in the official code.

    Args:
        segments_frames: Half-open segments (start, end) in frames, shape (A, 2).
        scores: Scores in [0, 1], shape (A, K), without a background column.
        score_threshold: Pairs at or below it are left out.

    Raises:
        ValueError: The shapes do not fit, or a score is not a number.
    """
    if scores.ndim != 2 or segments_frames.shape != (len(scores), 2):
        raise ValueError(
            f"expected segments (A, 2) and scores (A, K), got {segments_frames.shape = }, {scores.shape = }"
        )
    if np.isnan(scores).any():
        raise ValueError(
            f"expected numbers as scores, got NaN for segment {int(np.isnan(scores).any(axis=1).argmax())}"
        )
    rows, classes = np.nonzero(scores > np.float32(score_threshold))
    return Candidates(segments_frames[rows], scores[rows, classes], classes.astype(np.int64))


def check_pairs(candidates: Candidates, *, tiou_threshold: float, max_outputs: int | None) -> None:
    """Refuse what no kind of suppression can work on.

    Raises:
        ValueError: A segment or score is NaN or infinite, a class or a setting is out of range, or a data type is
            not the one that `Candidates` states.
    """
    segments, scores, classes = candidates.segments_frames, candidates.scores, candidates.classes
    if [array.dtype.name for array in (segments, scores, classes)] != ["float32", "float32", "int64"]:
        raise ValueError(
            f"expected float32 segments, float32 scores and int64 classes, got {segments.dtype}, {scores.dtype} and "
            f"{classes.dtype}"
        )
    if not (np.isfinite(segments).all() and np.isfinite(scores).all()):
        wrong = ~(np.isfinite(segments).all(axis=1) & np.isfinite(scores))
        row = int(wrong.argmax())
        raise ValueError(
            f"expected finite segments and scores, got {segments[row].tolist()}, {scores[row]} in row {row}"
        )
    if len(classes) and not (classes.min() >= 0 and classes.max() < MAX_CLASSES):
        raise ValueError(f"expected classes in [0, {MAX_CLASSES}), got {classes.min()} to {classes.max()}")
    if not 0 <= tiou_threshold <= 1:
        raise ValueError(f"tiou_threshold={tiou_threshold} must be in [0, 1]")
    if max_outputs is not None and max_outputs < 0:
        raise ValueError(f"max_outputs={max_outputs} must be at least 0, or None for no limit")
