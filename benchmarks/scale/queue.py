"""Discrete-event simulation of a fleet of machines that labels an archive, with failures.

It models `tallformer label` with Ray. A worker takes one video at a time. If its machine fails, stored clips are kept,
the current clip is lost, and the next worker of the video decodes it again up to there (decision 38). Such a failure
does not count as an attempt; a crash caused by the video does, and after `max_attempts` the video is given up. If the
machine of the driver fails, everything stops and restarts with the stored clips.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import asdict, dataclass

import numpy as np

DRIVER = -1


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Machines and their failure rates."""

    nodes: int
    workers_per_node: int
    node_mtbf_s: float | None
    """Mean time between failures of one machine; None for never."""
    driver_mtbf_s: float | None
    """Mean time between failures of the driver's machine; None for never."""
    restart_s: float
    """Time from a failure until the machine, or a new one, takes work."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """Worker time for a video."""

    clip_s: float
    """Media time of a clip."""
    decode_s: float
    """Worker time to decode a clip's frames."""
    encode_s: float
    """Worker time for the rest of a clip."""
    crash_share: float
    """Share of videos that crash their worker at every attempt."""
    max_attempts: int = 3
    resumes: bool = True
    """Whether stored clips are reused; False models a program without a feature store."""


@dataclass
class Tally:
    """Results; times in worker seconds unless stated otherwise."""

    wall_s: float = 0.0
    useful_s: float = 0.0
    """Decoding and encoding each clip of each finished video once."""
    decoded_again_s: float = 0.0
    lost_s: float = 0.0
    """Lost work on unfinished clips and, without a store, on finished ones."""
    crashed_s: float = 0.0
    """Work on videos that were given up."""
    down_s: float = 0.0
    """Time of workers whose machine, or the driver's, was down."""
    idle_s: float = 0.0
    """Time of workers without remaining videos."""
    node_failures: int = 0
    driver_failures: int = 0
    finished: int = 0
    set_aside: int = 0
    unfinished: int = 0
    """When the time was up."""


@dataclass
class _Video:
    clips: int
    done: int = 0
    attempts: int = 0
    crash_at: int | None = None
    """Clip at which it crashes its worker."""


def simulate(
    lengths_s: np.ndarray, fleet: Fleet, work: Work, *, seed: int = 0, at_most_s: float = float("inf")
) -> Tally:
    """Run until every video is finished or given up, or the time limit is reached.

    Args:
        lengths_s: Media time of each video, in the order they are taken.
        fleet: Machines.
        work: What videos cost.
        seed: Seed of failures and crashes.
        at_most_s: Time limit.
    """
    return _Run(lengths_s, fleet, work, np.random.default_rng(seed)).run(at_most_s)


class _Run:
    def __init__(self, lengths_s: np.ndarray, fleet: Fleet, work: Work, random: np.random.Generator) -> None:
        self._fleet, self._work, self._random = fleet, work, random
        clips = np.maximum(np.ceil(lengths_s / work.clip_s), 1).astype(int)
        self._queue = deque(_Video(int(count)) for count in clips)
        for index in np.flatnonzero(random.random(len(clips)) < work.crash_share):
            self._queue[index].crash_at = int(random.integers(clips[index]))
        self._open = len(self._queue)
        self._events: list[tuple[float, int, int, int]] = []
        """Time, worker (or none), node, and the generation of the node in which it was planned."""
        self._generation = [0] * fleet.nodes
        self._back_s = [0.0] * fleet.nodes
        self._busy: dict[int, tuple[_Video, float]] = {}
        self._idle: set[int] = set()
        self._tally = Tally()

    def run(self, at_most_s: float) -> Tally:
        for node in range(self._fleet.nodes):
            self._plan_failure(node, 0.0)
            self._take_all(node, 0.0)
        self._plan_failure(DRIVER, 0.0)
        time_s = 0.0
        while self._open and time_s < at_most_s:
            time_s, worker, node, generation = heapq.heappop(self._events)
            if worker == DRIVER:
                self._fail(node, time_s) if node != DRIVER else self._fail_driver(time_s)
            elif generation == self._generation[node]:
                if worker in self._busy:
                    self._end(worker, time_s)
                self._take(worker, time_s)
        for worker in list(self._busy):  # at the time limit
            self._interrupt(worker, time_s)
        self._tally.wall_s, self._tally.unfinished = time_s, self._open
        workers = self._fleet.nodes * self._fleet.workers_per_node
        known = self._tally
        spent = known.useful_s + known.decoded_again_s + known.lost_s + known.crashed_s
        known.idle_s = workers * time_s - spent - known.down_s
        return known

    def _plan_failure(self, node: int, now_s: float) -> None:
        mtbf_s = self._fleet.driver_mtbf_s if node == DRIVER else self._fleet.node_mtbf_s
        if mtbf_s is not None:
            heapq.heappush(self._events, (now_s + float(self._random.exponential(mtbf_s)), DRIVER, node, 0))

    def _workers(self, node: int) -> range:
        return range(node * self._fleet.workers_per_node, (node + 1) * self._fleet.workers_per_node)

    def _take_all(self, node: int, now_s: float) -> None:
        for worker in self._workers(node):
            self._take(worker, now_s)

    def _take(self, worker: int, now_s: float) -> None:
        node = worker // self._fleet.workers_per_node
        if not self._queue:
            self._idle.add(worker)
            return
        video = self._queue.popleft()
        self._busy[worker] = video, now_s
        heapq.heappush(self._events, (now_s + self._seconds(video), worker, node, self._generation[node]))

    def _seconds(self, video: _Video) -> float:
        until = video.clips if video.crash_at is None else video.crash_at + 1
        return until * self._work.decode_s + (until - video.done) * self._work.encode_s

    def _end(self, worker: int, now_s: float) -> None:
        """A worker reaches the end of its video, or its crash."""
        video, began_s = self._busy.pop(worker)
        if video.crash_at is None:
            self._account(video, now_s - began_s, clips=video.clips)
            self._tally.finished += 1
            self._open -= 1
            return
        self._tally.crashed_s += now_s - began_s
        video.attempts += 1
        video.done = max(video.done, video.crash_at if self._work.resumes else 0)
        if video.attempts < self._work.max_attempts:
            self._put_back(video, now_s)
        else:
            self._tally.set_aside += 1
            self._open -= 1

    def _account(self, video: _Video, spent_s: float, *, clips: int) -> None:
        """Account for the time of an attempt after which `clips` are done."""
        new = clips - video.done
        useful_s = new * (self._work.decode_s + self._work.encode_s)
        again_s = min(video.done * self._work.decode_s, max(spent_s - useful_s, 0.0))
        self._tally.useful_s += useful_s
        self._tally.decoded_again_s += again_s
        self._tally.lost_s += max(spent_s - useful_s - again_s, 0.0)
        video.done = clips

    def _interrupt(self, worker: int, now_s: float) -> None:
        if worker not in self._busy:
            return
        video, began_s = self._busy.pop(worker)
        spent_s = now_s - began_s
        if video.crash_at is not None:
            self._tally.crashed_s += spent_s
        elif self._work.resumes:
            beyond_s = spent_s - video.done * self._work.decode_s
            clips = video.done + max(int(beyond_s / (self._work.decode_s + self._work.encode_s)), 0)
            self._account(video, spent_s, clips=min(clips, video.clips))
        else:
            self._tally.lost_s += spent_s
        self._put_back(video, now_s)

    def _put_back(self, video: _Video, now_s: float) -> None:
        self._queue.append(video)
        if self._idle:
            self._take(self._idle.pop(), now_s)

    def _fail(self, node: int, now_s: float) -> None:
        self._tally.node_failures += 1
        self._stop(node, now_s)
        self._plan_failure(node, now_s + self._fleet.restart_s)

    def _fail_driver(self, now_s: float) -> None:
        self._tally.driver_failures += 1
        for node in range(self._fleet.nodes):
            self._stop(node, now_s)
        self._plan_failure(DRIVER, now_s + self._fleet.restart_s)

    def _stop(self, node: int, now_s: float) -> None:
        """Stop a node; its workers take new videos when it is back."""
        self._generation[node] += 1
        self._idle.difference_update(self._workers(node))
        back_s = now_s + self._fleet.restart_s
        self._tally.down_s += self._fleet.workers_per_node * (back_s - max(now_s, self._back_s[node]))
        self._back_s[node] = back_s
        for worker in self._workers(node):
            self._interrupt(worker, now_s)
            heapq.heappush(self._events, (back_s, worker, node, self._generation[node]))


def as_line(tally: Tally, fleet: Fleet, work: Work) -> dict[str, object]:
    """A simulation as a result line, with times rounded to seconds."""
    rounded = {name: round(value) if isinstance(value, float) else value for name, value in asdict(tally).items()}
    return {"fleet": asdict(fleet), "work": asdict(work), **rounded}
