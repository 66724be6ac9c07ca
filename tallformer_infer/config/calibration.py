"""What a labelled set taught about a model's scores: how sure each is, and from which one on actions are worth keeping.

It is stored in the bundle. `tallformer calibrate` makes it, `tallformer detect --operating-point` uses it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from tallformer_infer.errors import ConfigError

CALIBRATION_VERSION = 1
"""Version of the form in which a bundle stores it."""

ALL_ACTIONS = "all"
"""Instead of a point: every action, with calibrated scores."""
RAW_SCORES = "none"
"""Instead of a point: every action, with the scores of the model."""
NAMED_CLASSES = "named-classes"
"""Point that a model may have for whoever names the classes that are looked for: then it is the default."""

SCORE_MARGIN = 1e-9
"""Scores are kept this far from 0 and 1 before their logarithm is taken."""


@dataclass(frozen=True, kw_only=True)
class ScoreCurve:
    """From a model's score s to the share of such actions that are right.

    That share is sigmoid(low * ln s - high * ln(1 - s) + shift). Rising for every s, so the order of scores stays;
    low = high = 1 and shift = 0 leave scores as they are.

    Source: Kull, Silva Filho and Flach, "Beta calibration", AISTATS 2017, equation 5.
    """

    low: float
    """How fast it rises near 0; above 0."""
    high: float
    """How fast it rises near 1; at least 0."""
    shift: float
    """Moves all scores up or down."""

    def __post_init__(self) -> None:
        if not (self.low > 0 and self.high >= 0 and all(map(math.isfinite, (self.low, self.high, self.shift)))):
            raise ConfigError(
                f"low={self.low}, high={self.high}, shift={self.shift}: expected low > 0, high >= 0, all finite"
            )

    def share_right(self, score: float) -> float:
        """Share of actions of this score that are right, in [0, 1]."""
        inner = min(max(score, SCORE_MARGIN), 1 - SCORE_MARGIN)
        level = self.low * math.log(inner) - self.high * math.log1p(-inner) + self.shift
        return 0.5 * (1 + math.tanh(level / 2))  # the sigmoid, without overflow


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The actions of one class that an operating point keeps."""

    threshold: float | None
    """Lowest score kept, on the scale of the model; None keeps nothing, as no score is good enough."""
    precision: float | None
    """Share of the kept that were right on the labelled set; None where nothing was kept."""
    recall: float | None
    """Share of the truths that were found there; None where there were none."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be in [0, 1], or null to keep nothing")

    def keeps(self, score: float) -> bool:
        """Whether an action of this score, on the scale of the model, is kept."""
        return self.threshold is not None and score >= self.threshold


@dataclass(frozen=True, kw_only=True)
class CalibratedClass:
    """What is known of one class."""

    truths: int
    """Annotated segments in the labelled set."""
    predictions: int
    """Predictions there, right and wrong."""
    pooled: bool
    """True where the truths were too few, and curve and cuts are those of all classes together."""
    curve: ScoreCurve
    """How sure a score is."""
    cuts: dict[str, Cut]
    """What each operating point keeps."""


@dataclass(frozen=True, kw_only=True)
class PointSummary:
    """How an operating point did on the labelled set, over all classes."""

    wanted_precision: float | None
    """Least precision it was made for; None for the best F1."""
    precision: float | None
    """Share of the kept that were right; None where nothing was kept."""
    recall: float
    """Share of the truths that were found."""
    held_out_precision: float | None
    """The same on videos that its cuts were not made from; None where nothing was kept, or there is one video only."""
    held_out_recall: float | None
    """The same of the recall."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Operating points of a model, and how sure its scores are."""

    version: int = CALIBRATION_VERSION
    """Version of this form."""
    default: str
    """What `detect` uses unless told otherwise: one of `points`, `all` or `none`."""
    tiou_threshold: float
    """Overlap from which a prediction counted as right."""
    points: dict[str, PointSummary]
    """Operating points by name."""
    classes: dict[str, CalibratedClass]
    """Every class of the model by name."""
    made_from: dict[str, Any]
    """The labelled set, as it was described."""
    uncalibrated_sha256: str | None = None
    """Hash of `bundle.json` before it was calibrated for the first time."""

    def __post_init__(self) -> None:
        if reserved := {ALL_ACTIONS, RAW_SCORES} & set(self.points):
            raise ConfigError(f"operating point {min(reserved)!r}: that name is taken; choose another")
        if self.default not in self.names:
            raise ConfigError(f"default={self.default!r}: no such operating point; there are {', '.join(self.names)}")
        for label, found in self.classes.items():
            if set(found.cuts) != set(self.points):
                raise ConfigError(f"class {label!r}: has cuts for {sorted(found.cuts)}, expected {sorted(self.points)}")

    @property
    def names(self) -> tuple[str, ...]:
        """Everything that can be asked for."""
        return (*self.points, ALL_ACTIONS, RAW_SCORES)

    @property
    def pooled(self) -> tuple[str, ...]:
        """Classes whose truths were too few."""
        return tuple(label for label, found in self.classes.items() if found.pooled)

    def keeps_nothing_of(self, point: str) -> tuple[str, ...]:
        """Classes of which an operating point keeps no action, as no score was good enough."""
        return tuple(label for label, found in self.classes.items() if found.cuts[point].threshold is None)
