"""What was measured of a model and is stored in its bundle: calibrated scores, and parity of its graphs with torch.

`tallformer calibrate` makes the calibration, `tallformer detect --operating-point` uses it; `tallformer export`
measures parity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
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

PARITY_VERSION = 1
"""Version of the form in which a bundle stores it."""


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


@dataclass(frozen=True, kw_only=True)
class Difference:
    """How far one thing that a bundle gives is from what torch gives."""

    worst: float | None
    """Largest difference; None where there is none to tell: a value is not a number, or the counts differ."""
    mean: float | None
    """Mean difference; None as above."""
    limit: float
    """Largest that counts as the same."""
    unit: str
    """What it is measured in."""

    def __post_init__(self) -> None:
        if not self.limit >= 0:
            raise ConfigError(f"limit={self.limit} must be at least 0")

    @property
    def is_within(self) -> bool:
        """Whether the worst is at most the limit."""
        return self.worst is not None and self.worst <= self.limit


@dataclass(frozen=True, kw_only=True)
class ParitySample:
    """The video on which they were compared."""

    source: str
    """`generated`, or the name of the file that the maker of the bundle gave."""
    sha256: str | None
    """Hash of that file; None for a generated video."""
    frames: int
    """Frames of it, from its start, at the recipe's rate."""


@dataclass(frozen=True, kw_only=True)
class MatchedActions:
    """The final actions of the sample, as torch and as the bundle gives them."""

    in_torch: int
    """Actions that torch gives."""
    in_bundle: int
    """Actions that the bundle gives."""
    matched: int
    """Pairs of one class that overlap enough, each action in one pair at most."""
    tiou_threshold: float
    """Overlap from which two are a pair."""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The exported graphs against torch in float32, on the frames of a video."""

    version: int = PARITY_VERSION
    """Version of this form."""
    sample: ParitySample
    """The video."""
    differences: dict[str, Difference]
    """By `graph.output`, of each graph on the inputs that torch gives it; `actions.…` is what all of them together do
    to the final actions."""
    actions: MatchedActions
    """How many actions were compared."""
    accepted: tuple[str, ...] = ()
    """Differences above their limits that the maker of the bundle accepted (`--accept-parity`)."""

    at_run_time: dict[str, dict[str, Difference]] = field(default_factory=dict)
    """What becomes of the final actions where the encoder is run in another precision than its own (`bf16`): by
    precision, the differences `actions.…`. Measured where the exporting machine could."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.accepted if name not in self.differences]:
            raise ConfigError(f"accepted={unknown[0]!r}: no such difference; there are {', '.join(self.differences)}")

    def holds_in(self, precision: str) -> bool:
        """Whether final actions were found to stay the same where the encoder is run in that precision."""
        measured = self.at_run_time.get(precision, {})
        return bool(measured) and all(difference.is_within for difference in measured.values())

    @property
    def beyond(self) -> tuple[str, ...]:
        """Names of the differences above their limits, accepted or not."""
        return tuple(name for name, difference in self.differences.items() if not difference.is_within)
