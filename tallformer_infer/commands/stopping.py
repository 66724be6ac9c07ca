"""Being told to stop: by Ctrl-C (SIGINT), or by whoever runs the program (SIGTERM, as docker and slurm send it).

Note [a stop can get lost]
    A signal becomes a `KeyboardInterrupt` wherever the main thread is. Code that is not ours may turn that into another
    error (onnxruntime, while it is imported, into an ImportError), or drop it. So the handler also remembers, and
    whoever meets an unexpected error, or begins another piece of work, asks here.
"""

from __future__ import annotations

import signal
import time
from types import FrameType

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
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
