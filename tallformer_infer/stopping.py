"""Being told to stop by Ctrl-C (SIGINT) or SIGTERM (docker and slurm send it), and work that either can leave at once.

Note [a stop can get lost]
    A signal becomes a `KeyboardInterrupt` wherever the main thread is. Code that is not ours may turn that into another
    error (onnxruntime, while it is imported, into an ImportError), or drop it. So the handler also remembers, and
    whoever meets an unexpected error, or begins another piece of work, asks here.
"""

from __future__ import annotations

import importlib
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import FrameType, ModuleType
from typing import TypeVar

T = TypeVar("T")

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_POLL_S = 0.2
_SAME_STOP_S = 1.0
"""Signals that follow this soon are the same stop: `timeout` and its like signal the program, and then its group."""


class StoppedError(Exception):
    """The run was stopped, and has said what it leaves behind."""


class _StopHandler:
    """Raises `KeyboardInterrupt`, and remembers."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._raised_s = 0.0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        now_s = time.monotonic()
        if self.first is not None and now_s - self._raised_s < _SAME_STOP_S:
            return
        self.first = self.first or number
        self._raised_s = now_s
        raise KeyboardInterrupt


def install_stop_handler() -> None:
    """Have both signals raise `KeyboardInterrupt` in the main thread, from which this must be called."""
    handler = _StopHandler()
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell has its background jobs ignore Ctrl-C
            signal.signal(number, handler)


def stop_signal() -> int | None:
    """The signal that told the program to stop, if one did since `install_stop_handler`."""
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if isinstance(handler, _StopHandler):
            return handler.first
    return None


def stop_code() -> int:
    """Exit code of a program that was stopped, as shells give it: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (stop_signal() or signal.SIGINT)


def raise_if_stopped() -> None:
    """Stop now where the program was told to, and it got lost.

    Raises:
        KeyboardInterrupt: It was.
    """
    if stop_signal() is not None:
        raise KeyboardInterrupt


def run_interruptibly(work: Callable[[], T]) -> T:
    """Do `work` in a thread of its own, and hand back what it returns or raises.

    Python tells the main thread about Ctrl-C only between two of its own steps. A call into native code, such as
    loading a model or running one large graph, can take many seconds; the main thread waits here instead, and hears
    at once. The thread is a daemon: what it was doing then ends with the program.

    Raises:
        KeyboardInterrupt: The program was told to stop, now or before.
    """
    raise_if_stopped()  # Note [a stop can get lost]
    outcome: Future[T] = Future()

    def run() -> None:
        try:
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, name="tallformer-work", daemon=True).start()
    while not outcome.done():
        wait([outcome], timeout=_POLL_S)  # with a timeout, as Windows hears Ctrl-C only between waits
    return outcome.result()


def import_interruptibly(name: str) -> ModuleType:
    """Import a module that takes time, so that `from … import …` has nothing left to do.

    Ctrl-C in the midst of the C code of such a module is a traceback of its own, or another error.

    Raises:
        ImportError: It cannot be imported.
        KeyboardInterrupt: The program was told to stop, now or before.
    """
    return run_interruptibly(lambda: importlib.import_module(name))
