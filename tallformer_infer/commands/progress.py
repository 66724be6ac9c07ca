"""Progress of `detect`, `calibrate` and `label` on stderr: bars and tables for people, JSON lines for programs."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from rich.console import Console, RenderableType
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as ProgressBar
from rich.status import Status
from rich.table import Table
from rich.text import Text

from tallformer_infer.bundle import Bundle
from tallformer_infer.commands.tables import UNTRAINED, losses, outside_domain
from tallformer_infer.console import EVENT_EVERY_S, LINE_EVERY_S, JsonOutput, TerminalOutput
from tallformer_infer.pipeline import Detector, Progress
from tallformer_infer.results import Failure
from tallformer_infer.structures import Result
from tallformer_infer.text import clock, counted, naming_the_file, printable, shortened, times

if TYPE_CHECKING:  # `detect` need not load the archive
    from tallformer_infer.archive.database import FailureKind
    from tallformer_infer.archive.run import Plan
    from tallformer_infer.archive.tasks import Alive, Totals


class Reporter(Protocol):
    """Reports the progress of a run over videos, one after another."""

    def loading(self, device: str) -> None:
        """Loading the model begins, for a value of `--device`."""

    def loaded(self, detector: Detector) -> None:
        """The model is ready."""

    def started(self, path: str, index: int, count: int) -> None:
        """Video `index` of `count`, counted from 0, is opened."""

    def progressed(self, progress: Progress) -> None:
        """Position in the open video. Called from any thread."""

    def waiting(self, why: str) -> None:
        """The open video waits. Called from any thread."""

    def done(self, result: Result) -> None:
        """The open video is done."""

    def failed(self, failure: Failure) -> None:
        """The open video failed."""

    def stopped(self) -> None:
        """End whatever is displayed; may be called again."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """Report anything else; `facts` hold the same for programs."""


def _progress_bar(console: Console, *, name: str) -> ProgressBar:
    """A bar whose tasks have the fields `so_far`, `speed` and `left`; `name` is the format of their names."""
    return ProgressBar(
        TextColumn(name, markup=False),
        BarColumn(bar_width=None),
        TextColumn("{task.fields[so_far]}", style="cyan"),
        TextColumn("{task.fields[speed]}", style="green"),
        TextColumn("{task.fields[left]}", style="yellow"),
        console=console,
        transient=True,
        expand=True,
    )


class TerminalReporter(TerminalOutput):
    """A `Reporter` of lines, tables and a progress bar."""

    def __init__(self, *, quiet: bool, show: Callable[[Result], RenderableType] | None) -> None:
        """Write nothing yet.

        Args:
            quiet: Only warnings and failures.
            show: Makes the table of a video; None: show no tables.
        """
        super().__init__(quiet=quiet)
        self._show = show
        self._bar: ProgressBar | None = None
        self._status: Status | None = None
        self._path = ""
        self._next_line_s = 0.0

    def loading(self, device: str) -> None:
        """Show a spinner, on a terminal."""
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
        """Show a bar on a terminal; elsewhere a line per minute follows."""
        self._path = path
        self._next_line_s = time.monotonic() + LINE_EVERY_S
        if self._quiet or not self._console.is_terminal:
            return
        which = f"{index + 1}/{count} " if count > 1 else ""
        self._bar = _progress_bar(self._console, name="{task.description}")
        name = shortened(printable(path.rsplit("/", 1)[-1]))
        self._bar.add_task(f"{which}{name}", total=None, so_far="", speed="", left="")
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
            so_far=f"{clock(position, digits=0)} / {clock(total, digits=0)}" if total else clock(position, digits=0),
            speed=f"{times(progress.speed)} real time",
            left=f"{clock(_left_s(progress), digits=0)} left" if known and progress.speed > 0 else "",
        )

    def _progress_line(self, progress: Progress) -> None:
        """Without a terminal: the position, once a minute."""
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
        """Show the reason in place of the position."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], so_far=printable(why))
        elif self._is_line_due():
            self._print(Text(f"{printable(self._path)}: {printable(why)}"))

    def done(self, result: Result) -> None:
        """Remove the bar, and show the table or what was lost."""
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
        """Remove the bar and the spinner."""
        for moving in (self._bar, self._status):
            if moving is not None:
                moving.stop()
        self._bar = self._status = None


class JsonReporter(JsonOutput):
    """A `Reporter` of JSON lines."""

    def __init__(self, *, quiet: bool) -> None:
        """Write nothing yet; `quiet`: only warnings and failures."""
        super().__init__(quiet=quiet)
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
        self._next_s = time.monotonic() + EVENT_EVERY_S
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
            self._next_s = time.monotonic() + EVENT_EVERY_S
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


def _what_takes_long(device: str) -> str:
    """Why loading may be slow on this device; empty if it is not."""
    return "; TensorRT builds engines for it once, which may take minutes" if device == "onnx-tensorrt" else ""


def _left_s(progress: Progress) -> float:
    return max((progress.duration_s or 0.0) - progress.position_s, 0.0) / progress.speed


class TerminalWatcher(TerminalOutput):
    """`label` on a terminal: an overall bar, a row per worker, lines for failures, and a table at the end."""

    def __init__(self, *, quiet: bool) -> None:
        """Write nothing yet; `quiet`: only warnings and failures."""
        super().__init__(quiet=quiet)
        self._bar: ProgressBar | None = None
        self._all: TaskID | None = None
        self._rows: dict[int, TaskID] = {}
        self._line_s: float | None = None
        self._footage: str | None = None

    def loaded(self, bundle: Bundle) -> None:
        """Show the intended use; warn if the model is untrained."""
        self._footage = bundle.footage
        if bundle.intended_use and not self._quiet:
            self._print(Text(f"model {printable(bundle.name)}: {printable(bundle.intended_use)}", style="dim"))
        if not bundle.trained:
            self._print(Text(f"warning: {UNTRAINED}", style="bold yellow"))

    def planned(self, plan: Plan, totals: Totals, *, workers: int | None) -> None:
        """Show how much there is to do, and the bar on a terminal."""
        if self._quiet:
            return
        parts = [f"{counted(totals.planned, 'video')} to label"]
        parts += [f"{len(plan.conclude)} of them from stored candidates"] if plan.conclude else []
        parts += [f"{len(plan.unchanged)} done before"] if plan.unchanged else []
        parts += [f"{len(plan.failed_before)} failed before"] if plan.failed_before else []
        who = "" if workers is None else f"; {counted(workers, 'worker')}"
        self._print(Text(f"{', '.join(parts)}{who}", style="dim"))
        if not self._console.is_terminal or not totals.planned:
            return
        self._bar = _progress_bar(self._console, name="{task.description:<30}")
        self._all = self._bar.add_task("all", total=totals.planned, so_far="", speed="", left="")
        self._bar.start()

    def started(self, slot: int, path: str, place: str) -> None:
        """Show the video in the worker's row."""
        if self._bar is None:
            return
        name = shortened(printable(path.rsplit("/", 1)[-1]))
        if slot not in self._rows:
            self._rows[slot] = self._bar.add_task("", total=None, so_far="", speed="", left="")
        self._bar.reset(self._rows[slot], description=f"{slot + 1} {name}", total=None, so_far="", speed="", left="")

    def alive(self, slot: int, path: str, alive: Alive, totals: Totals) -> None:
        """Update the worker's row and the overall one."""
        if self._bar is None or slot not in self._rows:
            self._move(totals)
            return
        total_s = alive.duration_s
        so_far = clock(alive.position_s, digits=0) + (f" / {clock(total_s, digits=0)}" if total_s else "")
        self._bar.update(
            self._rows[slot],
            total=total_s,
            completed=min(alive.position_s, total_s) if total_s else alive.position_s,
            so_far=alive.what or so_far,
        )
        self._move(totals)

    def done(self, path: str, result: Result, remarks: tuple[str, ...], totals: Totals) -> None:
        """Update the overall bar; warn of losses and of a model that does not fit the video."""
        self._move(totals)
        if warning := outside_domain(result, self._footage):
            self._footage = None  # once is enough
            self._print(Text(f"warning: {printable(warning)}", style="bold yellow"))
        told = [remark for remark in remarks if "not kept" in remark or "damaged" in remark]
        for remark in [losses(result), *told] if losses(result) else told:
            self._print(Text(f"warning: {printable(path)}: {printable(remark)}", style="yellow"))

    def failed(self, path: str, kind: FailureKind, error: str, *, again: bool) -> None:
        """One line."""
        line = naming_the_file(path, error)
        style, word = ("yellow", "warning") if again else ("red", "error")
        self._print(Text(f"{word}: {line}{'; will be tried again' if again else ''}", style=style))

    def freed(self, slot: int) -> None:
        """Clear the worker's row."""
        if self._bar is not None and slot in self._rows:
            self._bar.update(self._rows[slot], description=f"{slot + 1}", so_far="", total=None, completed=0)

    def finished(self, plan: Plan, totals: Totals, out: str, folder: Path) -> None:
        """Show the summary table."""
        self.stopped()
        if self._quiet:
            return
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in summary(plan, totals):
            table.add_row(Text(name), Text(value, justify="right"))
        self._console.print(table)
        self._print(
            Text(f"results are in {printable(out)}; `tallformer archive query {printable(folder)}` lists actions")
        )

    def stopped(self) -> None:
        """Remove the bar and the spinner."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def _move(self, totals: Totals) -> None:
        if self._quiet:
            return
        if self._bar is None or self._all is None:
            self._progress_line(totals)
            return
        shown = _so_far(totals)
        self._bar.update(
            self._all,
            total=totals.planned,
            completed=totals.done + totals.failed + totals.ignored,
            description=shown.videos,
            so_far=shown.hours,
            speed=shown.speed,
            left=shown.left,
        )

    def _progress_line(self, totals: Totals) -> None:
        """Without a terminal: one line per minute."""
        now_s = time.monotonic()
        if self._line_s is None:
            self._line_s = now_s
        elif now_s - self._line_s >= LINE_EVERY_S:
            self._line_s = now_s
            shown = _so_far(totals)
            parts = (f"{shown.videos} videos", f"{shown.hours} of video", shown.speed, shown.left)
            self._print(Text(", ".join(part for part in parts if part)))


class _SoFar(NamedTuple):
    """Progress of a run, as text."""

    videos: str
    hours: str
    speed: str
    left: str


def _so_far(totals: Totals) -> _SoFar:
    ended = totals.done + totals.failed + totals.ignored
    part = totals.done_bytes / totals.planned_bytes if totals.planned_bytes else ended / max(totals.planned, 1)
    left_s = totals.wall_s * max(1 / part - 1, 0) if part else None
    failures = f" ({totals.failed} failed)" if totals.failed else ""
    return _SoFar(
        videos=f"{ended}/{totals.planned}{failures}",
        hours=f"{totals.video_s / 3600:.2f} h",
        speed=f"{times(totals.video_s / totals.wall_s)} real time" if totals.wall_s and totals.video_s else "",
        left=f"{clock(left_s, digits=0)} left" if left_s is not None else "",
    )


class JsonWatcher(JsonOutput):
    """`label` as JSON lines."""

    def __init__(self, *, quiet: bool) -> None:
        """Write nothing yet; `quiet`: only warnings and failures."""
        super().__init__(quiet=quiet)
        self._next_s: dict[int, float] = {}
        self._footage: str | None = None

    def loaded(self, bundle: Bundle) -> None:
        """Events `loaded` and, of an untrained model, `warning`."""
        self._footage = bundle.footage
        self._write("loaded", model=bundle.name, trained=bundle.trained, intended_use=bundle.intended_use)
        if not bundle.trained:
            self._write("warning", message=UNTRAINED)

    def planned(self, plan: Plan, totals: Totals, *, workers: int | None) -> None:
        """Event `planned`."""
        lists = {name: len(rows) for name, rows in vars(plan).items() if isinstance(rows, list)}
        self._write("planned", workers=workers, **lists)

    def started(self, slot: int, path: str, place: str) -> None:
        """Event `video_started`."""
        self._write("video_started", worker=slot, place=place, path=path)

    def alive(self, slot: int, path: str, alive: Alive, totals: Totals) -> None:
        """Event `progress`, at most one per second and worker."""
        if time.monotonic() >= self._next_s.get(slot, 0.0):
            self._next_s[slot] = time.monotonic() + EVENT_EVERY_S
            self._write("progress", worker=slot, path=path, **dataclasses.asdict(alive), totals=_facts(totals))

    def done(self, path: str, result: Result, remarks: tuple[str, ...], totals: Totals) -> None:
        """Event `video_done` and, of a short or damaged video, `warning`."""
        if warning := outside_domain(result, self._footage):
            self._footage = None
            self._write("warning", path=path, message=warning)
        self._write(
            "video_done",
            path=path,
            actions=len(result.actions),
            duration_s=round(result.duration_s, 3),
            decode_errors=result.decode_errors,
            missing_s=round(result.missing_s, 3),
            total_s=round(result.timings.total_s, 3),
            remarks=remarks,
        )
        if lost := losses(result):
            self._write("warning", path=path, message=lost)

    def failed(self, path: str, kind: FailureKind, error: str, *, again: bool) -> None:
        """Event `video_failed`."""
        self._write("video_failed", path=path, kind=kind, error=error, again=again)

    def freed(self, slot: int) -> None:
        """No event."""

    def finished(self, plan: Plan, totals: Totals, out: str, folder: Path) -> None:
        """Event `finished`."""
        before = {"unchanged": len(plan.unchanged), "failed_before": len(plan.failed_before)}
        self._write("finished", out=out, state=str(folder), **_facts(totals), **before)


LabelWatcher = TerminalWatcher | JsonWatcher
"""Both are an `archive.tasks.Watcher`, told of the beginning and the end of a run, too."""


def summary(plan: Plan, totals: Totals) -> list[tuple[str, str]]:
    """Rows of the final table: name and value."""
    speed = f"{times(totals.video_s / totals.wall_s)} real time" if totals.wall_s > 0.1 and totals.video_s else ""
    rows = [
        ("labelled", f"{totals.done}"),
        ("  of these with the content of another", f"{totals.copied}" if totals.copied else ""),
        ("  of these short or damaged", f"{totals.incomplete}" if totals.incomplete else ""),
        ("done before", f"{len(plan.unchanged)}" if plan.unchanged else ""),
        ("failed", f"{totals.failed}"),
        ("failed before (`tallformer archive retry`)", f"{len(plan.failed_before)}" if plan.failed_before else ""),
        ("attempts that failed and were repeated", f"{totals.retried}" if totals.retried else ""),
        (
            "files that are no videos",
            f"{totals.ignored + len(plan.ignored)}" if totals.ignored + len(plan.ignored) else "",
        ),
        ("actions", f"{totals.actions}"),
        ("hours of video", f"{totals.video_s / 3600:.2f}"),
        ("speed", speed),
    ]
    return [(name, value) for name, value in rows if value]


def _facts(totals: Totals) -> dict[str, float]:
    return {name: round(value, 3) for name, value in dataclasses.asdict(totals).items()}
