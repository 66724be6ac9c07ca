"""Operating points and sure scores, from predictions on a labelled set.

# Note [few truths]
A threshold that fits a handful of truths fits their accidents. A class with fewer than `ENOUGH_TRUTHS` truths gets the
curve and the cuts of all classes together, and is reported as pooled. And one lucky prediction is no precision: fewer
than `ENOUGH_RIGHT` right ones above a score do not reach a wanted one.

# Note [points on other videos]
Thresholds look better on the videos they were chosen on than on others. So they are also chosen `FOLDS` times without a
share of the videos and judged on that share; precision and recall over these are the `held_out` ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import CalibratedClass, Calibration, Cut, PointSummary
from tallformer_infer.errors import ConfigError
from tallformer_infer.evaluation.alignment import VideoReport
from tallformer_infer.evaluation.annotations import Predictions, Truth
from tallformer_infer.evaluation.calibration_inputs import Judged, judge
from tallformer_infer.evaluation.operating_point import choose_threshold
from tallformer_infer.evaluation.score_curves import expected_calibration_error, fit_curve, shares_right

ENOUGH_TRUTHS = 10
"""From so many truths on a class has cuts of its own. See Note [few truths]."""
ENOUGH_RIGHT = 3
"""So many right ones must lie above a score to believe in its precision. See Note [few truths]."""
FOLDS = 5
"""See Note [points on other videos]."""
BEST_F1 = "max-f1"
"""Name of the point with the highest F1 of each class."""


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """A calibration, and what a reader should know about it."""

    calibration: Calibration
    """To be stored in the bundle."""
    error_before: float
    """Expected calibration error of the scores as they were, in [0, 1]."""
    error_after: float
    """The same of the calibrated scores, on the predictions they were calibrated with."""
    videos: VideoReport
    """Which videos counted, and which did not and why."""
    notes: tuple[str, ...]
    """One sentence each."""


def calibrate(
    predictions: Predictions,
    truth: Truth,
    *,
    classes: Sequence[str],
    tiou_threshold: float = 0.5,
    precisions: Sequence[float] = (0.9,),
    default: str = BEST_F1,
) -> CalibrationReport:
    """Find how sure a model's scores are, and from which score on its actions are worth keeping.

    Args:
        predictions: All that the model finds in the videos of the truth, with its own scores.
        truth: What there is. Predictions on its videos in which nothing is annotated are wrong.
        classes: Names that the model can give.
        tiou_threshold: Overlap from which a prediction is right, in (0, 1].
        precisions: Beside the point `max-f1`, one is made for each of these least precisions, in (0, 1].
        default: What `detect` will use unless told otherwise: a point, `all` or `none`.

    Raises:
        AnnotationError: Predictions and truth do not fit together, or to the model; or nothing is right.
        ConfigError: An option is out of range.
    """
    if not 0 < tiou_threshold <= 1:
        raise ConfigError(f"tiou_threshold={tiou_threshold} must be in (0, 1]")
    wanted = points_for(precisions)
    judged, videos, notes = judge(predictions, truth, classes=classes, tiou_threshold=tiou_threshold)
    is_own = np.bincount(judged.truth_classes, minlength=len(classes)) >= ENOUGH_TRUTHS
    cuts = {name: _thresholds(judged, is_own, precision) for name, precision in wanted.items()}
    calibrated, shares = _calibrated_classes(judged, is_own, classes, cuts)
    return CalibrationReport(
        calibration=Calibration(
            default=default,
            tiou_threshold=float(tiou_threshold),
            points={
                name: _summary(judged, cuts[name], _held_out(judged, is_own, precision), precision)
                for name, precision in wanted.items()
            },
            classes=calibrated,
            made_from={"videos": len(videos.scored), "truths": len(judged.truth_classes), "subset": truth.subset},
        ),
        error_before=expected_calibration_error(judged.scores, judged.is_right),
        error_after=expected_calibration_error(shares, judged.is_right),
        videos=videos,
        notes=notes,
    )


def points_for(precisions: Sequence[float]) -> dict[str, float | None]:
    """Names of the points that are made, and the least precision of each: 0.9 makes `precision-0.90`.

    Raises:
        ConfigError: A precision is out of range.
    """
    wanted: dict[str, float | None] = {BEST_F1: None}
    for precision in precisions:
        if not 0 < precision <= 1:
            raise ConfigError(f"precision={precision} must be in (0, 1]: 0.9 keeps actions of which 9 in 10 are right")
        digits = f"{precision:.2f}"
        wanted[f"precision-{digits if float(digits) == precision else f'{precision:g}'}"] = float(precision)
    return wanted


def _calibrated_classes(
    judged: Judged, is_own: NDArray[np.bool_], labels: Sequence[str], cuts: dict[str, list[float | None]]
) -> tuple[dict[str, CalibratedClass], NDArray[np.float64]]:
    """Every class, and the calibrated score of every prediction, shape (N,)."""
    pooled_curve = fit_curve(judged.scores, judged.is_right)
    shares = np.zeros(len(judged.scores))
    classes: dict[str, CalibratedClass] = {}
    for row, label in enumerate(labels):
        found = judged.of_class(row)
        curve = fit_curve(found.scores, found.is_right, prior=pooled_curve) if is_own[row] else pooled_curve
        shares[judged.classes == row] = shares_right(curve, found.scores)
        classes[label] = CalibratedClass(
            truths=len(found.truth_classes),
            predictions=len(found.scores),
            pooled=not is_own[row],
            curve=curve,
            cuts={name: _cut(found, thresholds[row]) for name, thresholds in cuts.items()},
        )
    return classes, shares


def _thresholds(judged: Judged, is_own: NDArray[np.bool_], wanted_precision: float | None) -> list[float | None]:
    """The threshold of each class; of those with few truths, that of all together."""
    pooled = _threshold(judged, wanted_precision)
    return [
        _threshold(judged.of_class(row), wanted_precision) if own else pooled for row, own in enumerate(is_own.tolist())
    ]


def _threshold(judged: Judged, wanted_precision: float | None) -> float | None:
    return choose_threshold(
        judged.scores,
        judged.is_right,
        truth_count=len(judged.truth_classes),
        wanted_precision=wanted_precision,
        least_right=ENOUGH_RIGHT,
    )


def _cut(found: Judged, threshold: float | None) -> Cut:
    kept, hits = _kept_and_hits(found, np.full(len(found.scores), np.inf if threshold is None else threshold))
    truths = len(found.truth_classes)
    return Cut(threshold=threshold, precision=hits / kept if kept else None, recall=hits / truths if truths else None)


def _kept_and_hits(judged: Judged, lowest: NDArray[np.float64]) -> tuple[int, int]:
    """How many predictions have at least the score `lowest`, one for each; and how many of these are right."""
    kept = judged.scores >= lowest
    return int(kept.sum()), int(judged.is_right[kept].sum())


def _lowest(judged: Judged, thresholds: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.inf if threshold is None else threshold for threshold in thresholds])[judged.classes]


def _held_out(judged: Judged, is_own: NDArray[np.bool_], wanted_precision: float | None) -> tuple[int, int] | None:
    """How many are kept, and how many of them are right, on videos that the thresholds were not chosen on.

    None where all truths are in one video. See Note [points on other videos].
    """
    videos = np.unique(judged.truth_videos)
    if len(videos) < 2:
        return None
    # Videos with truths take turns; one without goes with the one before it.
    turn = np.maximum(np.searchsorted(videos, judged.videos, side="right"), 1) % FOLDS
    truth_turn = np.searchsorted(videos, judged.truth_videos, side="right") % FOLDS
    kept_and_hits = np.zeros(2, np.int64)
    for fold in np.unique(truth_turn).tolist():
        thresholds = _thresholds(judged.take(turn != fold, truth_turn != fold), is_own, wanted_precision)
        others = judged.take(turn == fold, truth_turn == fold)
        kept_and_hits += _kept_and_hits(others, _lowest(others, thresholds))
    kept, hits = kept_and_hits.tolist()
    return kept, hits


def _summary(
    judged: Judged,
    thresholds: Sequence[float | None],
    held_out: tuple[int, int] | None,
    wanted_precision: float | None,
) -> PointSummary:
    kept, hits = _kept_and_hits(judged, _lowest(judged, thresholds))
    truths = len(judged.truth_classes)
    return PointSummary(
        wanted_precision=wanted_precision,
        precision=hits / kept if kept else None,
        recall=hits / truths,
        held_out_precision=held_out[1] / held_out[0] if held_out is not None and held_out[0] else None,
        held_out_recall=None if held_out is None else held_out[1] / truths,
    )
