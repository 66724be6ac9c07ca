"""Suppression of overlapping candidates, in NumPy: hard, weighted (NMW) and soft.

Candidates are pairs of a segment and a class, one row each. Overlap is measured in frames, classes never mix, and of
equal scores the earlier row goes first. `suppress` does what a recipe says; the other functions are its parts.

Note [classes of proposals]
    A proposal's score times a class score is the score of the pair. Soft suppression multiplies scores, so suppressing
    pairs class by class gives the same as suppressing proposals first and adding classes afterwards, apart from scores
    too small to matter; and it stays right where windows with different classes overlap. `reference_actions` follows
    the official order, with the official faults.

Note [greedy in blocks]
    The greedy rule takes the best candidate left and removes every candidate of its class that overlaps it enough. One
    by one, that costs a pass over the video per action. Here candidates come in blocks of falling score: the rule is
    settled within a block, then the winners remove from all others. Both need the pairs that overlap enough, which are
    found without trying all: in a list sorted by class and start, only a short stretch can overlap a given segment
    (Note [reach]).
"""

from __future__ import annotations

import dataclasses
import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SuppressConfig
from tallformer_infer.structures import Candidates, Proposals


def suppress(candidates: Candidates, config: SuppressConfig) -> Candidates:
    """Suppress the candidates of a whole video.

    Args:
        candidates: Candidates of all windows; among equal scores the earlier row is preferred.
        config: Method, thresholds and maximum number.

    Returns:
        The remaining candidates, by decreasing score.

    Raises:
        ValueError: A segment or score is NaN or infinite, or a class is out of range.
    """
    tiou_threshold, max_outputs = config.tiou_threshold, config.max_per_video
    check_pairs(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
    above = candidates.take(candidates.scores > np.float32(config.score_threshold))
    match config.method:
        case "nms":
            return nms(above, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
        case "nmw":
            return nmw(above, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
        case "soft_linear" | "soft_gaussian":
            return soft_nms(
                above,
                method="linear" if config.method == "soft_linear" else "gaussian",
                tiou_threshold=tiou_threshold,
                sigma=config.sigma,
                min_score=config.min_score,
                max_outputs=max_outputs,
            )
        case _:
            assert_never(config.method)


def proposals_with_classes(proposals: Proposals, class_scores: NDArray[np.float32], *, most_classes: int) -> Candidates:
    """Assign the likeliest classes to every proposal, proposal by proposal, the likeliest first.

    Args:
        proposals: Proposals of one window.
        class_scores: Class scores without background, shape (K,). Classes with a score of 0 are not assigned.
        most_classes: Maximum number of classes per proposal.
    """
    classes = _likeliest(class_scores, most_classes)
    classes = classes[class_scores[classes] > 0]
    rows = np.repeat(np.arange(len(proposals.scores)), len(classes))
    kinds = np.tile(classes, len(proposals.scores))
    scores = proposals.scores[rows] * class_scores[kinds]
    return Candidates(proposals.segments_frames[rows], scores.astype(np.float32), kinds)


def without_class(proposals: Proposals) -> Candidates:
    """Convert proposals to candidates of a single class, for `reference_actions`."""
    return Candidates(proposals.segments_frames, proposals.scores, np.zeros(len(proposals.scores), np.int64))


def reference_actions(
    proposals: Candidates, class_scores: NDArray[np.float32], config: SuppressConfig, *, most_classes: int
) -> Candidates:
    """Actions as in the official ActivityNet scripts; see Note [classes of proposals].

    Proposals are suppressed regardless of class, the last one is never selected (`soft_nms_activitynet`), and if the
    background is among the likeliest classes, the last class replaces it, as the scripts subtract 1 from its index.

    Args:
        proposals: Return value of `without_class`.
        class_scores: Scores of background and classes, shape (1 + K,). A background of -inf is never the likeliest.
        config: Sigma, minimum scores and maximum number.
        most_classes: Maximum number of classes per proposal.

    Returns:
        Actions by decreasing score of the proposal, the likeliest class first.
    """
    above = proposals.take(proposals.scores > np.float32(config.score_threshold))
    kept = soft_nms_activitynet(above, sigma=config.sigma, min_score=config.min_score, max_outputs=config.max_per_video)
    likeliest = _likeliest(class_scores, most_classes)
    likeliest = likeliest[class_scores[likeliest] > 0]
    rows = np.repeat(np.arange(len(kept)), len(likeliest))
    chosen = np.tile(likeliest, len(kept))
    scores = kept.scores[rows] * class_scores[chosen]
    classes = (chosen - 1) % (len(class_scores) - 1)
    return Candidates(kept.segments_frames[rows], scores.astype(np.float32), classes)


def _likeliest(class_scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Classes by decreasing score, the earlier one first among equals."""
    return np.argsort(-class_scores, kind="stable")[:count].astype(np.int64)


MIN_UNION = np.float32(1e-6)
"""Floor of the union of two segments, in frames, as in the official code."""

MAX_CLASSES = 2**20
"""Class indices must be below this, so that class and start fit into one float64."""

_BLOCK = 1024
"""Candidates settled at once: 256 and 4096 were slower in `benchmarks.bench_nms`."""

_PAIRS = 2**16
"""Pairs compared at once, unless a single segment reaches more: bounds memory."""


def nms(candidates: Candidates, *, tiou_threshold: float, max_outputs: int | None) -> Candidates:
    """Keep the best candidates; drop those that overlap a better one of their class by more than the threshold.

    Args:
        candidates: In any order.
        tiou_threshold: Largest overlap allowed, in [0, 1].
        max_outputs: Maximum number of candidates kept over all classes; None for no limit.

    Returns:
        Kept candidates by decreasing score; among equal scores the earlier row first.

    Raises:
        ValueError: A value is NaN, infinite or out of range.
    """
    check_pairs(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
    above = np.nextafter(np.float32(tiou_threshold), np.float32(np.inf))
    return candidates.take(find_clusters(candidates, least_tiou=above, max_tops=max_outputs).tops)


def nmw(candidates: Candidates, *, tiou_threshold: float, max_outputs: int | None) -> Candidates:
    """Non-maximum weighting: keep the best candidate, with the weighted mean segment of those it suppresses.

    A candidate is suppressed by the first better one of its class that it overlaps by at least the threshold. The
    weight in the mean is score times overlap with the best (1 for itself). Score and class are those of the best.

    Args:
        candidates: In any order.
        tiou_threshold: Overlap in [0, 1] from which candidates are averaged.
        max_outputs: Most clusters to make over all classes; None for no limit.

    Returns:
        One candidate per cluster by falling score; of equal scores the earlier row first. Where all weights of a
        cluster are 0 (scores of 0) the mean does not exist and the segment is NaN, as in the official code.

    Raises:
        ValueError: A value is NaN, infinite or out of range.

    Source: non-maximum weighting of Zhou et al., CAD (ICCV Workshops 2017), as the official TALLFormer code (commit
    5519140) applies it in one dimension.
    """
    check_pairs(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
    clusters = find_clusters(candidates, least_tiou=np.float32(tiou_threshold), max_tops=max_outputs)
    members = np.flatnonzero(clusters.owner >= 0)
    owner = clusters.owner[members]
    weights = candidates.scores[members].astype(np.float64) * clusters.tiou[members]
    starts, ends = candidates.segments_frames[members].T
    count = len(clusters.tops)
    total = np.bincount(owner, weights, count)
    sums = np.stack([np.bincount(owner, weights * starts, count), np.bincount(owner, weights * ends, count)], axis=1)
    with np.errstate(invalid="ignore"):
        means = sums / total[:, None]  # (M, 2)
    return Candidates(means.astype(np.float32), candidates.scores[clusters.tops], candidates.classes[clusters.tops])


@dataclass(frozen=True)
class Clusters:
    """The candidates that are kept, and the candidates that each suppresses."""

    tops: NDArray[np.intp]
    """Rows kept, by decreasing score, shape (M,)."""
    owner: NDArray[np.int32]
    """Index into `tops` of the one that suppresses each candidate (itself for a top), -1 for none, shape (N,)."""
    tiou: NDArray[np.float32]
    """Overlap of each candidate with its owner, in [0, 1]; 1 for a top with itself, shape (N,)."""


def find_clusters(candidates: Candidates, *, least_tiou: np.float32, max_tops: int | None) -> Clusters:
    """Greedy clusters of the candidates of each class.

    Args:
        candidates: In any order; among equal scores the earlier row goes first.
        least_tiou: Overlap from which a candidate is suppressed by a better one of its class.
        max_tops: Maximum number of candidates kept over all classes; None for no limit.
    """
    limit = len(candidates) if max_tops is None else min(max_tops, len(candidates))
    clusters = Clusters(
        np.zeros(0, np.intp), np.full(len(candidates), -1, np.int32), np.zeros(len(candidates), np.float32)
    )
    timeline = _Timeline(candidates, least_tiou)
    rows = _by_falling_score(candidates.scores)
    kept = [clusters.tops]
    count = position = 0
    while position < len(rows) and count < limit:
        stretch = rows[position : position + 4 * _BLOCK]
        free = np.flatnonzero(clusters.owner[stretch] < 0)[:_BLOCK]
        position += int(free[-1]) + 1 if len(free) == _BLOCK else len(stretch)
        tops = _settle(candidates, stretch[free], least_tiou)[: limit - count]
        _take(timeline, clusters, tops, count)
        kept.append(tops)
        count += len(tops)
    return dataclasses.replace(clusters, tops=np.concatenate(kept))


def tiou(
    starts: NDArray[np.float32],
    ends: NDArray[np.float32],
    other_starts: NDArray[np.float32],
    other_ends: NDArray[np.float32],
) -> NDArray[np.float32]:
    """Temporal intersection over union in float32, in the operations and order of the official code.

    All arguments are in frames and are broadcast against one another. A segment of zero or negative length overlaps
    nothing, itself included.
    """
    overlap = np.minimum(ends, other_ends)
    overlap -= np.maximum(starts, other_starts)
    np.maximum(overlap, 0, out=overlap)
    union = (ends - starts) + (other_ends - other_starts)
    union -= overlap
    np.maximum(union, MIN_UNION, out=union)
    overlap /= union
    return overlap


def _by_falling_score(scores: NDArray[np.float32]) -> NDArray[np.intp]:
    """All rows by decreasing score, the earlier row first among equals.

    One sort of integers (score, row): 200,000 in 3 ms where NumPy's stable argsort of floats takes 15 ms.
    """
    rising = (np.float32(0) - scores).view(np.int32)  # 0 - x and not -x, which has two zeros
    rising ^= (rising >> 31) & 0x7FFFFFFF  # bits of a float to an integer of the same order
    keys = (rising.astype(np.int64) << 32) | np.arange(len(scores))
    keys.sort()
    return (keys & 0xFFFFFFFF).astype(np.intp, copy=False)


def _settle(candidates: Candidates, rows: NDArray[np.intp], least_tiou: np.float32) -> NDArray[np.intp]:
    """Those of `rows` (by decreasing score) that no better one of `rows` suppresses."""
    block = candidates.take(rows)
    pairs = [np.zeros((2, 0), np.intp)]
    for better, worse, _ in _Timeline(block, least_tiou).reached_by(block):
        pairs.append(np.stack([better, worse])[:, better < worse])
    better, worse = np.concatenate(pairs, axis=1)  # (2, E)
    keep = np.ones(len(rows), bool)
    while True:
        # Entry i is final once all before it are, so this terminates; with real candidates after a few rounds.
        again = np.ones(len(rows), bool)
        again[worse[keep[better]]] = False
        if np.array_equal(again, keep):
            return rows[keep]
        keep = again


def _take(timeline: _Timeline, clusters: Clusters, tops: NDArray[np.intp], number: int) -> None:
    """Assign all unassigned candidates that `tops` overlap enough to `tops`, which are numbered from `number` on."""
    owner, tiou_with_owner = clusters.owner, clusters.tiou
    owner[tops] = np.arange(number, number + len(tops))
    tiou_with_owner[tops] = 1
    timeline.taken += len(tops)
    for top, row, overlap in timeline.reached_by(timeline.candidates.take(tops)):
        new = np.flatnonzero(owner[row] < 0)[::-1]  # reversed: of several tops, the first writes last
        owner[row[new]] = number + top[new]
        tiou_with_owner[row[new]] = overlap[new]
        timeline.taken += len(new)
    timeline.forget_taken(owner)


class _Timeline:
    """Candidates sorted by class, then start.

    Note [reach]
    Let a segment of length n overlap another by tiou >= t. The union is at least n, so the intersection is at least
    n * t, so the other starts at most n * (1 - t) after it. If the other starts d before it, the union is longer than
    the intersection by d or more, and the intersection is at most n: n / (n + d) >= t, so d <= n * (1 / t - 1).
    The stretch between is widened by more than any rounding; within it the overlap itself decides.
    """

    def __init__(self, candidates: Candidates, least_tiou: np.float32) -> None:
        self.candidates = candidates
        self.taken = 0
        self._least_tiou = least_tiou
        starts = candidates.segments_frames[:, 0].astype(np.float64)
        self._origin = float(starts.min()) if len(starts) else 0.0
        self._span = float(starts.max()) - self._origin if len(starts) else 0.0
        keys = self._class_keys(candidates.classes) + (starts - self._origin)
        self._rows = np.argsort(keys)
        self._keys = keys[self._rows]
        self._segments = np.take(candidates.segments_frames, self._rows, axis=0)

    def reached_by(
        self, others: Candidates
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]]:
        """Pairs (index into `others`, row here, overlap) that overlap enough, in chunks, by rising index."""
        low, high = self._reach(others)
        sizes = np.maximum(high - low, 0)
        total = np.cumsum(sizes)
        begin = 0
        while begin < len(others):
            done = int(total[begin - 1]) if begin else 0
            end = max(int(np.searchsorted(total, done + _PAIRS, side="right")), begin + 1)
            size = sizes[begin:end]
            other = np.repeat(np.arange(begin, end), size)  # (P,)
            at = np.arange(len(other)) + np.repeat(low[begin:end] - total[begin:end] + done + size, size)  # (P,)
            mine = np.take(self._segments, at, axis=0)
            theirs = np.take(others.segments_frames, other, axis=0)
            overlap = tiou(theirs[:, 0], theirs[:, 1], mine[:, 0], mine[:, 1])
            hit = np.flatnonzero(overlap >= self._least_tiou)
            yield other[hit], self._rows[at[hit]], overlap[hit]
            begin = end

    def forget_taken(self, owner: NDArray[np.int32]) -> None:
        """Drop suppressed candidates once they may be half of the list, so that the cost is amortised."""
        if 2 * self.taken < len(self._rows):
            return
        free = owner[self._rows] < 0
        self._rows, self._keys, self._segments = self._rows[free], self._keys[free], self._segments[free]
        self.taken = 0

    def _reach(self, others: Candidates) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Per segment the stretch [low, high) of the list that it may overlap enough (Note [reach])."""
        base = self._class_keys(others.classes)
        starts, ends = others.segments_frames.astype(np.float64).T - self._origin
        lengths = np.maximum(ends - starts, 0)
        least = float(self._least_tiou) * (1 - 1e-5)
        before, after = (lengths * (1 / least - 1), lengths * (1 - least)) if least > 0 else (np.inf, np.inf)
        margin = 1e-5 + 4 * np.spacing(self._keys.max(initial=1))
        low = base + np.maximum(starts - before, 0) - margin
        high = base + np.minimum(starts + after, self._span) + margin
        low_at, high_at = np.searchsorted(self._keys, low), np.searchsorted(self._keys, high, side="right")
        # Segments of zero length overlap nothing; many of them lie at the end of a padded window.
        return low_at, np.where((lengths > 0) | (least == 0), high_at, low_at)

    def _class_keys(self, classes: NDArray[np.int64]) -> NDArray[np.float64]:
        """Offset of each class in the order (class, start), larger than the range of starts."""
        return classes.astype(np.float64) * (2 * self._span + 4)


def pairs_above(
    segments_frames: NDArray[np.float32], scores: NDArray[np.float32], *, score_threshold: float
) -> Candidates:
    """Every (segment, class) pair whose score is above the threshold, by segment, then class.

    Among equal scores suppression prefers the earlier row, so this order decides ties as in the official code.

    Args:
        segments_frames: Half-open segments (start, end) in frames, shape (A, 2).
        scores: Scores in [0, 1], shape (A, K), without a background column.
        score_threshold: Pairs at or below it are dropped.

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
    """Check the input of every kind of suppression.

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
    """Select the best candidate, decay the scores of those of its class that overlap it, and repeat.

    Args:
        candidates: In any order.
        method: `linear`: times (1 - tIoU) from the threshold on; `gaussian`: times exp(-tIoU² / sigma).
        tiou_threshold: Overlap in [0, 1] from which `linear` decays a score; `gaussian` does not use it.
        sigma: Width of `gaussian`, above 0; `linear` does not use it.
        min_score: Candidates whose score is or decays below it are dropped; at least 0.
        max_outputs: Maximum number of candidates over all classes; None for no limit.

    Returns:
        Selected candidates with their decayed scores, by decreasing score; among equals the earlier row first.

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
    """Gaussian soft suppression as in the official ActivityNet scripts, which never select the last candidate.

    Their loop ends when one candidate remains, not when none does, so a single candidate gives no result. Kept for
    comparison with published results; they also suppress over all classes at once (give all the same class) and
    write results in input order.

    Args:
        candidates: In any order.
        sigma: Width of the gaussian, above 0.
        min_score: Candidates whose score is or decays below it are dropped; at least 0.
        max_outputs: Maximum number of candidates; None for no limit.

    Returns:
        See `soft_nms`.

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
"""Score of a candidate that was selected or dropped; pending ones have at least `min_score`, so at least 0."""


class _Group:
    """Candidates of one class sorted by start, and their current scores."""

    def __init__(self, candidates: Candidates, rows: NDArray[np.intp], min_score: np.float32) -> None:
        self._rows = rows[np.argsort(candidates.segments_frames[rows, 0], kind="stable")]
        self._starts, self._ends = candidates.segments_frames[self._rows].T.copy()
        self._scores = candidates.scores[self._rows]
        self._scores[self._scores < min_score] = _GONE
        self._min_score = min_score
        self._longest = (self._ends - self._starts).max() * np.float32(1 + 1e-6)
        self.waiting = int(np.count_nonzero(self._scores >= 0))

    def best(self) -> tuple[float, int, int]:
        """(-score, row, place) of the best pending candidate; these keys sort in the order of selection."""
        score = self._scores.max()
        places = np.flatnonzero(self._scores == score)
        place = int(places[self._rows[places].argmin()])
        return -float(score), int(self._rows[place]), place

    def take(self, place: int, decay: _Decay) -> None:
        """Select the candidate at `place` and decay the scores of those that overlap it."""
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
