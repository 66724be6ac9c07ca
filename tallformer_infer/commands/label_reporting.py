"""What `tallformer label` says: bars and a table for people, JSON lines for programs. Always on stderr."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from rich.console import Console
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as ProgressBar
from rich.table import Table
from rich.text import Text

from tallformer_infer.archive.database import FailureKind
from tallformer_infer.archive.planning import Plan
from tallformer_infer.archive.run import Totals, Watcher
from tallformer_infer.archive.tasks import Alive
from tallformer_infer.bundle import Bundle
from tallformer_infer.commands.tables import UNTRAINED, losses, outside_domain
from tallformer_infer.console import URGENT, write_event
from tallformer_infer.structures import Result
from tallformer_infer.text import clock, counted, naming_the_file, printable, shortened, times

_TELL_EVERY_S = 1.0
LINE_EVERY_S = 60.0
"""Between lines of progress where there is no terminal."""


class LabelWatcher(Watcher, Protocol):
    """Told of a run's begin and end, too."""

    def loaded(self, bundle: Bundle) -> None:
        """The model is known."""

    def finished(self, plan: Plan, totals: Totals, out: str, folder: Path) -> None:
        """All is done: result files are in `out`, the database in `folder`."""

    def stopped(self) -> None:
        """What was going on has ended; said again where it had ended before."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """Anything else that the user should know."""


class TerminalWatcher:
    """An overall bar and a row per worker, lines for failures, and a table at the end."""

    def __init__(self, quiet: bool) -> None:
        """Say nothing yet; `quiet` leaves out everything but warnings and failures."""
        self._quiet = quiet
        self._console = Console(stderr=True, highlight=False)
        self._bar: ProgressBar | None = None
        self._all: TaskID | None = None
        self._rows: dict[int, TaskID] = {}
        self._line_s: float | None = None
        self._footage: str | None = None

    def loaded(self, bundle: Bundle) -> None:
        """Say what the model is for; warn if it is untrained."""
        self._footage = bundle.footage
        if bundle.intended_use and not self._quiet:
            self._print(Text(f"model {printable(bundle.name)}: {printable(bundle.intended_use)}", style="dim"))
        if not bundle.trained:
            self._print(Text(f"warning: {UNTRAINED}", style="bold yellow"))

    def planned(self, plan: Plan, totals: Totals, *, workers: int | None) -> None:
        """Say what there is to do, and show the bar where there is a terminal to show it on."""
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
        self._bar = ProgressBar(
            TextColumn("{task.description:<30}", markup=False),
            BarColumn(bar_width=None),
            TextColumn("{task.fields[so_far]}", style="cyan"),
            TextColumn("{task.fields[speed]}", style="green"),
            TextColumn("{task.fields[left]}", style="yellow"),
            console=self._console,
            transient=True,
            expand=True,
        )
        self._all = self._bar.add_task("all", total=totals.planned, so_far="", speed="", left="")
        self._bar.start()

    def started(self, slot: int, path: str, place: str) -> None:
        """Give the worker's row the name of its video."""
        if self._bar is None:
            return
        name = shortened(printable(path.rsplit("/", 1)[-1]))
        if slot not in self._rows:
            self._rows[slot] = self._bar.add_task("", total=None, so_far="", speed="", left="")
        self._bar.reset(self._rows[slot], description=f"{slot + 1} {name}", total=None, so_far="", speed="", left="")

    def alive(self, slot: int, path: str, alive: Alive, totals: Totals) -> None:
        """Move the worker's row, and the overall one."""
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
        """Move the overall bar; say what is not as it should be."""
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
        """The table of the run."""
        self.stopped()
        if self._quiet:
            return
        table = Table(show_header=False, box=None, pad_edge=False)
        for name, value in summary(plan, totals):
            table.add_row(Text(name), Text(value, justify="right"))
        self._console.print(table)
        self._print(
            Text(f"results are in {printable(out)}; `tallformer archive query {printable(folder)}` asks for actions")
        )

    def stopped(self) -> None:
        """Take away what moves."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None

    def say(self, event: str, message: str, **facts: Any) -> None:
        """One line; `--quiet` leaves out the good news."""
        if not self._quiet or event in URGENT:
            self._print(Text(message))

    def _move(self, totals: Totals) -> None:
        if self._quiet:
            return
        if self._bar is None or self._all is None:
            self._tell_now_and_then(totals)
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

    def _tell_now_and_then(self, totals: Totals) -> None:
        """One line a minute, where there is no terminal to move a bar on."""
        now_s = time.monotonic()
        if self._line_s is None:
            self._line_s = now_s
        elif now_s - self._line_s >= LINE_EVERY_S:
            self._line_s = now_s
            shown = _so_far(totals)
            parts = (f"{shown.videos} videos", f"{shown.hours} of video", shown.speed, shown.left)
            self._print(Text(", ".join(part for part in parts if part)))

    def _print(self, text: Text) -> None:
        self._console.print(Text.assemble("tallformer: ", text), soft_wrap=True)


class _SoFar(NamedTuple):
    """How far a run is, for people."""

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


class JsonWatcher:
    """One JSON object per line: `time`, `event` and its facts."""

    def __init__(self, *, quiet: bool) -> None:
        """Say nothing yet; `quiet` leaves out everything but warnings and failures."""
        self._quiet = quiet
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
            self._next_s[slot] = time.monotonic() + _TELL_EVERY_S
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
        """Nothing to say."""

    def finished(self, plan: Plan, totals: Totals, out: str, folder: Path) -> None:
        """Event `finished`."""
        before = {"unchanged": len(plan.unchanged), "failed_before": len(plan.failed_before)}
        self._write("finished", out=out, state=str(folder), **_facts(totals), **before)

    def stopped(self) -> None:
        """Nothing to take away."""

    def say(self, event: str, message: str, **facts: Any) -> None:
        """Any other event."""
        self._write(event, message=message, **facts)

    def _write(self, event: str, **facts: Any) -> None:
        if not self._quiet or event in URGENT:
            write_event(event, **facts)


def summary(plan: Plan, totals: Totals) -> list[tuple[str, str]]:
    """Rows of the final table: what, and how much."""
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
