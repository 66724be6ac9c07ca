"""Mean average precision and everything that belongs to it, of predictions against truth, and the same as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.alignment import VideoReport, align
from tallformer_infer.evaluation.annotations import Predictions, Truth
from tallformer_infer.evaluation.error_kinds import ErrorKinds, error_kinds
from tallformer_infer.evaluation.operating_point import OperatingPoint, operating_points
from tallformer_infer.evaluation.protocols import Protocol, ProtocolName
from tallformer_infer.evaluation.ranking import Ranked, rank


@dataclass(frozen=True)
class Curve:
    """Precision against recall, at each score where another truth is found."""

    recall: NDArray[np.float64]
    """Rising, in (0, 1], shape (N,)."""
    precision: NDArray[np.float64]
    """In (0, 1], shape (N,)."""
    scores: NDArray[np.float64]
    """Score of the prediction that found the truth, falling, shape (N,)."""

    @property
    def average_precision(self) -> float:
        """Area under the curve made monotone: at each recall, the best precision at that recall or a higher one."""
        rises = np.diff(self.recall, prepend=0.0)
        return float(np.dot(rises, np.maximum.accumulate(self.precision[::-1])[::-1]))


def curve(is_right: NDArray[np.bool_], scores: NDArray[np.float64], *, truth_count: int) -> Curve:
    """Precision against recall of predictions in the order of falling score.

    Only the points where recall rises are kept: between them precision falls, so that neither the area nor the best
    precision from some recall on changes.

    Args:
        is_right: Whether each prediction found a truth, shape (N,).
        scores: Falling, shape (N,).
        truth_count: Truths there are, at least 1.

    Raises:
        ValueError: There is no truth.
    """
    if truth_count < 1:
        raise ValueError(f"expected at least one truth, got {truth_count = }")
    places = np.flatnonzero(is_right)
    hits = np.arange(1, len(places) + 1, dtype=np.float64)
    return Curve(recall=hits / truth_count, precision=hits / (places + 1), scores=scores[places])


def average_precision_per_class(
    is_right: NDArray[np.bool_],
    scores: NDArray[np.float64],
    classes: NDArray[np.int64],
    truth_counts: NDArray[np.int64],
) -> NDArray[np.float64]:
    """Average precision of each class at each threshold.

    Args:
        is_right: Whether each prediction found a truth, predictions in the order of falling score, shape (T, N).
        scores: Falling, shape (N,).
        classes: Class of each prediction, in [0, K), shape (N,).
        truth_counts: Truths of each class, at least 1, shape (K,).

    Returns:
        Shape (T, K), in [0, 1]; 0 for a class that was never predicted.
    """
    by_class = np.argsort(classes, kind="stable")
    bounds = np.searchsorted(classes[by_class], np.arange(len(truth_counts) + 1))
    average_precision = np.zeros((len(is_right), len(truth_counts)))
    for row, right in enumerate(is_right):
        for class_, truth_count in enumerate(truth_counts.tolist()):
            rows = by_class[bounds[class_] : bounds[class_ + 1]]
            average_precision[row, class_] = curve(right[rows], scores[rows], truth_count=truth_count).average_precision
    return average_precision


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """One class."""

    label: str
    """Name of the class."""
    truth_count: int
    """Its annotated segments."""
    prediction_count: int
    """Its predictions that were scored."""
    average_precision: tuple[float, ...]
    """At each tIoU threshold, in [0, 1]."""
    average: float
    """Mean over the thresholds."""
    operating_point: OperatingPoint | None
    """Precision and recall, where a score threshold was asked for."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """How well predictions fit the truth."""

    protocol: ProtocolName
    """Rules that were used."""
    subset: str | None
    """Subset that was scored."""
    tiou_thresholds: tuple[float, ...]
    """T overlaps from which a prediction is right."""
    mean_average_precision: tuple[float, ...]
    """mAP at each threshold: the mean over classes, in [0, 1]."""
    average: float
    """Mean of the above: the number that papers report."""
    classes: tuple[ClassScore, ...]
    """In the order of their first appearance in the truth."""
    truth_count: int
    """Annotated segments of all classes."""
    prediction_count: int
    """Predictions that were scored."""
    videos: VideoReport
    """Which videos were scored, which were skipped and why."""
    unknown_labels: Mapping[str, int]
    """Predictions in scored videos that were dropped because no truth has their label, per label."""
    operating_point: OperatingPoint | None
    """Precision and recall over all classes, where a score threshold was asked for."""
    errors: ErrorKinds
    """Why predictions are wrong."""
    curves: tuple[Curve, ...]
    """Precision against recall over all classes, at each threshold."""
    notes: tuple[str, ...]
    """What a reader should know, one sentence each."""


def evaluate(
    predictions: Predictions, truth: Truth, protocol: Protocol, *, score_threshold: float | None = None
) -> Evaluation:
    """Score predictions against truth.

    Args:
        predictions: What was predicted.
        truth: What there is.
        protocol: Thresholds and rules.
        score_threshold: Lowest score for precision, recall and the kinds of errors; mAP always uses all predictions.

    Raises:
        AnnotationError: The truth is empty, or two videos of the predictions are the same video of the truth.
    """
    if not len(truth.segments_s):
        raise AnnotationError(f"{truth.source}: no annotated segment is left to score against")
    aligned = align(predictions, truth, empty_videos_count=protocol.empty_videos_count)
    ranked = rank(aligned, truth, protocol)
    truth_counts = np.bincount(truth.class_indices, minlength=len(truth.labels))
    average_precision = average_precision_per_class(ranked.found >= 0, ranked.scores, ranked.classes, truth_counts)
    overall, per_class = _operating_points(ranked, truth_counts, score_threshold)
    return Evaluation(
        protocol=protocol.name,
        subset=truth.subset,
        tiou_thresholds=protocol.tiou_thresholds,
        mean_average_precision=tuple(average_precision.mean(axis=1).tolist()),
        average=float(average_precision.mean(axis=1).mean()),
        classes=_class_scores(ranked, truth.labels, truth_counts, average_precision, per_class),
        truth_count=len(truth.segments_s),
        prediction_count=len(ranked.scores),
        videos=aligned.videos,
        unknown_labels=aligned.unknown_labels,
        operating_point=overall,
        errors=error_kinds(truth, ranked, protocol.tiou_thresholds, score_threshold=score_threshold),
        curves=tuple(curve(found >= 0, ranked.scores, truth_count=len(truth.segments_s)) for found in ranked.found),
        notes=truth.notes + predictions.notes,
    )


def _operating_points(
    ranked: Ranked, truth_counts: NDArray[np.int64], score_threshold: float | None
) -> tuple[OperatingPoint | None, Sequence[OperatingPoint | None]]:
    if score_threshold is None:
        return None, [None] * len(truth_counts)
    return operating_points(ranked, truth_counts, score_threshold=score_threshold)


def _class_scores(
    ranked: Ranked,
    labels: tuple[str, ...],
    truth_counts: NDArray[np.int64],
    average_precision: NDArray[np.float64],
    points: Sequence[OperatingPoint | None],
) -> tuple[ClassScore, ...]:
    prediction_counts = np.bincount(ranked.classes, minlength=len(labels)).tolist()
    return tuple(
        ClassScore(
            label=label,
            truth_count=int(truth_counts[row]),
            prediction_count=prediction_counts[row],
            average_precision=tuple(average_precision[:, row].tolist()),
            average=float(average_precision[:, row].mean()),
            operating_point=points[row],
        )
        for row, label in enumerate(labels)
    )


SCHEMA_VERSION = "1.0"
"""The number after the dot rises when a key is added, the one before it when a key changes or goes."""


def evaluation_document(evaluation: Evaluation, *, predictions: str, truth: str) -> dict[str, Any]:
    """Everything about an evaluation as JSON values; shares are in [0, 1], times in seconds.

    Args:
        evaluation: What was found.
        predictions: Where the predictions are from.
        truth: Where the truth is from.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "predictions": predictions,
        "truth": truth,
        "protocol": evaluation.protocol,
        "subset": evaluation.subset,
        "tiou_thresholds": list(evaluation.tiou_thresholds),
        "mAP": list(evaluation.mean_average_precision),
        "average_mAP": evaluation.average,
        "truth_count": evaluation.truth_count,
        "prediction_count": evaluation.prediction_count,
        "operating_point": _operating_point(evaluation.operating_point),
        "errors": dataclasses.asdict(evaluation.errors),
        "classes": [
            {
                "label": score.label,
                "truth_count": score.truth_count,
                "prediction_count": score.prediction_count,
                "ap": list(score.average_precision),
                "average_ap": score.average,
                "operating_point": _operating_point(score.operating_point),
            }
            for score in evaluation.classes
        ],
        "videos": {
            "scored": list(evaluation.videos.scored),
            "without_prediction": list(evaluation.videos.without_prediction),
            "skipped": {reason: list(videos) for reason, videos in evaluation.videos.skipped.items()},
        },
        "unknown_labels": dict(evaluation.unknown_labels),
        "notes": list(evaluation.notes),
    }


def _operating_point(point: OperatingPoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "score_threshold": point.score_threshold,
        "kept": point.kept,
        "precision": list(point.precision),
        "recall": list(point.recall),
    }
