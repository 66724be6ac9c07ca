"""Ways of doing something, timed in turn (A B A B): a machine that is slow for a while is slow for all of them."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

K = TypeVar("K")
T = TypeVar("T")


@dataclass(frozen=True)
class Call:
    """How long one call took."""

    wall_s: float
    cpu_s: float
    """Processor time over all threads of the process, in seconds."""


@dataclass(frozen=True)
class Timing:
    """How long each of several calls took."""

    wall_s: tuple[float, ...]
    """Wall time per call, in seconds."""
    cpu_s: tuple[float, ...]
    """Processor time per call over all threads, in seconds; shows where others disturbed the wall time."""

    @staticmethod
    def of(calls: Iterable[Call]) -> Timing:
        """The timing of calls that were clocked one by one."""
        kept = list(calls)
        return Timing(tuple(call.wall_s for call in kept), tuple(call.cpu_s for call in kept))

    def times(self, factor: float) -> Timing:
        """What so many times the work would take."""
        return Timing(tuple(factor * one for one in self.wall_s), tuple(factor * one for one in self.cpu_s))

    @property
    def spread(self) -> Spread:
        """Wall time, in seconds."""
        return Spread.of(self.wall_s)


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of a measured quantity."""

    median: float
    low: float
    """A quarter of the values lie below."""
    high: float
    """A quarter of the values lie above."""

    @staticmethod
    def of(values: Iterable[float]) -> Spread:
        """Of at least one value."""
        low, median, high = np.percentile(list(values), [25, 50, 75])
        return Spread(float(median), float(low), float(high))


def clocked(work: Callable[[], object], *, synchronize: Callable[[], object] = lambda: None) -> Callable[[int], Call]:
    """For `take_turns`: a way that does `work` and tells how long it took.

    Args:
        work: What is measured; its inputs are made beforehand.
        synchronize: Waits for a device to finish; called before every look at the clock.
    """

    def run(_: int) -> Call:
        synchronize()
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        synchronize()
        return Call(time.perf_counter() - wall, time.process_time() - cpu)

    return run


def take_turns(
    ways: Mapping[K, Callable[[int], T]],
    *,
    rounds: int,
    warmups: int = 1,
    at_most_s: float = math.inf,
    on_round: Callable[[int], object] = lambda _: None,
) -> dict[K, list[T]]:
    """Run every way once, then every way again, and so on.

    Args:
        ways: What to run, told the number of the round, from 0.
        rounds: How often each is run; at least once.
        warmups: Rounds before that, which are not counted.
        at_most_s: No further round is begun after so many seconds; warm-ups do not count.
        on_round: Told the number of every round that counts before it begins.

    Returns:
        What each way gave, round by round: the same number for all.
    """
    given: dict[K, list[T]] = {name: [] for name in ways}
    for _ in range(warmups):
        for way in ways.values():
            way(0)
    started = time.perf_counter()
    for number in range(rounds):
        if number and time.perf_counter() - started >= at_most_s:
            break
        on_round(number)
        for name, way in ways.items():
            given[name].append(way(number))
    return given


def paired(one: Iterable[float], other: Iterable[float]) -> Spread:
    """`one` over `other`, round by round."""
    return Spread.of(first / second for first, second in zip(one, other, strict=True))
