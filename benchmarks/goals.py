"""The goals of the benchmarks, the parts that measure them, and how a figure is compared with its goal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from typing import Any, Literal

from benchmarks.measure import processor_of
from tallformer_infer.diagnosis.turns import Spread

NOT_MEASURED = "not measured"


@dataclass(frozen=True, kw_only=True)
class Figure:
    """What a benchmark measured for one goal."""

    value: float
    quartiles: tuple[float, float] | None = None
    """Of its rounds, if there were several."""
    profile: str = ""
    """Where the time goes, in one line."""

    @staticmethod
    def of(spread: Spread, profile: str = "") -> Figure:
        """The median of rounds."""
        return Figure(value=spread.median, quartiles=(spread.low, spread.high), profile=profile)


class NotMeasuredError(Exception):
    """A part cannot be measured on this machine; the message says why."""


@dataclass(frozen=True)
class Goal:
    """A target value for a figure."""

    part: str
    """Name of the part that measures it."""
    key: str
    """Name of its figure within the part."""
    what: str
    """Description."""
    wanted: float
    sense: Literal["at least", "at most"]
    unit: str = ""
    """`×`, `%` (for shares), `points`, `s` or `ms` (for seconds)."""

    def is_met(self, value: float) -> bool:
        """Whether a figure reaches it; shares are compared in whole per cent, as they are shown."""
        value = round(value, 2) if self.unit == "%" else value
        return value >= self.wanted if self.sense == "at least" else value <= self.wanted

    def shown(self, value: float) -> str:
        """A figure with its unit."""
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
    Goal(
        "encoder",
        "rivals",
        "encoder in fp32 over the fastest of torch, ONNX Runtime and OpenVINO",
        1.0,
        "at least",
        "×",
    ),
    Goal("encoder", "reduced", "encoder in bf16 or int8 over the fastest of these in fp32", 1.8, "at least", "×"),
    Goal("encoder", "share", "encoder in fp32, of the machine's rate of matrix products", 0.78, "at least", "%"),
    Goal("overlap", "demo", "`detect` over the slower of decode and encode alone, demo", 1.05, "at most", "×"),
    Goal("overlap", "kinetics400", "the same, kinetics400", 1.05, "at most", "×"),
    Goal("overlap", "swin-t", "the same, Swin-T", 1.10, "at most", "×"),
    Goal(
        "overlap",
        "demo-least",
        "`detect` over the least that its stages can take on these cores, demo",
        1.05,
        "at most",
        "×",
    ),
    Goal("overlap", "kinetics400-least", "the same, kinetics400", 1.05, "at most", "×"),
    Goal("overlap", "swin-t-least", "the same, Swin-T", 1.10, "at most", "×"),
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
"""All goals, in the order of the table."""


@dataclass(frozen=True)
class Part:
    """Goals that are measured together, in a process of their own."""

    name: str
    module: str
    """Imported by the process that runs it."""
    function: str
    """Takes the work folder; returns figures by goal key."""
    minutes: float
    """Duration on two cores, including the graphs and videos that it keeps for the next run."""

    @property
    def goals(self) -> list[Goal]:
        """The goals that it measures."""
        return [goal for goal in GOALS if goal.part == self.name]


PARTS = (
    Part("encoder", "benchmarks.bench_encoder", "goal", 3.6),
    Part("overlap", "benchmarks.bench_detect", "goal", 4.5),
    Part("decode", "benchmarks.bench_decode", "goal", 1.5),
    Part("windows", "benchmarks.bench_windows", "goal", 1.0),
    Part("evaluation", "benchmarks.bench_evaluation", "goal", 0.8),
    Part("workers", "benchmarks.bench_label", "goal", 1.8),
    Part("again", "benchmarks.bench_label", "goal_again", 1.0),
    Part("training", "benchmarks.bench_training", "goal", 2.0),
    Part("query", "benchmarks.bench_archive_query", "goal", 0.7),
    Part("afsd", "benchmarks.afsd.goal", "goal", 5.0),
)
"""In running order; the part that takes longest and prepares most comes last."""


def goal_line(goal: Goal, figure: Figure | None, reason: str = "") -> dict[str, Any]:
    """A goal and its figure, as a result line without its circumstances.

    Args:
        goal: What is wanted.
        figure: What was measured; None if nothing was.
        reason: Why nothing was measured.
    """
    return {
        "name": "goal",
        **asdict(goal),
        "measured": None if figure is None else _rounded(figure.value),
        "quartiles": None if figure is None or figure.quartiles is None else [*map(_rounded, figure.quartiles)],
        "met": None if figure is None else goal.is_met(figure.value),
        "note": reason if figure is None else figure.profile,
    }


def _rounded(value: float) -> float:
    return float(f"{value:.4g}")


def goal_rows(lines: Iterable[dict[str, Any]]) -> list[tuple[str, str, str, str, str]]:
    """For each line: goal, wanted, measured with quartiles, whether it is met, and the note."""
    rows = []
    for line in lines:
        goal = Goal(**{field.name: line[field.name] for field in fields(Goal)})
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


def merged_lines(kept: Iterable[dict[str, Any]], new: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Result lines by processor, in the order of the goals; a figure of `new` replaces that of the same processor."""
    places = {(goal.part, goal.key): place for place, goal in enumerate(GOALS)}
    by_goal: dict[tuple[str, str, str], dict[str, Any]] = {}
    for line in (*kept, *new):
        name = (processor_of(line), line["part"], line["key"])
        if line["measured"] is not None or name not in by_goal:
            by_goal[name] = line
    known = (line for line in by_goal.values() if (line["part"], line["key"]) in places)
    return sorted(known, key=lambda line: (processor_of(line), places[line["part"], line["key"]]))


def goals_tables(lines: Iterable[dict[str, Any]]) -> str:
    """A Markdown table of the goals for each processor."""
    ordered = merged_lines(lines, [])
    return "\n\n".join(goals_table(group) for _, group in groupby(ordered, key=processor_of))


def goals_table(lines: Iterable[dict[str, Any]]) -> str:
    """The goals as a Markdown table, for one processor."""
    kept = list(lines)
    head = "| goal | wanted | measured | met | where the time goes, or why there is no figure |"
    rows = [f"| {' | '.join(row)} |" for row in goal_rows(kept)]
    first = kept[0]
    met = sum(line["met"] is True for line in kept)
    minutes = {line["commit"]: line["run_minutes"] for line in kept}
    runs = [f"one run of {run:.0f} minutes (commit {commit})" for commit, run in minutes.items()]
    note = (
        f"{met} of {len(kept)} met; {' and '.join(runs)}, {first['cpus']} cores, {processor_of(first)}; "
        "medians, in brackets quartiles."
    )
    return "\n".join([head, "|---|---|---|---|---|", *rows, "", note])
