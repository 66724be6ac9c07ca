"""Work that Ctrl-C can leave at once."""

from __future__ import annotations

import importlib
import threading
from collections.abc import Callable
from concurrent.futures import Future, wait
from types import ModuleType
from typing import TypeVar

from tallformer_infer.commands.stopping import raise_if_stopped

T = TypeVar("T")

_POLL_S = 0.2


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
