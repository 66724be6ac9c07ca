"""Match predictions with truths, one prediction per truth, by the rules of a benchmark.

# Note [two metrics]
The field uses two evaluators that look alike and differ in four rules. Both rank the predictions of a class by score
and give each, in turn, the best-overlapping unmatched truth.

1. Videos of the subset without annotated segments: the ActivityNet toolkit, as used in this field, ignores predictions
   on them; the VOC-style metric of the THUMOS14 test tool counts each as a false positive.
2. Equal scores, and equal overlaps: the toolkit processes the last in the file first, the VOC-style metric the first.
   (Both sort unstably; these are the rules of the same code with a stable sort.)
3. Two segments of zero length overlap by 0/0. The toolkit's comparison with NaN matches the prediction to the truth,
   wherever both are; ActivityNet-1.3 has three such truths in its validation subset. The VOC-style metric counts such
   truths as missed.
4. Arithmetic: float64 or float32, where a prediction within 1e-7 of a threshold can fall on either side.

# Note [lists of videos]
Published numbers differ by the videos that were scored. THUMOS14 test: 213 annotated videos in the official files, 211
without 0000270 and 0001292, 210 also without 0001496. ActivityNet-1.3 validation: 4,728 without the videos that are no
longer online. Spans that THUMOS14 marks `Ambiguous` are not a class: a prediction there is a false positive. Every
CliffDiving of THUMOS14 is also annotated as Diving.

Source: the ActivityNet evaluation toolkit (MIT) and the mean-average-precision module of vedatad (Apache-2.0), by their
published behaviour; re-implemented.

# Note [greedy matching in rounds]
The rule is sequential: predictions of a class, in order of decreasing score, each take the best-overlapping unmatched
truth that overlaps by at least the threshold. As a matching problem, all truths rank the predictions the same way (by
score), so deferred acceptance gives the same result: in each round every unmatched prediction proposes to its best
truth that has not rejected it, and every truth keeps the highest-scored proposer and rejects the others. All classes
and videos of a dataset take part in the same rounds, so a few array operations per round replace a loop over
predictions; the number of rounds depends on the longest chain of rejections, not on the number of predictions.
Source: Gale and Shapley, "College Admissions and the Stability of Marriage", 1962, for deferred acceptance.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, assert_never

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.evaluation.annotations import Aligned, Truth
from tallformer_infer.labels import Segment, composed
from tallformer_infer.structures import Action

ProtocolName = Literal["thumos14", "activitynet", "hacs", "reference-voc"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Rules of one benchmark. See Note [two metrics]."""

    name: ProtocolName
    """Name on the command line."""
    tiou_thresholds: tuple[float, ...]
    """Overlaps in (0, 1] from which a prediction is correct; the average mAP is the mean over them."""
    subsets: tuple[str, ...]
    """Default subsets (folded names): the first of these that the truth has is scored."""
    empty_videos_count: bool
    """Whether predictions on videos without annotated segments are false positives."""
    ties: Literal["first", "last"]
    """Which of equal scores, or equally good truths, comes first: the first or the last in the file."""
    matches_nothing: bool
    """Whether a prediction of zero length matches a truth of zero length."""
    single_precision: bool
    """Whether scores and overlaps are rounded to float32 before they are compared."""

    def __post_init__(self) -> None:
        if not self.tiou_thresholds or not all(0 < threshold <= 1 for threshold in self.tiou_thresholds):
            raise ValueError(f"expected tIoU thresholds in (0, 1], got {self.tiou_thresholds = }")


def protocol_named(name: ProtocolName) -> Protocol:
    """The rules of the benchmark `name`."""
    match name:
        case "thumos14":
            return _toolkit(name, (0.3, 0.4, 0.5, 0.6, 0.7), ("testing", "validation"))
        case "activitynet" | "hacs":
            # The official thresholds are this linspace, whose ninth is 0.8999999999999999.
            return _toolkit(name, tuple(np.linspace(0.5, 0.95, 10).tolist()), ("validation", "testing"))
        case "reference-voc":
            return Protocol(
                name=name,
                tiou_thresholds=(0.3, 0.4, 0.5, 0.6, 0.7),
                subsets=("testing", "validation"),
                empty_videos_count=True,
                ties="first",
                matches_nothing=False,
                single_precision=True,
            )
    assert_never(name)


def _toolkit(name: ProtocolName, tiou_thresholds: tuple[float, ...], subsets: tuple[str, ...]) -> Protocol:
    return Protocol(
        name=name,
        tiou_thresholds=tiou_thresholds,
        subsets=subsets,
        empty_videos_count=False,
        ties="last",
        matches_nothing=True,
        single_precision=False,
    )


Ties = Literal["first", "last"]

SAME_TIOU = 0.5
"""Overlap from which an action matches a true segment of its class."""

FloatArray = NDArray[np.floating[Any]]
"""float64 or float32."""

PAIRS_AT_ONCE = 1 << 21
"""Maximum number of pairs expanded at a time: about 200 MB, however many predictions and truths share a group."""

_SMALLEST_UNION = 1e-6
"""Lower limit of a union, so that two segments of zero length overlap by 0 instead of 0/0."""


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """Predictions that count, one row each, sorted by decreasing score."""

    scores: NDArray[np.float64]
    """Decreasing, shape (N,)."""
    classes: NDArray[np.int64]
    """Index into `Truth.labels`, shape (N,)."""
    videos: NDArray[np.int64]
    """Index into `Truth.videos`, shape (N,)."""
    segments: FloatArray
    """Start and end in seconds, in the precision of the protocol, shape (N, 2)."""
    found: NDArray[np.int64]
    """Index of the matched truth at each threshold, or -1 for none, shape (T, N)."""


def rank(aligned: Aligned, truth: Truth, protocol: Protocol) -> Ranked:
    """Sort predictions by score and match them with truths, by the rules of `protocol`."""
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


@dataclass(frozen=True)
class Pair:
    """A predicted action and the true segment it matches; one of them is None if there is no match."""

    action: Action | None
    known: Segment | None
    tiou: float = 0.0
    """Their overlap in [0, 1]."""

    @property
    def start_s(self) -> float:
        """Start of the action, otherwise of the true segment, in seconds."""
        either = self.action or self.known
        assert either is not None
        return either.start_s


def pair_up(actions: Sequence[Action], known: Sequence[Segment]) -> list[Pair]:
    """Match actions with true segments: in order of decreasing score, each with the best-overlapping one of its class.

    Returns:
        Pairs that include every action and every segment, sorted by time; those that overlap by less than `SAME_TIOU`
        are unmatched.
    """
    left = list(known)
    pairs = []
    for action in sorted(actions, key=lambda action: -action.score):
        same = [other for other in left if other.label == composed(action.label)]
        overlaps = _overlaps(action, same)
        best = int(overlaps.argmax()) if same else 0
        if same and overlaps[best] >= SAME_TIOU:
            left.remove(same[best])
            pairs.append(Pair(action, same[best], float(overlaps[best])))
        else:
            pairs.append(Pair(action, None))
    pairs += [Pair(None, other) for other in left]
    return sorted(pairs, key=lambda pair: pair.start_s)


def by_falling_score(scores: FloatArray, videos: NDArray[np.int64], *, ties: Ties) -> NDArray[np.int64]:
    """Row indices sorted by decreasing score, shape (N,).

    Args:
        scores: Confidence, shape (N,).
        videos: Index of the video in the truth, shape (N,).
        ties: Order of equal scores: `first` is by the truth's videos, then by row; `last` is by row, reversed.
    """
    if ties == "first":
        return np.lexsort((videos, -scores))
    return np.argsort(scores, kind="stable")[::-1]


def match_greedily(
    pairs: Pairs, order: NDArray[np.int64], *, truth_count: int, tiou_thresholds: tuple[float, ...], ties: Ties
) -> NDArray[np.int64]:
    """Match each prediction with a truth, at each threshold. See Note [greedy matching in rounds].

    Args:
        pairs: Predictions and truths of the same class and video that overlap by at least the lowest threshold.
        order: Indices of all N predictions in the order in which they choose.
        truth_count: Number of truths.
        tiou_thresholds: T overlaps.
        ties: Which of two equally good truths a prediction takes.

    Returns:
        Index of the truth that each prediction matched, or -1 for a false positive, shape (T, N).
    """
    rank = np.empty(len(order), np.int64)
    rank[order] = np.arange(len(order))
    ranks = rank[pairs.predictions]
    truth_key = pairs.truths if ties == "first" else -pairs.truths
    by_wish = np.lexsort((truth_key, -pairs.tiou, ranks))
    ranks, truths, tiou = ranks[by_wish], pairs.truths[by_wish], pairs.tiou[by_wish]

    found = np.full((len(tiou_thresholds), len(order)), -1, np.int64)
    for row, threshold in enumerate(tiou_thresholds):
        good = tiou >= tiou.dtype.type(threshold)
        prediction_ranks, matched_truths = _match_in_rounds(ranks[good], truths[good], truth_count)
        found[row, order[prediction_ranks]] = matched_truths
    return found


@dataclass(frozen=True)
class Pairs:
    """Predictions and truths that overlap, sorted by prediction, then truth."""

    predictions: NDArray[np.int64]
    """Index of the prediction, shape (P,)."""
    truths: NDArray[np.int64]
    """Index of the truth, shape (P,)."""
    tiou: FloatArray
    """Their overlap in (0, 1], shape (P,)."""


def tiou_of_pairs(a: FloatArray, b: FloatArray, *, of_nothing: float = 0.0) -> FloatArray:
    """Temporal intersection over union, row by row, in the precision of the inputs.

    Args:
        a: Half-open segments (start, end), shape (N, 2).
        b: Half-open segments (start, end), shape (N, 2), same unit and type as `a`.
        of_nothing: Overlap of two segments of zero length (0/0), see Note [two metrics].

    Returns:
        Overlaps in [0, 1], shape (N,). Segments that only touch overlap by 0.
    """
    shared = np.maximum(np.minimum(a[:, 1], b[:, 1]) - np.maximum(a[:, 0], b[:, 0]), 0)
    # Same order of operations as the evaluators: rounding in another order would move results across a threshold.
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
    """Find all pairs of the same group that overlap by at least `at_least`.

    Args:
        prediction_groups: Group of each prediction (a video, or a class in a video), shape (N,).
        prediction_segments: Segments (start, end), shape (N, 2).
        truth_groups: Group of each truth, shape (M,).
        truth_segments: Segments (start, end), shape (M, 2), same unit and type.
        at_least: Smallest tIoU kept, above 0.
        of_nothing: See `tiou_of_pairs`.

    Returns:
        The pairs; memory is proportional to their number, not to the number of comparisons.
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


def _match_in_rounds(
    ranks: NDArray[np.int64], truths: NDArray[np.int64], truth_count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deferred acceptance over pairs sorted by rank and, within a rank, by decreasing preference.

    Returns:
        Ranks that matched a truth, and their truths, both shape (matches,).
    """
    askers, wish = np.unique(ranks, return_index=True)  # `wish`: index of the current pair of each proposer
    beyond = np.append(wish[1:], len(ranks))
    nobody = len(askers)
    holder = np.full(truth_count, nobody, np.int64)
    active = np.arange(len(askers))
    while len(active):
        asked = truths[wish[active]]
        before = holder[asked]
        np.minimum.at(holder, asked, active)
        is_kept = holder[asked] == active
        displaced = before[is_kept & (before < nobody)]  # each truth keeps one proposer, so no duplicates
        active = np.concatenate([active[~is_kept], displaced])
        wish[active] += 1
        active = active[wish[active] < beyond[active]]
    taken = np.flatnonzero(holder < nobody)
    return askers[holder[taken]], taken


def _overlaps(action: Action, known: Sequence[Segment]) -> np.ndarray:
    segments = np.array([(other.start_s, other.end_s) for other in known], np.float64).reshape(-1, 2)
    return tiou_of_pairs(np.tile([action.start_s, action.end_s], (len(known), 1)), segments)


def _parts(counts: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    """Indices of predictions with truths to compare, in chunks of about `PAIRS_AT_ONCE` comparisons."""
    busy = np.flatnonzero(counts)
    number = np.cumsum(counts[busy]) // PAIRS_AT_ONCE
    yield from np.split(busy, np.flatnonzero(np.diff(number)) + 1) if len(busy) else ()
