"""Tasks that are timed in turn, round by round, so that a machine that is slow for a while is slow for all of them."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from benchmarks.measure import say_round, take_turns


@dataclass
class Task:
    """Something that is timed again and again."""

    name: str
    run: Callable[[int], list[float]]
    """Does it once, told the number of the round, and says how many seconds of wall time each of its units took."""
    centre: Literal["mean", "median"] = "median"
    """What is multiplied up: the mean where units differ, the median where only the machine does."""
    samples_s: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Processors in use on average, of each round: below the number of threads where others disturbed."""


def timed(work: Callable[[], object], units: float = 1) -> Callable[[int], list[float]]:
    """For `Task.run`: work that makes so many units."""

    def run(_: int) -> list[float]:
        started = time.perf_counter()
        work()
        return [(time.perf_counter() - started) / units]

    return run


def sample(tasks: Sequence[Task], rounds: int) -> None:
    """Run all tasks once without counting, then `rounds` times."""
    given = take_turns(
        {task.name: partial(_run, task) for task in tasks},
        rounds=rounds,
        on_round=partial(say_round, "measuring", rounds),
    )
    for task in tasks:
        task.samples_s += [each for seconds, _ in given[task.name] for each in seconds]
        task.busy += [busy for _, busy in given[task.name]]


def _run(task: Task, number: int) -> tuple[list[float], float]:
    """Seconds per unit, and processors in use."""
    wall, cpu = time.perf_counter(), time.process_time()
    seconds = task.run(number)
    return seconds, (time.process_time() - cpu) / (time.perf_counter() - wall)
