"""What a command says: to people as lines, or to programs as JSON lines. Always on stderr."""

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
    """Told what a command does; whoever makes one ends it with `stopped`."""

    def step(self, what: str) -> None:
        """What is being done now."""

    def stopped(self) -> None:
        """Nothing is being done any more."""

    def show(self, event: str, lines: Sequence[str], **facts: Any) -> None:
        """A report: `lines` for people, `facts` for programs."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """One line; `facts` are the same for programs."""


@contextlib.contextmanager
def speaking(*, quiet: bool, json_logs: bool) -> Iterator[Speaker]:
    """A speaker for as long as the command works.

    Args:
        quiet: Leave out everything but warnings and failures.
        json_logs: One JSON object per line.
    """
    speaker: Speaker = _JsonSpeaker(quiet=quiet) if json_logs else _TerminalSpeaker(quiet=quiet)
    try:
        yield speaker
    finally:
        speaker.stopped()


def write_event(event: str, **facts: Any) -> None:
    """One JSON object on a line of its own: `time` (UTC), `event` and its facts."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    sys.stderr.write(json.dumps({"time": now, "event": event, **facts}) + "\n")
    sys.stderr.flush()


class _TerminalSpeaker:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._status: Status | None = None

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

    def say(self, event: str, message: str, **facts: Any) -> None:
        if not self._quiet or event in URGENT:
            self._console.print(Text(f"tallformer: {printable(message)}"), soft_wrap=True)


class _JsonSpeaker:
    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def step(self, what: str) -> None:
        self.say("step", what)

    def stopped(self) -> None:
        pass

    def show(self, event: str, lines: Sequence[str], **facts: Any) -> None:
        if not self._quiet or event in URGENT:
            write_event(event, **facts)

    def say(self, event: str, message: str, **facts: Any) -> None:
        self.show(event, (), message=message, **facts)
