"""What a command reports while it works, always on stderr: lines for people, or JSON lines for programs."""

from __future__ import annotations

import contextlib
import datetime
import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from rich.console import Console
from rich.status import Status
from rich.text import Text

from tallformer_infer.text import printable

URGENT = frozenset({"warning", "error", "video_failed", "interrupted"})
"""Events that `--quiet` does not silence."""


class Speaker(Protocol):
    """Reports the steps of a command; whoever creates one ends it with `stopped`."""

    def step(self, what: str) -> None:
        """Name the current step."""

    def stopped(self) -> None:
        """End the current step."""

    def show(self, event: str, lines: Sequence[str], **facts: Any) -> None:
        """Show a report: `lines` for people, `facts` for programs."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """Say one line; `facts` hold the same for programs."""


@contextlib.contextmanager
def speaking(*, quiet: bool, json_logs: bool) -> Iterator[Speaker]:
    """A speaker that is stopped at the end of the block.

    Args:
        quiet: Only warnings and failures.
        json_logs: One JSON object per line.
    """
    speaker: Speaker = _JsonSpeaker(quiet=quiet) if json_logs else _TerminalSpeaker(quiet=quiet)
    try:
        yield speaker
    finally:
        speaker.stopped()


def write_event(event: str, **facts: Any) -> None:
    """Write one JSON object on its own line: `time` (UTC), `event` and its facts."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": now, "event": event, **facts}) + "\n")
    sys.stderr.flush()


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


class _JsonSpeaker(JsonOutput):
    def step(self, what: str) -> None:
        self.say("step", what)

    def show(self, event: str, lines: Sequence[str], **facts: Any) -> None:
        self._write(event, **facts)
