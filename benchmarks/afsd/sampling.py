"""Tasks timed in turn, round by round, so that other load affects all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from benchmarks.measure import say_round, take_turns


@dataclass
class Task:
    """A task that is timed repeatedly."""

    name: str
    run: Callable[[int], list[float]]
    """Runs the task once; takes the number of the round, returns seconds of wall time per unit."""
    centre: Literal["mean", "median"] = "median"
    """Statistic to multiply: the mean if units differ, the median if only the machine's load does."""
    samples_s: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Mean number of busy processors in each round; below the number of threads under other load."""


def timed(work: Callable[[], object], units: float = 1) -> Callable[[int], list[float]]:
    """For `Task.run`: work of `units` units."""

    def run(_: int) -> list[float]:
        started = time.perf_counter()
        work()
        return [(time.perf_counter() - started) / units]

    return run


def sample(tasks: Sequence[Task], rounds: int) -> None:
    """Run all tasks once as warm-up, then `rounds` times."""
    given = take_turns(
        {task.name: partial(_run, task) for task in tasks},
        rounds=rounds,
        on_round=partial(say_round, "measuring", rounds),
    )
    for task in tasks:
        task.samples_s += [each for seconds, _ in given[task.name] for each in seconds]
        task.busy += [busy for _, busy in given[task.name]]


def _run(task: Task, number: int) -> tuple[list[float], float]:
    """Seconds per unit, and number of busy processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    seconds = task.run(number)
    return seconds, (time.process_time() - cpu) / (time.perf_counter() - wall)
