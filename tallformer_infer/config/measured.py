"""Measurements stored in a bundle: calibration of its scores, and parity of its graphs with torch.

`tallformer calibrate` creates the calibration, `tallformer detect --operating-point` uses it; `tallformer export`
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
"""Alternative to an operating point: all actions, with calibrated scores."""
RAW_SCORES = "none"
"""Alternative to an operating point: all actions, with the scores of the model."""
NAMED_CLASSES = "named-classes"
"""Optional operating point that is the default if the user names classes."""

SCORE_MARGIN = 1e-9
"""Scores are kept this far from 0 and 1 before their logarithm is taken."""

PARITY_VERSION = 1
"""Version of the form in which a bundle stores it."""


@dataclass(frozen=True, kw_only=True)
class ScoreCurve:
    """Maps a model's score s to the share of such actions that are correct.

    That share is sigmoid(low * ln s - high * ln(1 - s) + shift). It is increasing in s, so the order of scores does not
    change; low = high = 1 and shift = 0 leave scores unchanged.

    Source: Kull, Silva Filho and Flach, "Beta calibration", AISTATS 2017, equation 5.
    """

    low: float
    """Slope near 0; above 0."""
    high: float
    """Slope near 1; at least 0."""
    shift: float
    """Offset that raises or lowers all scores."""

    def __post_init__(self) -> None:
        if not (self.low > 0 and self.high >= 0 and all(map(math.isfinite, (self.low, self.high, self.shift)))):
            raise ConfigError(
                f"low={self.low}, high={self.high}, shift={self.shift}: expected low > 0, high >= 0, all finite"
            )

    def share_right(self, score: float) -> float:
        """Share of actions with this score that are correct, in [0, 1]."""
        inner = min(max(score, SCORE_MARGIN), 1 - SCORE_MARGIN)
        level = self.low * math.log(inner) - self.high * math.log1p(-inner) + self.shift
        return 0.5 * (1 + math.tanh(level / 2))  # the sigmoid, without overflow


@dataclass(frozen=True, kw_only=True)
class Cut:
    """The actions of one class that an operating point keeps."""

    threshold: float | None
    """Lowest score kept, on the scale of the model; None keeps nothing, as no score reaches the precision."""
    precision: float | None
    """Share of kept actions that were correct on the labelled set; None if nothing was kept."""
    recall: float | None
    """Share of truths found there; None if there were none."""

    def __post_init__(self) -> None:
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ConfigError(f"threshold={self.threshold} must be in [0, 1], or null to keep nothing")

    def keeps(self, score: float) -> bool:
        """Whether an action of this score, on the scale of the model, is kept."""
        return self.threshold is not None and score >= self.threshold


@dataclass(frozen=True, kw_only=True)
class CalibratedClass:
    """Calibration of one class."""

    truths: int
    """Number of annotated segments in the labelled set."""
    predictions: int
    """Number of predictions there, correct or not."""
    pooled: bool
    """Whether there were too few truths, so that curve and cuts are those of all classes together."""
    curve: ScoreCurve
    """Curve that calibrates scores."""
    cuts: dict[str, Cut]
    """Cut of each operating point."""


@dataclass(frozen=True, kw_only=True)
class PointSummary:
    """Precision and recall of an operating point on the labelled set, over all classes."""

    wanted_precision: float | None
    """Target precision; None for the best F1."""
    precision: float | None
    """Share of kept actions that were correct; None if nothing was kept."""
    recall: float
    """Share of truths found."""
    held_out_precision: float | None
    """Cross-validated precision, on held-out videos; None if nothing was kept, or there is only one video."""
    held_out_recall: float | None
    """Cross-validated recall."""


@dataclass(frozen=True, kw_only=True)
class Calibration:
    """Operating points and score curves of a model."""

    version: int = CALIBRATION_VERSION
    """Version of this form."""
    default: str
    """Default of `detect`: one of `points`, `all` or `none`."""
    tiou_threshold: float
    """Overlap from which a prediction counted as correct."""
    points: dict[str, PointSummary]
    """Operating points by name."""
    classes: dict[str, CalibratedClass]
    """Every class of the model by name."""
    made_from: dict[str, Any]
    """Description of the labelled set."""
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
        """Valid values of `--operating-point`."""
        return (*self.points, ALL_ACTIONS, RAW_SCORES)

    @property
    def pooled(self) -> tuple[str, ...]:
        """Classes with too few truths."""
        return tuple(label for label, found in self.classes.items() if found.pooled)

    def keeps_nothing_of(self, point: str) -> tuple[str, ...]:
        """Classes for which an operating point keeps no action, as no score reached the precision."""
        return tuple(label for label, found in self.classes.items() if found.cuts[point].threshold is None)


@dataclass(frozen=True, kw_only=True)
class Difference:
    """Difference between one output of a bundle and of torch."""

    worst: float | None
    """Largest difference; None if undefined: a value is NaN, or the counts differ."""
    mean: float | None
    """Mean difference; None as above."""
    limit: float
    """Largest difference accepted."""
    unit: str
    """Unit of the difference."""

    def __post_init__(self) -> None:
        if not self.limit >= 0:
            raise ConfigError(f"limit={self.limit} must be at least 0")

    @property
    def is_within(self) -> bool:
        """Whether the largest difference is within the limit."""
        return self.worst is not None and self.worst <= self.limit


@dataclass(frozen=True, kw_only=True)
class ParitySample:
    """The video used for a comparison."""

    source: str
    """`generated`, or the name of a file given on export."""
    sha256: str | None
    """Hash of that file; None for a generated video."""
    frames: int
    """Number of frames used, from its start, at the recipe's rate."""


@dataclass(frozen=True, kw_only=True)
class MatchedActions:
    """Comparison of the final actions of torch and of the bundle on the sample."""

    in_torch: int
    """Number of actions from torch."""
    in_bundle: int
    """Number of actions from the bundle."""
    matched: int
    """Number of one-to-one matches with the same class and enough overlap."""
    tiou_threshold: float
    """Overlap from which two actions match."""


@dataclass(frozen=True, kw_only=True)
class ParityReport:
    """The exported graphs against torch in float32, on the frames of a video."""

    version: int = PARITY_VERSION
    """Version of this form."""
    sample: ParitySample
    """The video."""
    differences: dict[str, Difference]
    """Differences by `graph.output`, for each graph with inputs from torch; `actions.…` is the effect of all graphs
    together on the final actions."""
    actions: MatchedActions
    """Comparison of the final actions."""
    accepted: tuple[str, ...] = ()
    """Differences above their limits that were accepted on export (`--accept-parity`)."""

    at_run_time: dict[str, dict[str, Difference]] = field(default_factory=dict)
    """Differences `actions.…` if the encoder runs in another precision than its own (`bf16`), by precision. Measured
    if the exporting machine supports it."""

    def __post_init__(self) -> None:
        if unknown := [name for name in self.accepted if name not in self.differences]:
            raise ConfigError(f"accepted={unknown[0]!r}: no such difference; there are {', '.join(self.differences)}")

    def holds_in(self, precision: str) -> bool:
        """Whether final actions did not change with the encoder in that precision, as measured."""
        measured = self.at_run_time.get(precision, {})
        return bool(measured) and all(difference.is_within for difference in measured.values())

    @property
    def beyond(self) -> tuple[str, ...]:
        """Names of the differences above their limits, accepted or not."""
        return tuple(name for name, difference in self.differences.items() if not difference.is_within)
