"""Predictions on a labelled set, each right or wrong, and the refusal of what does not fit together."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.alignment import Aligned, VideoReport, align
from tallformer_infer.evaluation.annotations import Predictions, Truth
from tallformer_infer.evaluation.protocols import protocol_named
from tallformer_infer.evaluation.ranking import rank
from tallformer_infer.labels.names import composed, match_video

NAMES_SHOWN = 8


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Predictions from the highest score to the lowest, each right or wrong, and the truths."""

    scores: NDArray[np.float64]
    """Falling, shape (N,)."""
    is_right: NDArray[np.bool_]
    """Whether each found a truth, shape (N,)."""
    classes: NDArray[np.int64]
    """Row of the model's classes, shape (N,)."""
    videos: NDArray[np.int64]
    """Row of the truth's videos, shape (N,)."""
    truth_classes: NDArray[np.int64]
    """Row of the model's classes of each truth, shape (M,)."""
    truth_videos: NDArray[np.int64]
    """Row of the truth's videos of each truth, shape (M,)."""

    def take(self, rows: NDArray[np.bool_], truths: NDArray[np.bool_]) -> Judged:
        """The predictions and truths of two masks. What is right stays so if videos or classes are taken whole."""
        return Judged(
            scores=self.scores[rows],
            is_right=self.is_right[rows],
            classes=self.classes[rows],
            videos=self.videos[rows],
            truth_classes=self.truth_classes[truths],
            truth_videos=self.truth_videos[truths],
        )

    def of_class(self, row: int) -> Judged:
        """One class."""
        return self.take(self.classes == row, self.truth_classes == row)


def judge(
    predictions: Predictions, truth: Truth, *, classes: Sequence[str], tiou_threshold: float
) -> tuple[Judged, VideoReport, tuple[str, ...]]:
    """Match predictions with truths, greedily by score; on videos without truths, all predictions are wrong.

    Args:
        predictions: All that the model finds in the videos of the truth.
        truth: What there is.
        classes: Names that the model can give.
        tiou_threshold: Overlap from which a prediction is right, in (0, 1].

    Returns:
        The predictions, which videos counted, and what a reader should know.

    Raises:
        AnnotationError: Predictions and truth do not fit together, or to the model; or nothing is right.
    """
    classes = [composed(name) for name in classes]
    _check_predictions(predictions, classes)
    known, notes = _of_known_classes(truth, classes)
    aligned = align(predictions, known, empty_videos_count=True)
    _check_videos(aligned, predictions, truth)
    protocol = dataclasses.replace(
        protocol_named("thumos14"),
        tiou_thresholds=(float(tiou_threshold),),
        empty_videos_count=True,
        ties="first",
        matches_nothing=False,
    )
    ranked = rank(aligned, known, protocol)
    rows = np.array([classes.index(label) for label in known.labels], np.int64)
    judged = Judged(
        scores=ranked.scores,
        is_right=ranked.found[0] >= 0,
        classes=rows[ranked.classes],
        videos=ranked.videos,
        truth_classes=rows[known.class_indices],
        truth_videos=known.video_indices,
    )
    if not judged.is_right.any():
        raise AnnotationError(
            f"{predictions.source}: none of {len(judged.scores)} predictions overlaps a truth of its class in "
            f"{truth.source} by tIoU {tiou_threshold:g}; calibrate with a model that finds something"
        )
    if aligned.unknown_labels:
        dropped = listed([f"{label} ({count})" for label, count in aligned.unknown_labels.items()])
        notes = (*notes, f"predictions of classes without any truth did not count: {dropped}")
    return judged, aligned.videos, (*truth.notes, *predictions.notes, *notes)


def listed(names: Sequence[str]) -> str:
    """The first names of a list, and how many more there are."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def _check_predictions(predictions: Predictions, classes: Sequence[str]) -> None:
    if others := [label for label in predictions.labels if label not in classes]:
        raise AnnotationError(
            f"{predictions.source}: predicts classes that the model does not have: {listed(others)}; "
            "give predictions that were made with this model"
        )
    wrong = np.flatnonzero((predictions.scores < 0) | (predictions.scores > 1))
    if len(wrong):
        score = float(predictions.scores[wrong[0]])
        raise AnnotationError(f"{predictions.source}: has score {score:g}; expected scores in [0, 1], as models give")


def _of_known_classes(truth: Truth, classes: Sequence[str]) -> tuple[Truth, tuple[str, ...]]:
    """The truth without segments of classes that the model does not have, and what is to be said about them."""
    if not len(truth.segments_s):
        raise AnnotationError(f"{truth.source}: no annotated segment is left to calibrate with")
    is_known = np.array([label in classes for label in truth.labels])[truth.class_indices]
    if not is_known.any():
        raise AnnotationError(
            f"{truth.source}: has no segment of a class of the model; it has {listed(truth.labels)}, "
            f"the model has {listed(classes)}"
        )
    if is_known.all():
        return truth, ()
    counts = Counter(truth.labels[row] for row in truth.class_indices[~is_known].tolist())
    kept, rows = np.unique(truth.class_indices[is_known], return_inverse=True)
    known = dataclasses.replace(
        truth,
        labels=tuple(truth.labels[row] for row in kept.tolist()),
        video_indices=truth.video_indices[is_known],
        class_indices=rows.astype(np.int64),
        segments_s=truth.segments_s[is_known],
    )
    named = listed([f"{label} ({count})" for label, count in counts.items()])
    return known, (f"truths of classes that the model does not have were passed over: {named}",)


def _check_videos(aligned: Aligned, predictions: Predictions, truth: Truth) -> None:
    predicted = frozenset(predictions.videos)
    missing = [video for video in aligned.videos.scored if match_video(video, predicted) is None]
    if missing:
        raise AnnotationError(
            f"{predictions.source}: lacks {len(missing)} of the {len(aligned.videos.scored)} videos of {truth.source}: "
            f"{listed(missing)}; detect in them too, or leave them out with --leave-out FILE"
        )
