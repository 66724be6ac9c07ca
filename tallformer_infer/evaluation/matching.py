"""Which prediction finds which truth: greedy by score, one prediction per truth.

# Note [greedy matching in rounds]
The rule is sequential: predictions of a class, from the highest score down, each take the best-overlapping truth that
is still free and overlaps by at least the threshold. Read as a matching problem, all truths rank the predictions alike
(by score), and then the outcome of deferred acceptance is that of the sequential rule: in each round every prediction
without a truth asks for its best one that has not refused it, every truth keeps the best-scored of those that ask and
refuses the others. All classes and videos of a data set take part in the same rounds, so a few array operations per
round replace a loop over predictions; the number of rounds is that of refusals in a row, not of predictions.
Source: Gale and Shapley, "College Admissions and the Stability of Marriage", 1962, for deferred acceptance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.evaluation.overlap import FloatArray, Pairs, tiou_of_pairs
from tallformer_infer.labels.names import composed
from tallformer_infer.labels.segments import Segment
from tallformer_infer.structures import Action

Ties = Literal["first", "last"]

SAME_TIOU = 0.5
"""Overlap from which an action and a true segment of its class are the same."""


@dataclass(frozen=True)
class Pair:
    """A found action and the true segment that it is; one of both is None where there is no other."""

    action: Action | None
    known: Segment | None
    tiou: float = 0.0
    """Their overlap in [0, 1]."""

    @property
    def start_s(self) -> float:
        """Where it begins, as found, or as known."""
        either = self.action or self.known
        assert either is not None
        return either.start_s


def by_falling_score(scores: FloatArray, videos: NDArray[np.int64], *, ties: Ties) -> NDArray[np.int64]:
    """Rows from the highest score to the lowest.

    Args:
        scores: Shape (N,).
        videos: Row of the video in the truth, shape (N,).
        ties: Order of equal scores: `first` follows the truth's videos, then the rows; `last` is against the rows.
    """
    if ties == "first":
        return np.lexsort((videos, -scores))
    return np.argsort(scores, kind="stable")[::-1]


def match_greedily(
    pairs: Pairs, order: NDArray[np.int64], *, truth_count: int, tiou_thresholds: tuple[float, ...], ties: Ties
) -> NDArray[np.int64]:
    """Give each prediction its truth, at each threshold. See Note [greedy matching in rounds].

    Args:
        pairs: Predictions and truths of the same class and video that overlap by at least the lowest threshold.
        order: Rows of all N predictions, the one that chooses first in front.
        truth_count: Number of truths.
        tiou_thresholds: T overlaps.
        ties: Which of two equally good truths a prediction takes.

    Returns:
        Row of the truth each prediction found, or -1 for a false positive, shape (T, N).
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


def pair_up(actions: Sequence[Action], known: Sequence[Segment]) -> list[Pair]:
    """Pair actions with true segments: surest action first, each with the segment of its class that it overlaps most.

    Returns:
        A pair for every action and every segment, in order of time; those that overlap by less than `SAME_TIOU` stand
        alone.
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


def _match_in_rounds(
    ranks: NDArray[np.int64], truths: NDArray[np.int64], truth_count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Deferred acceptance over pairs that are sorted by rank and, within a rank, from the best wish to the last.

    Returns:
        Ranks that found a truth, and their truths, both shape (matches,).
    """
    askers, wish = np.unique(ranks, return_index=True)  # `wish`: the pair each asker is at
    beyond = np.append(wish[1:], len(ranks))
    nobody = len(askers)
    holder = np.full(truth_count, nobody, np.int64)
    active = np.arange(len(askers))
    while len(active):
        asked = truths[wish[active]]
        before = holder[asked]
        np.minimum.at(holder, asked, active)
        is_kept = holder[asked] == active
        displaced = before[is_kept & (before < nobody)]  # each truth keeps one of those that asked, so no duplicates
        active = np.concatenate([active[~is_kept], displaced])
        wish[active] += 1
        active = active[wish[active] < beyond[active]]
    taken = np.flatnonzero(holder < nobody)
    return askers[holder[taken]], taken


def _overlaps(action: Action, known: Sequence[Segment]) -> np.ndarray:
    segments = np.array([(other.start_s, other.end_s) for other in known], np.float64).reshape(-1, 2)
    return tiou_of_pairs(np.tile([action.start_s, action.end_s], (len(known), 1)), segments)
