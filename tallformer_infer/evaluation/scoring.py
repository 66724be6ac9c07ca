"""Mean average precision and everything that belongs to it, of predictions against truth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.alignment import VideoReport, align
from tallformer_infer.evaluation.annotations import Predictions, Truth
from tallformer_infer.evaluation.average_precision import Curve, average_precision_per_class, curve
from tallformer_infer.evaluation.error_kinds import ErrorKinds, error_kinds
from tallformer_infer.evaluation.operating_point import OperatingPoint, operating_points
from tallformer_infer.evaluation.protocols import Protocol, ProtocolName
from tallformer_infer.evaluation.ranking import Ranked, rank


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
