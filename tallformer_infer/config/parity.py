"""How far exported graphs are from torch: what `tallformer export` measures, and stores in the bundle."""

from __future__ import annotations

from dataclasses import dataclass, field

from tallformer_infer.errors import ConfigError

PARITY_VERSION = 1
"""Version of the form in which a bundle stores it."""


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
