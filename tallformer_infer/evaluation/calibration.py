"""Calibrate a model on a labelled set: a score curve per class, and thresholds for operating points.

# Note [few truths]
A threshold fitted to a handful of truths overfits. A class with fewer than `ENOUGH_TRUTHS` truths gets the curve and
thresholds of all classes together and is reported as pooled. A precision also needs more than one lucky prediction: at
least `ENOUGH_RIGHT` correct predictions must lie above a threshold.

# Note [points on other videos]
Thresholds look better on the videos they were chosen on than on others. They are therefore also cross-validated in
`FOLDS` folds of videos; `held_out` precision and recall are measured on the folds left out.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SCORE_MARGIN, CalibratedClass, Calibration, Cut, PointSummary, ScoreCurve
from tallformer_infer.errors import AnnotationError, ConfigError
from tallformer_infer.evaluation.annotations import Aligned, Predictions, Truth, VideoReport, align
from tallformer_infer.evaluation.matching import protocol_named, rank
from tallformer_infer.evaluation.scoring import choose_threshold
from tallformer_infer.labels import composed, match_video

ENOUGH_TRUTHS = 10
"""Minimum number of truths for a class to get its own thresholds. See Note [few truths]."""
ENOUGH_RIGHT = 3
"""Minimum number of correct predictions above a threshold. See Note [few truths]."""
FOLDS = 5
"""Number of cross-validation folds. See Note [points on other videos]."""
BEST_F1 = "max-f1"
"""Name of the point with the highest F1 of each class."""

NAMES_SHOWN = 8

Array = NDArray[np.float64]

IDENTITY = ScoreCurve(low=1.0, high=1.0, shift=0.0)
"""Curve that leaves scores unchanged."""

DECIMALS = 6
"""Digits to which parameters are rounded, so that another summation order still gives the same bundle."""

_FLATTEST = 0.01
"""Minimum of `low`, which preserves the order of uninformative scores."""
_STEPS = 100
_SMALLEST_STEP = 1e-9


@dataclass(frozen=True, kw_only=True)
class CalibrationReport:
    """A calibration, with its errors and notes."""

    calibration: Calibration
    """Calibration to be stored in the bundle."""
    error_before: float
    """Expected calibration error of the original scores, in [0, 1]."""
    error_after: float
    """Expected calibration error of the calibrated scores, on the predictions used for calibration."""
    videos: VideoReport
    """Which videos were used, and why others were not."""
    notes: tuple[str, ...]
    """Notes for the user, one sentence each."""


def calibrate(
    predictions: Predictions,
    truth: Truth,
    *,
    classes: Sequence[str],
    tiou_threshold: float = 0.5,
    precisions: Sequence[float] = (0.9,),
    default: str = BEST_F1,
) -> CalibrationReport:
    """Fit calibrated scores, and the score thresholds of operating points.

    Args:
        predictions: All predictions of the model on the videos of the truth, with its own scores.
        truth: Annotated segments. Predictions on its videos without annotations are false positives.
        classes: Class names of the model.
        tiou_threshold: Overlap from which a prediction is correct, in (0, 1].
        precisions: Target precisions in (0, 1]; an operating point is made for each, in addition to `max-f1`.
        default: Default of `detect`: an operating point, `all` or `none`.

    Raises:
        AnnotationError: Predictions and truth do not match each other or the model, or no prediction is correct.
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
    """Names of the operating points, and the target precision of each: 0.9 gives `precision-0.90`.

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


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Predictions sorted by decreasing score, each correct or not, and the truths."""

    scores: NDArray[np.float64]
    """Decreasing, shape (N,)."""
    is_right: NDArray[np.bool_]
    """Whether each prediction matched a truth, shape (N,)."""
    classes: NDArray[np.int64]
    """Index into the model's classes, shape (N,)."""
    videos: NDArray[np.int64]
    """Index into the truth's videos, shape (N,)."""
    truth_classes: NDArray[np.int64]
    """Index into the model's classes for each truth, shape (M,)."""
    truth_videos: NDArray[np.int64]
    """Index into the truth's videos for each truth, shape (M,)."""

    def take(self, rows: NDArray[np.bool_], truths: NDArray[np.bool_]) -> Judged:
        """Select predictions and truths by masks. Matches stay valid if whole videos or classes are selected."""
        return Judged(
            scores=self.scores[rows],
            is_right=self.is_right[rows],
            classes=self.classes[rows],
            videos=self.videos[rows],
            truth_classes=self.truth_classes[truths],
            truth_videos=self.truth_videos[truths],
        )

    def of_class(self, row: int) -> Judged:
        """Select one class."""
        return self.take(self.classes == row, self.truth_classes == row)


def judge(
    predictions: Predictions, truth: Truth, *, classes: Sequence[str], tiou_threshold: float
) -> tuple[Judged, VideoReport, tuple[str, ...]]:
    """Match predictions with truths, greedily by score; on videos without truths, all predictions are wrong.

    Args:
        predictions: All predictions of the model on the videos of the truth.
        truth: Annotated segments.
        classes: Class names of the model.
        tiou_threshold: Overlap from which a prediction is correct, in (0, 1].

    Returns:
        The judged predictions, which videos were used, and notes for the user.

    Raises:
        AnnotationError: Predictions and truth do not match each other or the model, or no prediction is correct.
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
            f"{truth.source} by tIoU {tiou_threshold:g}; calibration needs at least one correct prediction"
        )
    if aligned.unknown_labels:
        dropped = listed([f"{label} ({count})" for label, count in aligned.unknown_labels.items()])
        notes = (*notes, f"predictions of classes without any truth were ignored: {dropped}")
    return judged, aligned.videos, (*truth.notes, *predictions.notes, *notes)


def listed(names: Sequence[str]) -> str:
    """Join the first names of a list, with the number of the others."""
    more = len(names) - NAMES_SHOWN
    return ", ".join(names[:NAMES_SHOWN]) + (f" and {more} more" if more > 0 else "")


def fit_curve(scores: Array, is_right: NDArray[np.bool_], *, prior: ScoreCurve = IDENTITY) -> ScoreCurve:
    """Fit a score curve by maximum a posteriori estimation.

    Each parameter has a normal prior with standard deviation 1 around `prior`: weak against hundreds of predictions,
    but enough for a well-defined curve if only a few predictions are given and all are correct, or all wrong.

    Args:
        scores: Scores in [0, 1], shape (N,); with none, the result is `prior`.
        is_right: Whether each prediction matched a truth, shape (N,).
        prior: Centre of the prior.
    """
    columns, right = _columns(scores), is_right.astype(np.float64)
    centre = np.array([prior.low, prior.high, prior.shift])
    bounds = np.array([_FLATTEST, 0.0, -np.inf])
    # The cost is convex: if the minimum is out of bounds, the best point on a bound is the solution.
    best, best_cost = centre, np.inf
    for held in ([], [0], [1], [0, 1]):
        free = np.setdiff1d(np.arange(3), held)
        start = centre.copy()
        start[held] = bounds[held]
        found, cost = _descend(columns, right, start=start, centre=centre, free=free)
        if (found >= bounds).all() and cost < best_cost:
            best, best_cost = found, cost
            if not held:
                break
    low, high, shift = (round(float(value), DECIMALS) for value in best)
    return ScoreCurve(low=low, high=high + 0.0, shift=shift + 0.0)


def shares_right(curve: ScoreCurve, scores: Array) -> Array:
    """`ScoreCurve.share_right` of many scores, shape (N,)."""
    return _sigmoid(_columns(scores) @ np.array([curve.low, curve.high, curve.shift]))


def expected_calibration_error(shares: Array, is_right: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Mean difference between predicted and actual precision, over bins of equal width.

    Args:
        shares: Predicted probability of being correct, in [0, 1], shape (N,).
        is_right: Whether each prediction matched a truth, shape (N,).
        bins: Number of bins.

    Returns:
        Error in [0, 1]; 0 without predictions.

    Source: Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    if not len(shares):
        return 0.0
    bin_of = np.minimum((shares * bins).astype(np.int64), bins - 1)
    surplus = np.bincount(bin_of, weights=shares - is_right, minlength=bins)
    return float(np.abs(surplus).sum() / len(shares))


def _calibrated_classes(
    judged: Judged, is_own: NDArray[np.bool_], labels: Sequence[str], cuts: dict[str, list[float | None]]
) -> tuple[dict[str, CalibratedClass], NDArray[np.float64]]:
    """Calibration of every class, and the calibrated score of every prediction, shape (N,)."""
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
    """Threshold of each class; for classes with few truths, the pooled one."""
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
    """Number of predictions that reach their thresholds `lowest`, shape (N,), and how many of them are correct."""
    kept = judged.scores >= lowest
    return int(kept.sum()), int(judged.is_right[kept].sum())


def _lowest(judged: Judged, thresholds: Sequence[float | None]) -> NDArray[np.float64]:
    return np.array([np.inf if threshold is None else threshold for threshold in thresholds])[judged.classes]


def _held_out(judged: Judged, is_own: NDArray[np.bool_], wanted_precision: float | None) -> tuple[int, int] | None:
    """Number of predictions kept, and how many of them are correct, on held-out videos.

    None if all truths are in one video. See Note [points on other videos].
    """
    videos = np.unique(judged.truth_videos)
    if len(videos) < 2:
        return None
    # Videos with truths are assigned to folds in turn; one without truths joins the fold of the previous video.
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


def _check_predictions(predictions: Predictions, classes: Sequence[str]) -> None:
    if others := [label for label in predictions.labels if label not in classes]:
        raise AnnotationError(
            f"{predictions.source}: predicts classes that the model does not have: {listed(others)}; "
            "use predictions made with this model"
        )
    wrong = np.flatnonzero((predictions.scores < 0) | (predictions.scores > 1))
    if len(wrong):
        score = float(predictions.scores[wrong[0]])
        raise AnnotationError(f"{predictions.source}: has score {score:g}; expected scores in [0, 1]")


def _of_known_classes(truth: Truth, classes: Sequence[str]) -> tuple[Truth, tuple[str, ...]]:
    """Remove truths of classes that the model does not have; return the others and notes about them."""
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
    return known, (f"truths of classes that the model does not have were ignored: {named}",)


def _check_videos(aligned: Aligned, predictions: Predictions, truth: Truth) -> None:
    predicted = frozenset(predictions.videos)
    missing = [video for video in aligned.videos.scored if match_video(video, predicted) is None]
    if missing:
        raise AnnotationError(
            f"{predictions.source}: lacks {len(missing)} of the {len(aligned.videos.scored)} videos of {truth.source}: "
            f"{listed(missing)}; run detect on them, or exclude them with --leave-out FILE"
        )


def _columns(scores: Array) -> Array:
    inner = np.clip(scores, SCORE_MARGIN, 1 - SCORE_MARGIN)
    return np.stack([np.log(inner), -np.log1p(-inner), np.ones_like(inner)], axis=1)  # (N, 3)


def _descend(
    columns: Array, right: Array, *, start: Array, centre: Array, free: NDArray[np.int64]
) -> tuple[Array, float]:
    """Newton's method with step halving, on the free parameters.

    Returns:
        Parameters, shape (3,), and their cost: negative log-likelihood plus half the squared distance from `centre`.
    """

    def cost_at(place: Array) -> float:
        level = columns @ place
        return float(np.sum(np.logaddexp(0, level) - right * level) + np.sum((place - centre) ** 2) / 2)

    place, cost = start, cost_at(start)
    for _ in range(_STEPS):
        share = _sigmoid(columns @ place)
        slope = columns.T @ (share - right) + place - centre
        bend = columns.T @ (columns * (share * (1 - share))[:, None]) + np.eye(3)
        step = np.zeros(3)
        step[free] = np.linalg.solve(bend[np.ix_(free, free)], slope[free])
        for halving in itertools.count():
            nearer = place - step / 2**halving
            nearer_cost = cost_at(nearer)
            if nearer_cost <= cost or np.abs(step).max() / 2**halving < _SMALLEST_STEP:
                break
        if nearer_cost >= cost:
            break
        place, cost = nearer, nearer_cost
    return place, cost


def _sigmoid(level: Array) -> Array:
    share: Array = 0.5 * (1 + np.tanh(level / 2))
    return share
