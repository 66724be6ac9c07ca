"""Why predictions are wrong: one kind for each.

Every prediction that is looked at is of exactly one kind, the first of these that holds:

1. `right`: it found a truth of its class (tIoU at least `tiou_threshold`, greedy by score).
2. `duplicate`: it overlaps a truth of its class that well, but a higher-scored prediction has it.
3. `confusion`: it overlaps a truth of another class that well.
4. `localization`: it overlaps a truth of its class by at least `BACKGROUND_TIOU`.
5. `confusion`: it overlaps a truth of another class by at least `BACKGROUND_TIOU`.
6. `background`: it overlaps nothing.

`missed` counts truths that no prediction found.

Source: kinds after Alwassel et al., "Diagnosing Error in Temporal Action Detectors", ECCV 2018, where the two cases of
confusion are apart; their cut at as many predictions as there are truths is the default here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.evaluation.annotations import Truth
from tallformer_infer.evaluation.overlap import FloatArray, overlapping_pairs
from tallformer_infer.evaluation.ranking import Ranked

BACKGROUND_TIOU = 0.1
"""Below this overlap a prediction has nothing to do with a truth."""


@dataclass(frozen=True, kw_only=True)
class ErrorKinds:
    """How many predictions are of each kind; see the top of this module."""

    tiou_threshold: float
    """Overlap from which a prediction is right."""
    score_threshold: float | None
    """Lowest score looked at; None: of each class, as many of the highest scores as it has truths."""
    looked_at: int
    """Predictions looked at: the sum of the next five."""
    right: int
    """Found a truth."""
    duplicate: int
    """Found a truth that was taken."""
    confusion: int
    """Found a truth of another class."""
    localization: int
    """Found a truth of its class, but start or end are too far off."""
    background: int
    """Found nothing."""
    missed: int
    """Truths that nothing found."""

    @property
    def described(self) -> str:
        """Which predictions were looked at, in words."""
        if self.score_threshold is None:
            return f"the best {self.looked_at} predictions, per class as many as truths"
        return f"{self.looked_at} predictions of score {self.score_threshold:g} or more"


def error_kinds(
    truth: Truth, ranked: Ranked, tiou_thresholds: tuple[float, ...], *, score_threshold: float | None
) -> ErrorKinds:
    """Sort predictions into kinds, at the threshold nearest to 0.5.

    Args:
        truth: What there is.
        ranked: Predictions from the highest score to the lowest, with the truth that each found.
        tiou_thresholds: Thresholds of `ranked.found`.
        score_threshold: Lowest score looked at; None: of each class, as many of the highest scores as it has truths.
    """
    row = int(np.argmin(np.abs(np.array(tiou_thresholds) - 0.5)))
    looked_at = _top_of_each_class(ranked, truth) if score_threshold is None else ranked.scores >= score_threshold
    own, other = _best_overlaps(truth, ranked.videos[looked_at], ranked.classes[looked_at], ranked.segments[looked_at])
    enough = own.dtype.type(tiou_thresholds[row])
    conditions = [ranked.found[row, looked_at] >= 0, own >= enough, other >= enough, own > 0, other > 0]
    kinds = np.select(conditions, [0, 1, 2, 3, 2], default=4)
    counts = np.bincount(kinds, minlength=5).tolist()
    return ErrorKinds(
        tiou_threshold=tiou_thresholds[row],
        score_threshold=score_threshold,
        looked_at=len(kinds),
        right=counts[0],
        duplicate=counts[1],
        confusion=counts[2],
        localization=counts[3],
        background=counts[4],
        missed=len(truth.segments_s) - counts[0],
    )


def _top_of_each_class(ranked: Ranked, truth: Truth) -> NDArray[np.bool_]:
    """Which predictions are among the first of their class, as many as the class has truths."""
    truth_counts = np.bincount(truth.class_indices, minlength=len(truth.labels))
    by_class = np.argsort(ranked.classes, kind="stable")
    sorted_classes = ranked.classes[by_class]
    place = np.empty(len(by_class), np.int64)
    place[by_class] = np.arange(len(by_class)) - np.searchsorted(sorted_classes, sorted_classes)
    top: NDArray[np.bool_] = place < truth_counts[ranked.classes]
    return top


def _best_overlaps(
    truth: Truth, videos: NDArray[np.int64], classes: NDArray[np.int64], segments: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Best tIoU of each prediction with a truth of its class and with one of another; 0 below `BACKGROUND_TIOU`."""
    pairs = overlapping_pairs(
        videos,
        segments,
        truth.video_indices,
        truth.segments_s.astype(segments.dtype),
        at_least=BACKGROUND_TIOU,
    )
    same = classes[pairs.predictions] == truth.class_indices[pairs.truths]
    own = np.zeros(len(videos), segments.dtype)
    other = np.zeros(len(videos), segments.dtype)
    np.maximum.at(own, pairs.predictions[same], pairs.tiou[same])
    np.maximum.at(other, pairs.predictions[~same], pairs.tiou[~same])
    return own, other
