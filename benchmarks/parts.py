"""The parts of `python -m benchmarks` that measure the goals, each in its own process."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks.goals import GOALS, Figure, Goal, NotMeasuredError, goal_line


@dataclass(frozen=True)
class Part:
    """Something that is measured at once."""

    name: str
    module: str
    """Imported when it runs."""
    function: str
    """Given the folder to work in, it returns figures by the keys of the part's goals."""
    minutes: float
    """What it takes on two cores, the graphs and videos that it keeps for the next time included."""

    @property
    def goals(self) -> list[Goal]:
        """What it measures."""
        return [goal for goal in GOALS if goal.part == self.name]


PARTS = (
    Part("encoder", "benchmarks.bench_encoder", "goal", 3.0),
    Part("overlap", "benchmarks.bench_detect", "goal", 4.5),
    Part("decode", "benchmarks.parts", "decode_goal", 1.5),
    Part("windows", "benchmarks.bench_windows", "goal", 1.0),
    Part("evaluation", "benchmarks.bench_evaluation", "goal", 0.8),
    Part("workers", "benchmarks.bench_label", "goal", 1.8),
    Part("again", "benchmarks.bench_label", "goal_again", 1.0),
    Part("training", "benchmarks.bench_training", "goal", 2.0),
    Part("query", "benchmarks.bench_archive_query", "goal", 0.7),
    Part("afsd", "benchmarks.afsd.goal", "goal", 5.0),
)
"""In the order in which they run: the longest, and the one with the most to make beforehand, at the end."""


def part_named(name: str) -> Part:
    """The part of that name."""
    return next(part for part in PARTS if part.name == name)


def decode_goal(work: Path) -> dict[str, Figure]:
    """Our reader beside others: `benchmarks.bench_decode`.

    Raises:
        NotMeasuredError: It is not there, or there is nothing to compare with.
    """
    from benchmarks.bench_detect import video_in  # noqa: PLC0415

    try:
        bench = importlib.import_module("benchmarks.bench_decode")
    except ModuleNotFoundError as error:
        raise NotMeasuredError(f"{error.name} is not there") from error
    found = bench.goal(video=video_in(work))
    if found["ratio"] is None:
        raise NotMeasuredError(found["note"])
    low, high = found["quartiles"]
    return {"fastest": Figure(value=found["ratio"], quartiles=(low, high), profile=found["note"])}


def main() -> None:
    """Measure one part, and write its lines; what it prints meanwhile goes to stderr."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.parts", description=main.__doc__)
    parser.add_argument("part", choices=[part.name for part in PARTS])
    parser.add_argument("--work", type=Path, required=True, help="folder to work in; graphs and videos are kept there")
    parser.add_argument("--out", type=Path, required=True, help="file of JSON lines")
    options = parser.parse_args()
    part = part_named(options.part)
    options.work.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        lines = measure_part(part, options.work)
    options.out.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def measure_part(part: Part, work: Path) -> list[dict[str, object]]:
    """A line for each goal of a part; one that cannot be measured here says why."""
    measure: Callable[[Path], dict[str, Figure]] = getattr(importlib.import_module(part.module), part.function)
    try:
        figures = measure(work)
    except NotMeasuredError as error:
        return [goal_line(goal, None, str(error)) for goal in part.goals]
    return [goal_line(goal, figures[goal.key]) for goal in part.goals]


if __name__ == "__main__":
    main()
