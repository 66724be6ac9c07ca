"""Mean average precision, precision and recall above a score, and why predictions are wrong; also as JSON.

Note [kinds of errors]
    Every prediction considered has exactly one kind, the first of these that applies:

    1. `right`: it matches a truth of its class (tIoU at least `tiou_threshold`, greedy by score).
    2. `duplicate`: it overlaps a truth of its class by that much, but a higher-scored prediction matched it.
    3. `confusion`: it overlaps a truth of another class by that much.
    4. `localization`: it overlaps a truth of its class by at least `BACKGROUND_TIOU`.
    5. `confusion`: it overlaps a truth of another class by at least `BACKGROUND_TIOU`.
    6. `background`: it overlaps no truth by that much.

    `missed` counts truths that no prediction matches.
    Source: kinds after Alwassel et al., "Diagnosing Error in Temporal Action Detectors", ECCV 2018, which separates the
    two cases of confusion; its limit of as many predictions as truths is the default here.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.annotations import Predictions, Truth, VideoReport, align
from tallformer_infer.evaluation.matching import FloatArray, Protocol, ProtocolName, Ranked, overlapping_pairs, rank

SCHEMA_VERSION = "1.0"
"""Version of the JSON document: minor for added keys, major for changed or removed ones."""

_ROUNDING = 1e-12
"""Tolerance for rounding errors: 9 correct of 10 reach a precision of 0.9."""

BACKGROUND_TIOU = 0.1
"""Minimum overlap for a prediction to be related to a truth."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Result of an evaluation of predictions against ground truth."""

    protocol: ProtocolName
    """Rules that were used."""
    subset: str | None
    """Subset that was scored."""
    tiou_thresholds: tuple[float, ...]
    """T overlaps from which a prediction is correct."""
    mean_average_precision: tuple[float, ...]
    """mAP at each threshold: the mean over classes, in [0, 1]."""
    average: float
    """Mean of the above: the number that papers report."""
    classes: tuple[ClassScore, ...]
    """Scores per class, in order of first appearance in the truth."""
    truth_count: int
    """Number of annotated segments of all classes."""
    prediction_count: int
    """Number of predictions that were scored."""
    videos: VideoReport
    """Which videos were scored, which were skipped and why."""
    unknown_labels: Mapping[str, int]
    """Number of predictions in scored videos that were dropped because no truth has their label, by label."""
    operating_point: OperatingPoint | None
    """Precision and recall over all classes; None without a score threshold."""
    errors: ErrorKinds
    """Predictions by kind of error."""
    curves: tuple[Curve, ...]
    """Precision against recall over all classes, at each threshold."""
    notes: tuple[str, ...]
    """Notes for the user, one sentence each."""


def evaluate(
    predictions: Predictions, truth: Truth, protocol: Protocol, *, score_threshold: float | None = None
) -> Evaluation:
    """Score predictions against truth.

    Args:
        predictions: Predicted segments.
        truth: Annotated segments.
        protocol: Thresholds and rules.
        score_threshold: Lowest score for precision, recall and the kinds of errors; mAP always uses all predictions.

    Raises:
        AnnotationError: The truth is empty, or two videos of the predictions match the same video of the truth.
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


@dataclass(frozen=True, kw_only=True)
class ClassScore:
    """Scores of one class."""

    label: str
    """Name of the class."""
    truth_count: int
    """Number of its annotated segments."""
    prediction_count: int
    """Number of its predictions that were scored."""
    average_precision: tuple[float, ...]
    """At each tIoU threshold, in [0, 1]."""
    average: float
    """Mean over the thresholds."""
    operating_point: OperatingPoint | None
    """Precision and recall; None without a score threshold."""


@dataclass(frozen=True)
class Curve:
    """Precision against recall, at each score where recall increases."""

    recall: NDArray[np.float64]
    """Increasing, in (0, 1], shape (N,)."""
    precision: NDArray[np.float64]
    """In (0, 1], shape (N,)."""
    scores: NDArray[np.float64]
    """Score of the prediction that matched the truth, decreasing, shape (N,)."""

    @property
    def average_precision(self) -> float:
        """Area under the interpolated curve: at each recall, the best precision at that recall or a higher one."""
        rises = np.diff(self.recall, prepend=0.0)
        return float(np.dot(rises, np.maximum.accumulate(self.precision[::-1])[::-1]))


def curve(is_right: NDArray[np.bool_], scores: NDArray[np.float64], *, truth_count: int) -> Curve:
    """Precision-recall curve of predictions sorted by decreasing score.

    Only points where recall increases are kept: precision decreases between them, so the area and the interpolated
    precision do not change.

    Args:
        is_right: Whether each prediction matched a truth, shape (N,).
        scores: Decreasing, shape (N,).
        truth_count: Number of truths, at least 1.

    Raises:
        ValueError: `truth_count` is below 1.
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
        is_right: Whether each prediction matched a truth, predictions sorted by decreasing score, shape (T, N).
        scores: Decreasing, shape (N,).
        classes: Class of each prediction, in [0, K), shape (N,).
        truth_counts: Number of truths of each class, at least 1, shape (K,).

    Returns:
        Average precision in [0, 1], shape (T, K); 0 for a class that was never predicted.
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
class OperatingPoint:
    """Precision and recall at a score threshold, for each tIoU threshold."""

    score_threshold: float
    """Lowest score kept."""
    kept: int
    """Number of predictions kept."""
    precision: tuple[float | None, ...]
    """Share of kept predictions that matched a truth, in [0, 1]; None if none is kept."""
    recall: tuple[float, ...]
    """Share of truths that were matched, in [0, 1]."""


def operating_points(
    ranked: Ranked, truth_counts: NDArray[np.int64], *, score_threshold: float
) -> tuple[OperatingPoint, list[OperatingPoint]]:
    """Precision and recall over all classes, and of each class.

    Args:
        ranked: Predictions with their matches, which do not change when low scores are dropped.
        truth_counts: Number of truths of each class, at least 1, shape (K,).
        score_threshold: Lowest score kept.
    """
    kept = ranked.scores >= score_threshold
    classes, right = ranked.classes[kept], ranked.found[:, kept] >= 0
    kept_counts = np.bincount(classes, minlength=len(truth_counts))
    hits = np.stack([np.bincount(classes[row], minlength=len(truth_counts)) for row in right])  # (T, K)
    per_class = [
        _point_of(score_threshold, kept_count, hits_of_class, truth_count)
        for kept_count, hits_of_class, truth_count in zip(
            kept_counts.tolist(), hits.T.tolist(), truth_counts.tolist(), strict=True
        )
    ]
    overall = _point_of(score_threshold, len(classes), hits.sum(axis=1).tolist(), int(truth_counts.sum()))
    return overall, per_class


def choose_threshold(
    scores: NDArray[np.float64],
    is_right: NDArray[np.bool_],
    *,
    truth_count: int,
    wanted_precision: float | None = None,
    least_right: int = 1,
) -> float | None:
    """Choose a score threshold.

    It is halfway between the lowest score kept and the highest one dropped, so that rounding cannot change the result.

    Args:
        scores: Decreasing, shape (N,).
        is_right: Whether each prediction matched a truth, shape (N,).
        truth_count: Number of truths, at least 1.
        wanted_precision: Maximize recall at this precision or better, in (0, 1]; None maximizes F1, the harmonic mean
            of precision and recall. Ties are broken in favour of fewer predictions.
        least_right: Minimum number of correct predictions kept for a target precision.

    Returns:
        The threshold; None if no prediction is correct, or no score reaches the target precision.
    """
    if not is_right.any():
        return None
    ends = np.flatnonzero(np.append(scores[1:] < scores[:-1], True))  # equal scores are kept or dropped together
    hits, kept = np.cumsum(is_right)[ends], ends + 1
    if wanted_precision is None:
        best = int(np.argmax(2 * hits / (kept + truth_count)))
    else:
        good = (hits >= wanted_precision * kept * (1 - _ROUNDING)) & (hits >= max(least_right, 1))
        if not good.any():
            return None
        best = int(np.argmax(np.where(good, hits, -1)))
    lowest = float(scores[ends[best]])
    next_lower = float(scores[ends[best] + 1]) if best + 1 < len(ends) else 0.0
    middle = (lowest + next_lower) / 2
    return middle if middle > next_lower else lowest


@dataclass(frozen=True, kw_only=True)
class ErrorKinds:
    """Number of predictions of each kind, see Note [kinds of errors]."""

    tiou_threshold: float
    """Overlap from which a prediction is correct."""
    score_threshold: float | None
    """Lowest score considered; None: the highest-scored predictions of each class, as many as it has truths."""
    looked_at: int
    """Number of predictions considered: the sum of the next five."""
    right: int
    """Predictions that match a truth."""
    duplicate: int
    """Predictions of a truth that is already matched."""
    confusion: int
    """Predictions that overlap a truth of another class."""
    localization: int
    """Predictions that overlap a truth of their class, but not enough."""
    background: int
    """Predictions that overlap no truth."""
    missed: int
    """Truths without a matching prediction."""

    @property
    def described(self) -> str:
        """Describe which predictions were considered."""
        if self.score_threshold is None:
            return f"the best {self.looked_at} predictions, as many per class as truths"
        return f"{self.looked_at} predictions with a score of at least {self.score_threshold:g}"


def error_kinds(
    truth: Truth, ranked: Ranked, tiou_thresholds: tuple[float, ...], *, score_threshold: float | None
) -> ErrorKinds:
    """Classify predictions by kind of error, at the threshold nearest to 0.5.

    Args:
        truth: Annotated segments.
        ranked: Predictions sorted by decreasing score, with their matches.
        tiou_thresholds: Thresholds of `ranked.found`.
        score_threshold: Lowest score considered; None: the highest-scored predictions of each class, as many as it has
            truths.
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


def evaluation_document(evaluation: Evaluation, *, predictions: str, truth: str) -> dict[str, Any]:
    """Convert an evaluation to JSON values; shares are in [0, 1], times in seconds.

    Args:
        evaluation: The evaluation.
        predictions: Source of the predictions.
        truth: Source of the truth.
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


def _operating_point(point: OperatingPoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "score_threshold": point.score_threshold,
        "kept": point.kept,
        "precision": list(point.precision),
        "recall": list(point.recall),
    }


def _point_of(score_threshold: float, kept: int, hits: list[int], truth_count: int) -> OperatingPoint:
    return OperatingPoint(
        score_threshold=score_threshold,
        kept=kept,
        precision=tuple(number / kept if kept else None for number in hits),
        recall=tuple(number / truth_count for number in hits),
    )


def _top_of_each_class(ranked: Ranked, truth: Truth) -> NDArray[np.bool_]:
    """Mask of the highest-scored predictions of each class, as many as it has truths, shape (N,)."""
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
