"""A fleet of machines that labels an archive and fails now and then: a discrete-event simulation.

It has the grain of `tallformer label` with Ray. A worker takes one video at a time. When its machine goes away, the
clips that are stored stay stored, the clip in work is lost, and whoever takes the video next decodes it again up to
there (decision 38). Such a loss uses up no attempt; a crash of the video's own does, and after `max_attempts` the video
is set aside. When the machine of the driver goes away everything stops, and begins again with what is stored.
"""

from __future__ import annotations

import heapq
from collections import deque
from dataclasses import asdict, dataclass

import numpy as np

DRIVER = -1


@dataclass(frozen=True, kw_only=True)
class Fleet:
    """Machines, and how often they fail."""

    nodes: int
    workers_per_node: int
    node_mtbf_s: float | None
    """Mean time between failures of one machine; None for never."""
    driver_mtbf_s: float | None
    """The same of the machine that has the database."""
    restart_s: float
    """From a failure until the machine, or a new one, takes work."""


@dataclass(frozen=True, kw_only=True)
class Work:
    """What a video costs one worker."""

    clip_s: float
    """Media time of a clip."""
    decode_s: float
    """Worker time to decode a clip's frames."""
    encode_s: float
    """Worker time for all else that a clip needs."""
    crash_share: float
    """Part of the videos that crash their worker at every attempt, somewhere."""
    max_attempts: int = 3
    resumes: bool = True
    """Whether stored clips are used again; False is what a program without a feature store does."""


@dataclass
class Tally:
    """What came of it; times in worker seconds unless they say otherwise."""

    wall_s: float = 0.0
    useful_s: float = 0.0
    """Decoding and encoding each clip of each finished video once."""
    decoded_again_s: float = 0.0
    lost_s: float = 0.0
    """Of clips that were begun and not stored, and, without a store, of those that were."""
    crashed_s: float = 0.0
    """On videos that were set aside in the end."""
    down_s: float = 0.0
    """Workers whose machine was away, or the driver's."""
    idle_s: float = 0.0
    """Workers that found nothing left to take."""
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
    """Clip at which it takes its worker along."""


def simulate(
    lengths_s: np.ndarray, fleet: Fleet, work: Work, *, seed: int = 0, at_most_s: float = float("inf")
) -> Tally:
    """Run until every video is finished or set aside, or the time is up.

    Args:
        lengths_s: Media time of each video, in the order they are taken.
        fleet: Machines.
        work: What videos cost.
        seed: Of failures and crashes.
        at_most_s: When to give up.
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
        for worker in list(self._busy):  # where the time is up
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
        """A worker came to the end of its video, or to where it crashes."""
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
        """Share out the time of an attempt after which `clips` are done."""
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
        """End what a node does, and have its workers take new videos when it is back."""
        self._generation[node] += 1
        self._idle.difference_update(self._workers(node))
        back_s = now_s + self._fleet.restart_s
        self._tally.down_s += self._fleet.workers_per_node * (back_s - max(now_s, self._back_s[node]))
        self._back_s[node] = back_s
        for worker in self._workers(node):
            self._interrupt(worker, now_s)
            heapq.heappush(self._events, (back_s, worker, node, self._generation[node]))


def as_line(tally: Tally, fleet: Fleet, work: Work) -> dict[str, object]:
    """Everything of a simulation for a JSON line, times rounded to seconds."""
    rounded = {name: round(value) if isinstance(value, float) else value for name, value in asdict(tally).items()}
    return {"fleet": asdict(fleet), "work": asdict(work), **rounded}
