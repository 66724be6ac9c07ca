"""Bounded queues between a producer thread and a consumer thread; either may stop at any time."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")

_POLL_S = 0.1


class FrameQueue(Generic[Item]):
    """A `queue.Queue` that can end: with the last item, with an error, or because the consumer stopped."""

    def __init__(self, size: int) -> None:
        """Hold at most `size` items, at least 1."""
        if size < 1:
            raise ValueError(f"expected a queue of at least 1 item, got {size}")
        self._size = size
        self._items: deque[Item] = deque()
        self._change = threading.Condition()
        self._error: BaseException | None = None
        self._is_ended = False
        self._is_closed = False

    def put(self, item: Item) -> bool:
        """Wait for a free place and add `item`; False if the consumer has stopped."""
        with self._change:
            self._change.wait_for(lambda: self._is_closed or len(self._items) < self._size)
            if not self._is_closed:
                self._items.append(item)
                self._change.notify_all()
            return not self._is_closed

    def end(self, error: BaseException | None = None) -> None:
        """Mark the end; `error` is raised when the consumer asks for the next item."""
        with self._change:
            self._error = error
            self._is_ended = True
            self._change.notify_all()

    def take(self) -> Item:
        """Wait for the next item.

        Raises:
            StopIteration: No item follows.
        """
        with self._change:
            while not (self._items or self._is_ended or self._is_closed):
                self._change.wait(_POLL_S)  # not for ever, so that Ctrl-C is seen on every platform
            if self._is_closed or not self._items:
                error, self._error = self._error, None
                raise error or StopIteration
            item = self._items.popleft()
            self._change.notify_all()
            return item

    @property
    def is_ended(self) -> bool:
        """Whether the producer has marked the end."""
        return self._is_ended

    def close(self) -> None:
        """Stop as the consumer: drop all items and let `put` return at once."""
        with self._change:
            self._is_closed = True
            self._error = None
            self._items.clear()
            self._change.notify_all()


def run_ahead(
    items: Iterator[Item],
    size: int,
    *,
    thread_name: str,
    interrupt: Callable[[], None] | None = None,
    join_s: float | None = None,
) -> Generator[Item]:
    """Iterate `items` in a thread that runs at most `size` items ahead.

    Closing the generator ends the thread, at its next item. Errors of `items` come out here.

    Args:
        items: Consumed in the thread.
        size: Items that may wait, at least 1.
        thread_name: For people who look at threads.
        interrupt: Called on an early end, to stop what the thread is busy with.
        join_s: How long to wait for the thread to end; None waits for ever.
    """
    queue: FrameQueue[Item] = FrameQueue(size)
    is_at_end = False

    def make() -> None:
        try:
            for item in items:
                if not queue.put(item):
                    return
        except BaseException as error:
            queue.end(error)
        else:
            queue.end()

    thread = threading.Thread(target=make, name=thread_name, daemon=True)
    thread.start()
    try:
        while True:
            try:
                item = queue.take()
            except StopIteration:
                is_at_end = True
                return
            except BaseException:
                is_at_end = queue.is_ended
                raise
            yield item
    finally:
        queue.close()
        if interrupt is not None and not is_at_end:  # a thread that has ended has nothing left to be interrupted
            interrupt()
        thread.join(join_s)
