"""The goals of the benchmarks: each with its number, and how a measured figure is compared with it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

from tallformer_infer.diagnosis.turns import Spread

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a benchmark measured for one goal."""

    value: float
    quartiles: tuple[float, float] | None = None
    """Of its rounds, where there were several."""
    profile: str = ""
    """Where the time goes, in one line: what would have to become faster."""

    @staticmethod
    def of(spread: Spread, profile: str = "") -> Figure:
        """The median of rounds."""
        return Figure(value=spread.median, quartiles=(spread.low, spread.high), profile=profile)


class NotMeasuredError(Exception):
    """A part cannot be measured here; the message says why."""


@dataclass(frozen=True)
class Goal:
    """A number to reach."""

    part: str
    """What measures it: a name of `benchmarks.__main__`."""
    key: str
    """Name of its figure among those of the part."""
    what: str
    """In words."""
    wanted: float
    sense: Literal["at least", "at most"]
    unit: str = ""
    """`×`, `%` (of a share), `points`, `s` or `ms` (of seconds)."""

    def is_met(self, value: float) -> bool:
        """Whether a figure reaches it; shares are compared as they are stated, in whole per cent."""
        value = round(value, 2) if self.unit == "%" else value
        return value >= self.wanted if self.sense == "at least" else value <= self.wanted

    def shown(self, value: float) -> str:
        """A figure as people read it."""
        match self.unit:
            case "%":
                return f"{value:.0%}"
            case "ms":
                return f"{1e3 * value:.3g} ms"
            case "s":
                return f"{value:.3g} s"
            case _:
                return f"{value:.3g}{f' {self.unit}' if self.unit else ''}"


GOALS = (
    Goal("encoder", "fp32", "encoder in fp32, clips per second over eager torch", 2.5, "at least", "×"),
    Goal("encoder", "int8", "encoder in int8, clips per second over eager torch", 4.0, "at least", "×"),
    Goal("encoder", "share", "encoder in fp32, of the machine's rate of matrix products", 0.78, "at least", "%"),
    Goal("overlap", "demo", "`detect` over the slower of decode and encode alone, demo", 1.10, "at most", "×"),
    Goal("overlap", "swin-t", "`detect` over the slower of decode and encode alone, Swin-T", 1.10, "at most", "×"),
    Goal("decode", "fastest", "frames per second of our reader over the fastest other", 0.95, "at least", "×"),
    Goal(
        "windows",
        "work",
        "clips of an hour that need not be encoded, of those of the official windows",
        0.25,
        "at least",
        "%",
    ),
    Goal("windows", "map", "average mAP lost by that on generated videos", 1.0, "at most", "points"),
    Goal("afsd", "swin-b-flow", "AFSD with the classifier's flow over Swin-B int8", 7.4, "at least", "×"),
    Goal("afsd", "swin-t-flow", "AFSD with the classifier's flow over Swin-T int8", 20.0, "at least", "×"),
    Goal("afsd", "swin-b-networks", "AFSD with the classifier's networks over Swin-B int8", 3.0, "at least", "×"),
    Goal("afsd", "swin-t-networks", "AFSD with the classifier's networks over Swin-T int8", 9.0, "at least", "×"),
    Goal("evaluation", "files", "`eval` of 500,000 predictions, files to mAP", 60.0, "at most", "s"),
    Goal("workers", "speed-up", "`label`, clips per second of two workers over one", 1.7, "at least", "×"),
    Goal("again", "second", "`label` of 200 videos and more a second time", 3.0, "at most", "s"),
    Goal("again", "threshold", "`label` of them with another threshold", 5.0, "at most", "s"),
    Goal("training", "kept", "kept for the backward pass at r = 0.15 over r = 1", 0.20, "at most", "×"),
    Goal("training", "step", "training step at r = 0.15 over r = 1", 0.35, "at most", "×"),
    Goal("query", "slowest", "`archive query` of a million actions, the slowest kind", 0.1, "at most", "ms"),
)
"""All that the benchmarks are held against, in the order of the table."""


def goal_line(goal: Goal, figure: Figure | None, reason: str = "") -> dict[str, Any]:
    """A goal and what came of it, as a line of JSON without its circumstances.

    Args:
        goal: What was wanted.
        figure: What was measured; None where nothing was.
        reason: Why nothing was.
    """
    return {
        "name": "goal",
        "part": goal.part,
        "key": goal.key,
        "what": goal.what,
        "wanted": goal.wanted,
        "sense": goal.sense,
        "unit": goal.unit,
        "measured": None if figure is None else float(f"{figure.value:.4g}"),
        "quartiles": None
        if figure is None or figure.quartiles is None
        else [float(f"{value:.4g}") for value in figure.quartiles],
        "met": None if figure is None else goal.is_met(figure.value),
        "note": reason if figure is None else figure.profile,
    }


def goal_rows(lines: Iterable[dict[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """For each line: what, goal, measured with its quartiles, whether it is met, and the note."""
    rows = []
    for line in lines:
        goal = Goal(*(line[name] for name in ("part", "key", "what", "wanted", "sense", "unit")))
        sign = "≥" if goal.sense == "at least" else "≤"
        measured, met = NOT_MEASURED, ""
        if line["measured"] is not None:
            measured, met = goal.shown(line["measured"]), "yes" if line["met"] else "**no**"
            if line["quartiles"] is not None:
                low, high = (goal.shown(value) for value in line["quartiles"])
                measured = f"{measured} ({low} to {high})"
        note = line["note"].replace("|", "/")
        rows.append((goal.what, f"{sign} {goal.shown(goal.wanted)}", measured, met, note))
    return rows


def goals_table(lines: Iterable[dict[str, Any]]) -> str:
    """The goals as a table of Markdown."""
    kept = list(lines)
    head = "| goal | wanted | measured | met | where the time goes, or why there is no figure |"
    rows = [f"| {' | '.join(row)} |" for row in goal_rows(kept)]
    first = kept[0]
    met = sum(line["met"] is True for line in kept)
    note = (
        f"{met} of {len(kept)} met; one run of {first['run_minutes']:.0f} minutes, {first['cpus']} cores, "
        f"{first['processor']}, commit {first['commit']}; medians, in brackets quartiles."
    )
    return "\n".join([head, "|---|---|---|---|---|", *rows, "", note])
