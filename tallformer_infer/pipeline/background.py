"""One stage running ahead of the next, in a thread, by a bounded number of items."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Generic, Self, TypeVar

T = TypeVar("T")

_POLL_S = 0.1
_JOIN_S = 0.8


class _End:
    """What comes after the last item."""

    def __init__(self, error: BaseException | None) -> None:
        self.error = error


class Background(Generic[T]):
    """Iterates `items` in a daemon thread and hands them over through a bounded queue.

    An error in the thread is raised where the items are read. Leaving the `with` block stops the thread: the daemon
    thread and the bounded join keep Ctrl-C fast even while native code runs in it.
    """

    def __init__(self, items: Iterable[T], *, ahead: int, interrupt: Callable[[], None]) -> None:
        """Start at once.

        Args:
            items: Consumed in the thread.
            ahead: Items that may wait in the queue, at least 1.
            interrupt: Called on an early stop, to end what the thread is busy with.
        """
        self._items = items
        self._queue: queue.Queue[T | _End] = queue.Queue(maxsize=ahead)
        self._stopped = threading.Event()
        self._is_at_end = False
        self._interrupt = interrupt
        self._thread = threading.Thread(target=self._run, name="tallformer-encode", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[T]:
        while True:
            try:
                item = self._queue.get(timeout=_POLL_S)  # with a timeout, so that Ctrl-C is seen on every platform
            except queue.Empty:
                continue
            if isinstance(item, _End):
                self._is_at_end = True
                if item.error is not None:
                    raise item.error
                return
            yield item

    def close(self) -> None:
        """Stop the thread, also in the middle. May be called twice."""
        if self._thread.is_alive():
            if not self._is_at_end:  # a thread that has handed over its end has nothing left to be interrupted
                self._stopped.set()
                self._interrupt()
            self._thread.join(_JOIN_S)

    def _run(self) -> None:
        error: BaseException | None = None
        try:
            for item in self._items:
                if not self._put(item):
                    return
        except BaseException as caught:
            error = caught
        self._put(_End(error))

    def _put(self, item: T | _End) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(item, timeout=_POLL_S)
            except queue.Full:
                continue
            return True
        return False
