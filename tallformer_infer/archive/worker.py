"""A worker process: takes tasks through a pipe, and says through it how they go."""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection

from tallformer_infer.archive.tasks import Alive, Broken, LabelSettings, OnAlive, Outcome, Task
from tallformer_infer.errors import TallformerError

_TELL_EVERY_S = 0.1


def work(connection: Connection, settings: LabelSettings, slot: int) -> None:
    """Do tasks until the pipe is closed. Meant for a process of its own.

    The main thread works. Another one waits at the pipe, so that the process ends at once when the driver does,
    however that ended, and even in the midst of native code.

    Args:
        connection: To the driver.
        settings: How videos are labelled.
        slot: Number of the worker; those of several devices are shared out by it.
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
    """Does tasks with a model that is loaded when it is needed."""

    def __init__(self, settings: LabelSettings, slot: int) -> None:
        self._settings = settings
        self._slot = slot
        self._do: Callable[[Task, OnAlive], Outcome] | None = None

    def __call__(self, task: Task, on_alive: OnAlive) -> Outcome:
        """Do a task; where no task could be done, the outcome is `Broken`."""
        try:
            if self._do is None:
                from tallformer_infer.archive.labelling import Labeller  # noqa: PLC0415 (takes a second)

                self._do = Labeller(self._settings, slot=self._slot).do
            return self._do(task, on_alive)
        except Exception as error:
            return Broken(str(error) if isinstance(error, TallformerError) else f"{type(error).__name__}: {error}")


class _Teller:
    """Sends signs of life, not too many, and outcomes."""

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
