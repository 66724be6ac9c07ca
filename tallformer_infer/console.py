"""What a command reports while it works, always on stderr: lines for people, or JSON lines for programs."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.status import Status
from rich.text import Text

from tallformer_infer.text import printable

URGENT = frozenset({"warning", "error", "video_failed", "interrupted"})
"""Events that `--quiet` does not silence."""

LINE_EVERY_S = 60.0
"""Seconds between progress lines if stderr is not a terminal."""
EVENT_EVERY_S = 1.0
"""Seconds between progress events of one source."""


class Advance(Protocol):
    """Takes progress as it is made."""

    def __call__(self, done: int, note: str = "", /, **facts: Any) -> None:
        """Add `done` to what is done; `note` is shown behind the bar, `facts` hold the same for programs."""


class Speaker(Protocol):
    """Reports the steps of a command; whoever creates one ends it with `stopped`."""

    def step(self, what: str) -> None:
        """Name the current step."""

    def stopped(self) -> None:
        """End the current step."""

    def show(self, event: str, lines: Sequence[str], **facts: Any) -> None:
        """Show a report: `lines` for people, `facts` for programs."""

    def progress(self, what: str, total: int) -> AbstractContextManager[Advance]:
        """Show the progress of `what`, of which there are `total`."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """Say one line; `facts` hold the same for programs."""


@contextlib.contextmanager
def speaking(*, quiet: bool, json_logs: bool) -> Iterator[Speaker]:
    """A speaker that is stopped at the end of the block.

    Args:
        quiet: Only warnings and failures.
        json_logs: One JSON object per line.
    """
    speaker = make_speaker(quiet=quiet, json_logs=json_logs)
    try:
        yield speaker
    finally:
        speaker.stopped()


def make_speaker(*, quiet: bool, json_logs: bool = False) -> Speaker:
    """A speaker, for a block that `speaking` does not fit."""
    return _JsonSpeaker(quiet=quiet) if json_logs else _TerminalSpeaker(quiet=quiet)


def write_event(event: str, **facts: Any) -> None:
    """Write one JSON object on its own line: `time` (UTC), `event` and its facts."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": now, "event": event, **finite(facts)}) + "\n")
    sys.stderr.flush()


def finite(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The same facts, with None for numbers that JSON cannot represent (NaN and infinities)."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in facts.items()
    }


class TerminalOutput:
    """Lines for people; `--quiet` leaves out everything but warnings and failures."""

    def __init__(self, *, quiet: bool) -> None:
        """Write nothing yet."""
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)

    def say(self, event: str, message: str, **facts: Any) -> None:
        """One line."""
        if not self._quiet or event in URGENT:
            self._print(Text(printable(message)))

    def _print(self, text: Text) -> None:
        self._console.print(Text.assemble("tallformer: ", text), soft_wrap=True)


class JsonOutput:
    """One JSON object per line: `time`, `event` and its facts; `--quiet` leaves out all but warnings and failures."""

    def __init__(self, *, quiet: bool) -> None:
        """Write nothing yet."""
        self._quiet = quiet

    def say(self, event: str, message: str, **facts: Any) -> None:
        """One object with the key `message`."""
        self._write(event, message=message, **facts)

    def stopped(self) -> None:
        """Nothing moves, so there is nothing to take away."""

    def _write(self, event: str, **facts: Any) -> None:
        if not self._quiet or event in URGENT:
            write_event(event, **facts)


class _TerminalSpeaker(TerminalOutput):
    _status: Status | None = None

    def step(self, what: str) -> None:
        if self._quiet or not self._console.is_terminal:
            return
        text = Text(printable(what))
        if self._status is None:
            self._status = self._console.status(text)
            self._status.start()
        else:
            self._status.update(text)

    def stopped(self) -> None:
        if self._status is not None:
            self._status.stop()
            self._status = None

    def show(self, event: str, lines: Sequence[str], **facts: Any) -> None:
        if not self._quiet or event in URGENT:
            for line in lines:
                self._console.print(Text(printable(line)), soft_wrap=True)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """On a terminal a bar, elsewhere a line per minute and one at the end."""
        if self._quiet or not self._console.is_terminal:

            def tell(done: int, note: str, _: Mapping[str, Any]) -> None:
                self.say("progress", f"{what}: {done} of {total}{f', {note}' if note else ''}")

            yield _adding_up(total, tell, every_s=LINE_EVERY_S, first_after_s=LINE_EVERY_S)
            return
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}", markup=False),
        )
        with Progress(*columns, console=self._console) as bar:
            task = bar.add_task(what, total=total, note="")

            def advance(done: int, note: str = "", /, **_: Any) -> None:
                bar.update(task, advance=done, note=printable(note))

            yield advance


class _JsonSpeaker(JsonOutput):
    def step(self, what: str) -> None:
        self.say("step", what)

    def show(self, event: str, lines: Sequence[str], **facts: Any) -> None:
        self._write(event, **facts)

    @contextlib.contextmanager
    def progress(self, what: str, total: int) -> Iterator[Advance]:
        """Events `progress`, at most one per second and one at the end."""

        def tell(done: int, _: str, facts: Mapping[str, Any]) -> None:
            self._write("progress", what=what, done=done, total=total, **facts)

        yield _adding_up(total, tell, every_s=EVENT_EVERY_S)


def _adding_up(
    total: int,
    tell: Callable[[int, str, Mapping[str, Any]], None],
    *,
    every_s: float,
    first_after_s: float = 0.0,
) -> Advance:
    """Call `tell` with what is done so far, every `every_s` seconds and when all is done."""
    so_far, next_s = 0, time.monotonic() + first_after_s

    def advance(done: int, note: str = "", /, **facts: Any) -> None:
        nonlocal so_far, next_s
        so_far = min(so_far + done, total)
        if time.monotonic() >= next_s or so_far == total:
            next_s = time.monotonic() + every_s
            tell(so_far, note, facts)

    return advance
