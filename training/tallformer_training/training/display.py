"""What is said of a run while it works, on stderr: to people as lines and bars, or to programs as JSON lines."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tallformer_infer.console import write_event
from tallformer_training.training.metrics import finite_or_none

_EVENT_EVERY_S = 1.0


class Advance(Protocol):
    """Told how far something is."""

    def __call__(self, done: int, note: str = "", /, **facts: Any) -> None:
        """Take what was done more, a note to show behind the bar, and the same as `facts` for programs."""


class Display:
    """Lines and progress bars for people, or one JSON object per line for programs."""

    def __init__(self, *, is_quiet: bool, as_json: bool = False) -> None:
        """Say nothing yet.

        Args:
            is_quiet: Never say anything; errors do not come this way.
            as_json: Write `time`, `event` and its facts instead of text.
        """
        self._is_quiet = is_quiet
        self._as_json = as_json
        self._console = Console(stderr=True, quiet=is_quiet)

    def say(self, text: str, *, event: str = "note", **facts: Any) -> None:
        """Print one line; programs get it as the `message` of an event with `facts`."""
        if self._as_json:
            self._write(event, message=text, **facts)
        else:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    @contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """Show a bar; programs get events `progress`, at most one per second and one at the end."""
        if self._as_json:
            yield self._event_writer(what, total)
            return
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        with Progress(*columns, console=self._console, transient=False) as progress:
            task = progress.add_task(what, total=total, note="")

            def advance(done: int, note: str = "", /, **_facts: Any) -> None:
                progress.update(task, advance=done, note=note)

            yield advance

    def _event_writer(self, what: str, total: int) -> Advance:
        so_far, next_s = 0, 0.0

        def advance(done: int, _note: str = "", /, **facts: Any) -> None:
            nonlocal so_far, next_s
            so_far = min(so_far + done, total)
            if time.monotonic() >= next_s or so_far == total:
                next_s = time.monotonic() + _EVENT_EVERY_S
                self._write("progress", what=what, done=so_far, total=total, **facts)

        return advance

    def _write(self, event: str, **facts: Any) -> None:
        if not self._is_quiet:
            write_event(event, **{name: finite_or_none(value) for name, value in facts.items()})
