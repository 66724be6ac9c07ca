"""Soft suppression: a candidate that overlaps a better one keeps its place but loses score."""

from __future__ import annotations

import heapq
from collections.abc import Callable
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.nms.greedy import check_pairs, tiou
from tallformer_infer.structures import Candidates

_Decay = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def soft_nms(
    candidates: Candidates,
    *,
    method: Literal["linear", "gaussian"],
    tiou_threshold: float,
    sigma: float,
    min_score: float,
    max_outputs: int | None,
) -> Candidates:
    """Take the best candidate, lower the scores of those of its class that overlap it, and repeat.

    Args:
        candidates: In any order.
        method: `linear`: times (1 - tIoU) from the threshold on; `gaussian`: times exp(-tIoU² / sigma).
        tiou_threshold: Overlap in [0, 1] from which `linear` lowers a score; `gaussian` does not use it.
        sigma: Width of `gaussian`, above 0; `linear` does not use it.
        min_score: Candidates whose score is or falls below it are dropped; at least 0.
        max_outputs: Most candidates to take over all classes; None for no limit.

    Returns:
        Candidates taken, with the score they had then, by falling score; of equal scores the earlier row first.

    Raises:
        ValueError: A value is NaN, infinite or out of range.

    Source: Bodla et al., Soft-NMS (ICCV 2017), equations 2 and 3; thresholds as in the official compiled op.
    """
    check_pairs(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
    decay = _decay(method, tiou_threshold, sigma)
    return _take_and_decay(candidates, decay=decay, min_score=min_score, max_outputs=max_outputs, left_over=0)


def soft_nms_activitynet(
    candidates: Candidates, *, sigma: float, min_score: float, max_outputs: int | None
) -> Candidates:
    """Gaussian soft suppression as the official ActivityNet scripts do it: the last candidate left is never taken.

    Their loop ends when one candidate remains, not when none does, so a single candidate gives nothing. Kept for
    comparison with published results; they also suppress over all classes at once (give all the same class) and
    write results in input order.

    Args:
        candidates: In any order.
        sigma: Width of the gaussian, above 0.
        min_score: Candidates whose score is or falls below it are dropped; at least 0.
        max_outputs: Most candidates to take; None for no limit.

    Returns:
        As `soft_nms`.

    Raises:
        ValueError: A value is NaN, infinite or out of range.

    Source: `softnms_v2` of AFSD (Lin et al., CVPR 2021), which TALLFormer's ActivityNet scripts use.
    """
    check_pairs(candidates, tiou_threshold=0, max_outputs=max_outputs)
    decay = _decay("gaussian", 0, sigma)
    return _take_and_decay(candidates, decay=decay, min_score=min_score, max_outputs=max_outputs, left_over=1)


def _decay(method: Literal["linear", "gaussian"], tiou_threshold: float, sigma: float) -> _Decay:
    match method:
        case "linear":
            threshold = np.float32(tiou_threshold)
            return lambda overlap: np.where(overlap >= threshold, 1 - overlap, np.float32(1))
        case "gaussian":
            if not sigma > 0:
                raise ValueError(f"sigma={sigma} must be above 0")
            width = np.float32(sigma)
            return lambda overlap: np.exp(-(overlap * overlap) / width)
        case _:
            assert_never(method)


def _take_and_decay(
    candidates: Candidates, *, decay: _Decay, min_score: float, max_outputs: int | None, left_over: int
) -> Candidates:
    if not min_score >= 0:
        raise ValueError(f"min_score={min_score} must be at least 0")
    limit = len(candidates) if max_outputs is None else max_outputs
    groups = [
        _Group(candidates, rows, np.float32(min_score))
        for rows in (np.flatnonzero(candidates.classes == index) for index in np.unique(candidates.classes))
    ]
    waiting = sum(group.waiting for group in groups)
    best = [(*group.best(), number) for number, group in enumerate(groups) if group.waiting]
    heapq.heapify(best)
    taken_rows: list[int] = []
    taken_scores: list[float] = []
    while best and waiting > left_over and len(taken_rows) < limit:
        negative_score, row, place, number = best[0]
        taken_rows.append(row)
        taken_scores.append(-negative_score)
        group = groups[number]
        waiting -= group.waiting
        group.take(place, decay)
        waiting += group.waiting
        if group.waiting:
            heapq.heapreplace(best, (*group.best(), number))
        else:
            heapq.heappop(best)
    kept = candidates.take(np.array(taken_rows, np.intp))
    return Candidates(kept.segments_frames, np.array(taken_scores, np.float32), kept.classes)


_GONE = np.float32(-1)
"""Score of a candidate that was taken or dropped; those waiting are at `min_score` or above, so at 0 or above."""


class _Group:
    """Candidates of one class by start, and their scores as they fall."""

    def __init__(self, candidates: Candidates, rows: NDArray[np.intp], min_score: np.float32) -> None:
        self._rows = rows[np.argsort(candidates.segments_frames[rows, 0], kind="stable")]
        self._starts, self._ends = candidates.segments_frames[self._rows].T.copy()
        self._scores = candidates.scores[self._rows]
        self._scores[self._scores < min_score] = _GONE
        self._min_score = min_score
        self._longest = (self._ends - self._starts).max() * np.float32(1 + 1e-6)
        self.waiting = int(np.count_nonzero(self._scores >= 0))

    def best(self) -> tuple[float, int, int]:
        """(-score, row, place) of the best one waiting, the earlier row of equals: sorts like the order of taking."""
        score = self._scores.max()
        places = np.flatnonzero(self._scores == score)
        place = int(places[self._rows[places].argmin()])
        return -float(score), int(self._rows[place]), place

    def take(self, place: int, decay: _Decay) -> None:
        """Take the candidate at `place` and lower the scores of those that overlap it."""
        self._scores[place] = _GONE
        start, end = self._starts[place], self._ends[place]
        low = np.searchsorted(self._starts, np.nextafter(start - self._longest, np.float32(-np.inf)))
        high = np.searchsorted(self._starts, end)
        scores = self._scores[low:high]
        before = np.count_nonzero(scores >= 0)
        lowered = scores * decay(tiou(start, end, self._starts[low:high], self._ends[low:high]))
        lowered[(scores < 0) | (lowered < self._min_score)] = _GONE
        scores[:] = lowered
        self.waiting += int(np.count_nonzero(lowered >= 0) - before) - 1
