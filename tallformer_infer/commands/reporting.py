"""What a run says while it works: to people on a terminal, or to programs as JSON lines. Always on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TextColumn
from rich.progress import Progress as ProgressBar
from rich.status import Status
from rich.text import Text

from tallformer_infer.commands.tables import UNTRAINED, losses
from tallformer_infer.console import URGENT, write_event
from tallformer_infer.pipeline import Detector, Progress
from tallformer_infer.results import Failure
from tallformer_infer.structures import Result
from tallformer_infer.text import clock, naming_the_file, printable, shortened, times

LINE_EVERY_S = 60.0
"""Seconds between lines of progress where there is no terminal."""


class Reporter(Protocol):
    """Told what happens, in the order in which it happens."""

    def loading(self, device: str) -> None:
        """The model is being loaded, for a value of `--device`."""

    def loaded(self, detector: Detector) -> None:
        """The model is ready."""

    def started(self, path: str, index: int, count: int) -> None:
        """Video `index` of `count`, counted from 0, is opened."""

    def progressed(self, progress: Progress) -> None:
        """The open video is so far. Called from any thread."""

    def waiting(self, why: str) -> None:
        """The open video is not worked on yet. Called from any thread."""

    def done(self, result: Result) -> None:
        """The open video has its actions."""

    def failed(self, failure: Failure) -> None:
        """The open video gave no result."""

    def stopped(self) -> None:
        """What was going on has ended; said again where it had ended before."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """Anything else that the user should know; `facts` are the same for programs."""


class TerminalReporter:
    """Lines, tables and a progress bar."""

    def __init__(self, *, quiet: bool, show: Callable[[Result], RenderableType] | None) -> None:
        """Say nothing yet.

        Args:
            quiet: Leave out everything but warnings, failures and what goes to stdout.
            show: Makes the table of a video; None shows no tables.
        """
        self._quiet = quiet
        self._show = show
        self._console = Console(stderr=True, highlight=False)
        self._bar: ProgressBar | None = None
        self._status: Status | None = None
        self._path = ""
        self._next_line_s = 0.0

    def loading(self, device: str) -> None:
        """Show that something is going on, where there is a terminal to show it on."""
        if self._console.is_terminal and not self._quiet:
            self._status = self._console.status(f"loading the model{_what_takes_long(device)}")
            self._status.start()

    def loaded(self, detector: Detector) -> None:
        """Name the model and what `auto` chose; warn if the model is untrained."""
        self.stopped()
        runtime = detector.runtime
        if not self._quiet:
            line = f"model {detector.bundle.name} on {runtime.device} with {runtime.name}: {runtime.device_reason}"
            self._print(Text(printable(line), style="dim"))
            if detector.bundle.intended_use:
                self._print(Text(f"intended use: {printable(detector.bundle.intended_use)}", style="dim"))
        if not detector.bundle.trained:
            self._print(Text(f"warning: {UNTRAINED}", style="bold yellow"))

    def started(self, path: str, index: int, count: int) -> None:
        """Show the bar, where there is a terminal to show it on; else a line a minute will do."""
        self._path = path
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        if self._quiet or not self._console.is_terminal:
            return
        which = f"{index + 1}/{count} " if count > 1 else ""
        self._bar = ProgressBar(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[position]}", style="cyan"),
            TextColumn("{task.fields[speed]}", style="green"),
            TextColumn("{task.fields[left]}", style="yellow"),
            console=self._console,
            transient=True,
            expand=True,
        )
        name = shortened(printable(path.rsplit("/", 1)[-1]))
        self._bar.add_task(f"{which}{name}", total=None, position="", speed="", left="")
        self._bar.start()

    def progressed(self, progress: Progress) -> None:
        """Move the bar: position, speed as a multiple of real time, time left."""
        bar = self._bar
        if bar is None:
            self._progress_line(progress)
            return
        position, total = progress.position_s, progress.duration_s
        known = total is not None and total > 0
        bar.update(
            bar.task_ids[0],
            total=total if known else None,
            completed=min(position, total) if known and total is not None else position,
            position=f"{clock(position, digits=0)} / {clock(total, digits=0)}" if total else clock(position, digits=0),
            speed=f"{times(progress.speed)} real time",
            left=f"{clock(_left_s(progress), digits=0)} left" if known and progress.speed > 0 else "",
        )

    def _progress_line(self, progress: Progress) -> None:
        """Where there is no terminal: how far it is, once a minute."""
        if not self._is_line_due():
            return
        total = f" of {clock(progress.duration_s, digits=0)}" if progress.duration_s else ""
        left = f", {clock(_left_s(progress), digits=0)} left" if progress.duration_s and progress.speed > 0 else ""
        position = f"{clock(progress.position_s, digits=0)}{total}, {times(progress.speed)} real time{left}"
        self._print(Text(f"{printable(self._path)}: {position}"))

    def _is_line_due(self) -> bool:
        if self._quiet or self._console.is_terminal or time.monotonic() < self._next_line_s:
            return False
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        return True

    def waiting(self, why: str) -> None:
        """Say why in place of the position."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], position=printable(why))
        elif self._is_line_due():
            self._print(Text(f"{printable(self._path)}: {printable(why)}"))

    def done(self, result: Result) -> None:
        """Take the bar away, and show the table where one is wanted."""
        self.stopped()
        if self._show is not None and not self._quiet:
            self._console.print(self._show(result))
        elif lost := losses(result):
            self._print(Text(f"warning: {printable(result.video.path)}: {lost}", style="yellow"))

    def failed(self, failure: Failure) -> None:
        """One line."""
        self.stopped()
        self._print(Text(f"error: {naming_the_file(failure.path, failure.error)}", style="red"))

    def stopped(self) -> None:
        """Take away what moves."""
        for moving in (self._bar, self._status):
            if moving is not None:
                moving.stop()
        self._bar = self._status = None

    def say(self, event: str, message: str, **facts: Any) -> None:
        """One line; `--quiet` leaves out the good news."""
        if not self._quiet or event in URGENT:
            self._print(Text(message))

    def _print(self, text: Text) -> None:
        self._console.print(Text.assemble("tallformer: ", text), soft_wrap=True)


class JsonReporter:
    """One JSON object per line: `time`, `event` and its facts."""

    def __init__(self, *, quiet: bool) -> None:
        """Say nothing yet; `quiet` leaves out everything but warnings and failures."""
        self._quiet = quiet
        self._path = ""
        self._next_s = 0.0

    def loading(self, device: str) -> None:
        """Event `loading`."""
        self._write("loading", message=f"loading the model{_what_takes_long(device)}")

    def loaded(self, detector: Detector) -> None:
        """Events `loaded` and, of an untrained model, `warning`."""
        runtime, bundle = detector.runtime, detector.bundle
        facts = {"device": runtime.device, "device_reason": runtime.device_reason, "runtime": runtime.name}
        self._write("loaded", model=bundle.name, trained=bundle.trained, intended_use=bundle.intended_use, **facts)
        if not bundle.trained:
            self._write("warning", message=UNTRAINED)

    def started(self, path: str, index: int, count: int) -> None:
        """Event `video_started`."""
        self._path = path
        self._next_s = 0.0
        self._write("video_started", path=path, index=index, count=count)

    def progressed(self, progress: Progress) -> None:
        """Event `progress`, at most one per second."""
        if time.monotonic() < self._next_s:
            return
        self._next_s = time.monotonic() + 1
        self._write(
            "progress",
            path=self._path,
            position_s=round(progress.position_s, 3),
            duration_s=progress.duration_s,
            speed=round(progress.speed, 3),
        )

    def waiting(self, why: str) -> None:
        """Event `waiting`, at most one per second."""
        if time.monotonic() >= self._next_s:
            self._next_s = time.monotonic() + 1
            self._write("waiting", path=self._path, message=why)

    def done(self, result: Result) -> None:
        """Event `video_done`."""
        self._write(
            "video_done",
            path=result.video.path,
            actions=len(result.actions),
            duration_s=round(result.duration_s, 3),
            decode_errors=result.decode_errors,
            total_s=round(result.timings.total_s, 3),
        )
        if lost := losses(result):
            self._write("warning", path=result.video.path, message=lost)

    def failed(self, failure: Failure) -> None:
        """Event `video_failed`."""
        self._write("video_failed", path=failure.path, error=failure.error)

    def stopped(self) -> None:
        """Nothing to take away."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """Any other event."""
        self._write(event, message=message, **facts)

    def _write(self, event: str, **facts: Any) -> None:
        if not self._quiet or event in URGENT:
            write_event(event, **facts)


def _what_takes_long(device: str) -> str:
    """What loading a model may wait for, on a value of `--device`."""
    return "; TensorRT builds engines for it once, which may take minutes" if device == "onnx-tensorrt" else ""


def _left_s(progress: Progress) -> float:
    return max((progress.duration_s or 0.0) - progress.position_s, 0.0) / progress.speed
