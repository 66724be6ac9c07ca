"""Worker processes on this machine, each with at most one task; a process that dies or hangs is replaced.

Note [how long is too long]
    A worker sends a heartbeat at every clip, and while it reads. It is killed after a silence of `timeout_factor` times
    the longest silence of a successful video, or `LEAST_S` if that is longer: what is normal depends on the model, the
    device and the disk, and is measured. Loading the model may take longer.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import Protocol

from tallformer_infer.archive.tasks import Alive, Broken, Event, Failed, LabelSettings, OnAlive, Outcome, Task
from tallformer_infer.bundle import Bundle, read_member
from tallformer_infer.devices import available_cores
from tallformer_infer.errors import BundleError, TallformerError

_TELL_EVERY_S = 0.1


def work(connection: Connection, settings: LabelSettings, slot: int) -> None:
    """Do tasks until the pipe is closed; the entry point of a worker process.

    The main thread works. Another one waits at the pipe, so that the process ends immediately when the driver ends for
    any reason, even while native code runs.

    Args:
        connection: Connection to the driver.
        settings: Settings for labelling.
        slot: Number of the worker, which selects its device if there are several.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the driver, which ends its workers
    tasks: queue.Queue[Task] = queue.Queue()
    threading.Thread(target=_receive, args=(connection, tasks), daemon=True).start()
    do = Doer(settings, slot)
    tell = _Teller(connection)
    while True:
        task = tasks.get()
        tell(Alive(what="starting"))
        tell.outcome(do(task, tell))


class Doer:
    """Does tasks with a model that is loaded on first use."""

    def __init__(self, settings: LabelSettings, slot: int) -> None:
        self._settings = settings
        self._slot = slot
        self._do: Callable[[Task, OnAlive], Outcome] | None = None

    def __call__(self, task: Task, on_alive: OnAlive) -> Outcome:
        """Do a task; if the model or device does not work, the outcome is `Broken`."""
        try:
            if self._do is None:
                from tallformer_infer.archive.labelling import Labeller  # noqa: PLC0415 (takes a second)

                self._do = Labeller(self._settings, slot=self._slot).do
            return self._do(task, on_alive)
        except Exception as error:
            return Broken(str(error) if isinstance(error, TallformerError) else f"{type(error).__name__}: {error}")


class _Teller:
    """Sends heartbeats, at a limited rate, and outcomes."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._next_s = 0.0

    def __call__(self, alive: Alive) -> None:
        now_s = time.monotonic()
        if now_s >= self._next_s or alive.what:
            self._next_s = now_s + _TELL_EVERY_S
            self._connection.send(alive)

    def outcome(self, outcome: Outcome) -> None:
        self._next_s = 0.0
        self._connection.send(outcome)


def _receive(connection: Connection, tasks: queue.Queue[Task]) -> None:
    try:
        while True:
            tasks.put(connection.recv())
    except (EOFError, OSError):
        os._exit(0)


LEAST_S = 2.0
LOADING_S = 300.0
"""Time to start a process and load a model, in seconds; multiplied by the timeout factor if that is below 1."""
_END_S = 5.0
_LOOK_EVERY_S = 0.5


class Engine(Protocol):
    """Slots that each do one task at a time, in parallel."""

    @property
    def slots(self) -> int:
        """Number of slots."""

    def free(self) -> Sequence[int]:
        """Numbers of idle slots."""

    def give(self, slot: int, task: Task) -> None:
        """Start a task in an idle slot."""

    def next_event(self, timeout_s: float) -> tuple[int, Event] | None:
        """The next event of any slot, in order per slot; None on timeout. An outcome frees the slot."""

    def place(self, slot: int) -> str:
        """Location of a slot, for display: its process or machine."""

    def close(self) -> None:
        """Stop all slots immediately."""


class ProcessEngine:
    """Worker processes, each started with its first task."""

    def __init__(self, settings: LabelSettings, *, count: int, timeout_factor: float) -> None:
        """Create an engine; no process is started yet.

        Args:
            settings: Settings for all workers.
            count: Maximum number of processes.
            timeout_factor: See Note [how long is too long].
        """
        self._settings = settings
        self._factor = timeout_factor
        self._workers: list[_Worker | None] = [None] * count
        self._events: queue.Queue[tuple[_Worker, Event | None]] = queue.Queue()
        self._longest_s = LEAST_S
        self._looked_s = time.monotonic()

    @property
    def slots(self) -> int:
        """Maximum number of processes."""
        return len(self._workers)

    def free(self) -> Sequence[int]:
        """Numbers of idle slots."""
        return [slot for slot, worker in enumerate(self._workers) if worker is None or worker.task is None]

    def give(self, slot: int, task: Task) -> None:
        """Start a task, and its process if there is none."""
        worker = self._workers[slot]
        if worker is None:
            worker = self._workers[slot] = _Worker(slot, self._settings, self._events)
        worker.begin(task)

    def next_event(self, timeout_s: float) -> tuple[int, Event] | None:
        """The next event of a worker, or the end of one."""
        until_s = time.monotonic() + timeout_s
        while (left_s := until_s - time.monotonic()) > 0:
            if (hung := self._give_up_hung()) is not None:
                return hung
            try:
                worker, event = self._events.get(timeout=min(left_s, 0.1))
            except queue.Empty:
                continue
            if self._workers[worker.slot] is not worker:
                continue  # from a worker that was already killed
            if event is None:
                self._workers[worker.slot] = None
                if worker.task is not None:
                    return worker.slot, worker.failure()
                continue
            silence_s = worker.hear(event)
            if not isinstance(event, Alive) and not worker.was_loading:
                self._longest_s = max(self._longest_s, silence_s)
            return worker.slot, event
        return None

    def place(self, slot: int) -> str:
        """Process id of the slot."""
        worker = self._workers[slot]
        return str(worker.pid) if worker is not None else ""

    def drop(self, slot: int) -> None:
        """Kill the process of a slot whose task is no longer wanted."""
        worker = self._workers[slot]
        if worker is not None:
            worker.kill()
            self._workers[slot] = None

    def close(self) -> None:
        """Kill all workers; stored files are consistent at any time."""
        for worker in self._workers:
            if worker is not None:
                worker.kill()
        self._workers = [None] * len(self._workers)

    def _give_up_hung(self) -> tuple[int, Failed] | None:
        now_s = time.monotonic()
        stood_s = now_s - self._looked_s
        if stood_s < _LOOK_EVERY_S:
            return None
        self._looked_s = now_s
        if stood_s > LEAST_S:  # the driver was suspended or busy
            for worker in self._workers:
                if worker is not None:
                    worker.forgive(stood_s)
            return None
        for slot, worker in enumerate(self._workers):
            if worker is None or worker.task is None:
                continue
            limit_s = LOADING_S * min(self._factor, 1.0) if worker.is_loading else self._factor * self._longest_s
            if worker.silent_s > limit_s:
                worker.kill()
                self._workers[slot] = None
                return slot, Failed("hang", f"hangs: no heartbeat for {worker.silent_s:.0f} s")
        return None


class _Worker:
    """One process, the thread that reads its events, and its task."""

    def __init__(self, slot: int, settings: LabelSettings, events: queue.Queue[tuple[_Worker, Event | None]]) -> None:
        self.slot = slot
        self.task: Task | None = None
        self.is_loading = True
        self.was_loading = True
        self._longest_s = 0.0
        self._heard_s = time.monotonic()
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process: SpawnProcess = context.Process(
            target=work, args=(theirs, settings, slot), name=f"tallformer-worker-{slot}", daemon=True
        )
        with signals_held_back():
            self._process.start()
        theirs.close()
        threading.Thread(target=_hear, args=(self._connection, self, events), daemon=True).start()

    @property
    def pid(self) -> int | None:
        return self._process.pid

    @property
    def silent_s(self) -> float:
        return time.monotonic() - self._heard_s

    def forgive(self, seconds: float) -> None:
        """Reset the hang timer after the driver was busy."""
        self._heard_s = min(self._heard_s + seconds, time.monotonic())

    def begin(self, task: Task) -> None:
        self.task = task
        self._heard_s = time.monotonic()
        self._longest_s = 0.0
        self.was_loading = self.is_loading
        with contextlib.suppress(OSError):  # if it is gone, the reading thread reports it
            self._connection.send(task)

    def hear(self, event: Event) -> float:
        """Record an event, and return the longest silence of the task so far, in seconds."""
        now_s = time.monotonic()
        self._longest_s = max(self._longest_s, now_s - self._heard_s)
        self._heard_s = now_s
        if isinstance(event, Alive):
            self.is_loading = event.what in ("starting", "loading") and (self.is_loading or event.what == "loading")
            self.was_loading = self.was_loading or self.is_loading
        else:
            self.is_loading = False
            self.task = None
        return self._longest_s

    def failure(self) -> Failed:
        """The outcome of a process that died."""
        self._process.join(_END_S)
        code = self._process.exitcode
        if code is not None and code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else f"signal {-code}"
            if -code == getattr(signal, "SIGKILL", None):
                return Failed("killed", f"the worker was killed ({name}), as systems do when memory runs out")
            return Failed("crash", f"the worker crashed ({name})")
        return Failed("crash", f"the worker ended (exit code {code})")

    def kill(self) -> None:
        self._process.kill()
        self._process.join(_END_S)
        self._connection.close()


def _hear(connection: Connection, worker: _Worker, events: queue.Queue[tuple[_Worker, Event | None]]) -> None:
    """Forward a worker's events; None when it ends."""
    with contextlib.suppress(Exception):  # for a truncated message, pickle may raise anything
        while True:
            events.put((worker, connection.recv()))
    events.put((worker, None))


@contextlib.contextmanager
def signals_held_back() -> Iterator[None]:
    """Block SIGINT while a process is started, which inherits that until it ignores the signal itself."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


WORKER_BYTES = 300 << 20
"""Memory of Python, libraries, a 1080p decoder and queued clips; measured 140 MB with the demo model at 720p."""
GRAPH_FACTOR = 3
"""Peak memory while loading a graph, as a multiple of its file: file, weights and CPU layouts exist at once."""
PART_OF_FREE_MEMORY = 0.8
_SHARED_COST = 1.15
"""CPU time of a video with several threads, relative to one thread; see Note [one clip per thread]."""


def choose_workers(bundle: Bundle, *, videos: int, memory_bytes: int | None, workers: int | None) -> int:
    """Number of workers: one per core, or fewer if there are few videos or little memory.

    Args:
        bundle: The model, which each worker loads.
        videos: Number of videos given, including finished ones.
        memory_bytes: Maximum memory of all workers together; None uses most of the free memory.
        workers: Number requested by the user; None chooses automatically.

    Raises:
        BundleError: A graph is missing.
    """
    if workers is not None:
        return workers
    budget = memory_bytes if memory_bytes is not None else _free_memory_bytes()
    by_memory = max(budget // _worker_bytes(bundle), 1) if budget is not None else available_cores()
    return share_videos(available_cores(), videos=videos, most=by_memory)


def share_videos(cores: int, *, videos: int, most: int) -> int:
    """Number of workers, at most `most`: one per core, or the number that finishes first.

    For eight videos on twelve cores, one round of eight workers leaves four cores idle; two rounds of four workers with
    three threads each are faster.
    """

    def rounds(workers: int) -> float:
        threads = cores // workers
        return -(-videos // workers) / threads * (_SHARED_COST if threads > 1 else 1.0)

    most = max(min(cores, videos, most), 1)
    return most if most == cores else min(range(most, 0, -1), key=rounds)


def choose_threads(workers: int, threads: int | None) -> int | None:
    """Threads per worker: cores ÷ workers."""
    if threads is not None:
        return threads
    return None if workers == 1 else max(available_cores() // workers, 1)


def _worker_bytes(bundle: Bundle) -> int:
    graphs = 0
    for graph in bundle.graphs.values():
        path = bundle.path / graph.file
        graphs += path.stat().st_size if path.is_file() else len(_read(bundle, graph.file))
    return WORKER_BYTES + GRAPH_FACTOR * graphs


def _read(bundle: Bundle, name: str) -> bytes:
    try:
        return read_member(bundle.path, name)
    except BundleError:
        return b""  # loading the graph raises the error


def _free_memory_bytes() -> int | None:
    """Available memory within a container's limit, in bytes; None if unknown."""
    known = []
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        (available,) = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
        known.append(int(available) << 10)
    with contextlib.suppress(OSError, ValueError):
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        known.append(limit - int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii")))
    return int(PART_OF_FREE_MEMORY * min(known)) if known else None
