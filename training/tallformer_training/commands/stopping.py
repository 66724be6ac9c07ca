"""Ctrl-C while training: the step that is being taken is finished and a checkpoint written, then the run ends."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_SAME_STOP_S = 1.0
"""Signals that follow this soon are the same stop: torchrun signals its processes after the terminal has."""


class StopBetweenSteps:
    """Asked after every training step whether to stop; while it is entered, it receives SIGINT and SIGTERM.

    The first signal stops the run after the current step. A second one, or one before any step is done (there is
    nothing to save yet), does what the signal did before.
    """

    def __init__(self, on_stop: Callable[[], None]) -> None:
        """Take what to do when the first signal comes, to tell the user."""
        self.signal: int | None = None
        """The signal that stopped the run."""
        self._on_stop = on_stop
        self._is_stepping = False
        self._told_s = 0.0
        self._before: dict[int, Any] = {}

    def __call__(self) -> bool:
        """Whether to stop now."""
        self._is_stepping = True
        return self.signal is not None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                if signal.getsignal(number) != signal.SIG_IGN:
                    self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def raise_again(self) -> None:
        """Do what the signal did before, if one came: for the exit code of a program that was stopped.

        Raises:
            KeyboardInterrupt: One came.
        """
        if self.signal is not None:
            self._pass_on(self.signal, None)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is None and self._is_stepping:
            self.signal, self._told_s = number, time.monotonic()
            self._on_stop()
        elif self.signal is None or time.monotonic() - self._told_s >= _SAME_STOP_S:
            self._pass_on(number, frame)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._before[number]
        if callable(handler):
            handler(number, frame)
        else:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
