"""Stop at once on Ctrl-C (SIGINT) or SIGTERM (sent by docker and slurm), even during long calls of native code.

Note [a stop can get lost]
    A signal becomes a `KeyboardInterrupt` wherever the main thread is. Third-party code may turn that into another
    error (onnxruntime, while it is imported, into an ImportError), or drop it. So the handler also remembers the
    signal, and code that catches an unexpected error, or starts another piece of work, asks here.
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
"""Signals this close together are one stop: `timeout` and similar tools signal the program, and then its group."""


class _StopHandler:
    """Raises `KeyboardInterrupt`, and remembers the first signal."""

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
    """Make both signals raise `KeyboardInterrupt` in the main thread; call from the main thread."""
    handler = _StopHandler()
    for number in _SIGNALS:
        if signal.getsignal(number) != signal.SIG_IGN:  # a shell has its background jobs ignore Ctrl-C
            signal.signal(number, handler)


def stop_signal() -> int | None:
    """The signal that stopped the program, if one came since `install_stop_handler`."""
    for number in _SIGNALS:
        handler = signal.getsignal(number)
        if isinstance(handler, _StopHandler):
            return handler.first
    return None


def stop_code() -> int:
    """Exit code of a stopped program, as in shells: 130 after Ctrl-C, 143 after SIGTERM."""
    return 128 + (stop_signal() or signal.SIGINT)


def raise_if_stopped() -> None:
    """Raise a stop that got lost.

    Raises:
        KeyboardInterrupt: It was.
    """
    if stop_signal() is not None:
        raise KeyboardInterrupt


def run_interruptibly(work: Callable[[], T]) -> T:
    """Run `work` in a thread, and return or raise what it does, but react to a stop at once.

    Python delivers Ctrl-C to the main thread only between two bytecodes. A call into native code, such as loading a
    model or running a large graph, can take many seconds; the main thread waits here instead, and is interrupted at
    once. The thread is a daemon: its work ends with the program.

    Raises:
        KeyboardInterrupt: The program was stopped, now or before.
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
    """Import a slow module, so that a later `from … import …` is instant.

    Ctrl-C during the native initialisation of such a module would print a traceback or become another error.

    Raises:
        ImportError: It cannot be imported.
        KeyboardInterrupt: The program was stopped, now or before.
    """
    return run_interruptibly(lambda: importlib.import_module(name))
