"""Measure all goals on this machine in one run: goal, measured, met.

    python -m benchmarks [--only PART[,PART]] [--minutes N] [--list] [--work FOLDER] [--out FILE]

Needs `pip install 'tallformer[dev]'` and a quiet machine. Each part runs in its own process: a failure is reported, and
the other parts still run. --out writes the lines to a file, from which `python -m benchmarks.tables` makes the tables
of docs/speed.md; lines of other processors in it, and of goals that this run did not measure, are kept. The work folder
keeps graphs and videos for the next run.

Exit code: 0 all goals of the selected parts are met; 1 not; 130 stopped.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from benchmarks.goals import GOALS, PARTS, Figure, NotMeasuredError, Part, goal_line, goal_rows, merged_lines
from benchmarks.measure import circumstances, read_lines

WORK = Path("build") / "bench"
_PLACES = {(goal.part, goal.key): place for place, goal in enumerate(GOALS)}
_SAID = 300
"""Characters kept of the last output line of a failed part."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the parts, show the table, and write the lines."""
    options = _options(arguments)
    parts = [part for part in PARTS if not options.only or part.name in options.only]
    if options.list:
        print(f"{sum(part.minutes for part in parts):.0f} minutes in all, on two cores")
        for part in parts:
            print(f"{part.name:12}{part.minutes:4.1f} min   {'; '.join(goal.what for goal in part.goals)}")
        return 0
    if options.lines is not None:
        _measure_here(parts, options.work, options.lines)
        return 0
    started = time.monotonic()
    lines: list[dict[str, Any]] = []
    try:
        for number, part in enumerate(parts, start=1):
            left = options.minutes - (time.monotonic() - started) / 60
            lines += _run(part, options.work, f"{number} of {len(parts)}", left)
    except KeyboardInterrupt:
        Console().print(_table(lines))
        print("benchmarks: stopped; the table shows the finished parts, and nothing was written", file=sys.stderr)
        return 130
    lines.sort(key=lambda line: _PLACES[line["part"], line["key"]])
    facts = {"run_minutes": round((time.monotonic() - started) / 60, 1), **circumstances()}
    lines = [{**line, **facts} for line in lines]
    if options.out is not None:
        _write(options.out, merged_lines(read_lines(options.out) if options.out.is_file() else [], lines))
    Console().print(_table(lines))
    return 0 if all(line["met"] for line in lines) else 1


def _run(part: Part, work: Path, place: str, minutes_left: float) -> list[dict[str, Any]]:
    """Lines of a part; if it fails or no time is left, the lines say so."""
    if minutes_left < part.minutes / 2:  # the estimate includes making graphs and videos in a first run
        return _without_figures(part, f"no time left: takes about {part.minutes:g} of the {minutes_left:.1f} min")
    print(f"benchmarks: {place}: {part.name}, about {part.minutes:g} min", file=sys.stderr, flush=True)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "lines.jsonl"
        command = [sys.executable, "-m", "benchmarks", "--only", part.name, "--work", str(work), "--lines", str(out)]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, errors="replace") as process:
            last = _pass_on(process)
        took = f"{part.name}: {(time.monotonic() - started) / 60:.1f} min"
        if process.returncode or not out.is_file():
            print(f"benchmarks: {took}, failed with {process.returncode}", file=sys.stderr)
            return _without_figures(part, f"failed: {last[-_SAID:] or f'exit code {process.returncode}'}")
        print(f"benchmarks: {took}", file=sys.stderr, flush=True)
        return read_lines(out)


def _pass_on(process: subprocess.Popen[str]) -> str:
    """Forward the stderr of a part; its last line, which for a traceback names the error."""
    last = ""
    assert process.stderr is not None
    try:
        for line in process.stderr:
            sys.stderr.write(line)
            sys.stderr.flush()
            last = line.strip() or last
    except KeyboardInterrupt:
        process.terminate()
        raise
    return last


def _measure_here(parts: Sequence[Part], work: Path, out: Path) -> None:
    """Measure parts in this process and write their lines; everything printed goes to stderr."""
    work.mkdir(parents=True, exist_ok=True)
    with contextlib.redirect_stdout(sys.stderr):
        _write(out, [line for part in parts for line in measure_part(part, work)])


def measure_part(part: Part, work: Path) -> list[dict[str, Any]]:
    """A line for each goal of a part; if it cannot be measured on this machine, the lines say why."""
    measure: Callable[[Path], dict[str, Figure]] = getattr(importlib.import_module(part.module), part.function)
    try:
        figures = measure(work)
    except NotMeasuredError as error:
        return _without_figures(part, str(error))
    return [goal_line(goal, figures[goal.key]) for goal in part.goals]


def _write(path: Path, lines: Iterable[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def _without_figures(part: Part, reason: str) -> list[dict[str, Any]]:
    return [goal_line(goal, None, reason) for goal in part.goals]


def _table(lines: Iterable[dict[str, Any]]) -> Table:
    table = Table("goal", "wanted", "measured", "met", "where the time goes, or why there is no figure")
    for what, wanted, measured, met, note in goal_rows(lines):
        verdict = Text(met.strip("*"), style="green" if met == "yes" else "red")
        table.add_row(Text(what), wanted, measured, verdict, Text(note, overflow="fold"))
    return table


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_names, default=(), metavar="PART[,PART]", help="measure only these parts")
    parser.add_argument("--minutes", type=float, default=25.0, help="start no part that would take longer (25)")
    parser.add_argument("--list", action="store_true", help="list the parts and their duration, and measure nothing")
    parser.add_argument("--work", type=Path, default=WORK, help=f"folder for graphs and videos ({WORK})")
    parser.add_argument(
        "--out", type=Path, help="file to write the lines to; replaces those of the same goals and processor"
    )
    parser.add_argument("--lines", type=Path, help=argparse.SUPPRESS)  # for the process that measures one part
    options = parser.parse_args(arguments)
    if options.out is not None and not options.out.parent.is_dir():
        parser.error(f"--out {options.out}: there is no folder {options.out.parent}")
    return options


def _names(given: str) -> tuple[str, ...]:
    names, known = tuple(given.split(",")), [part.name for part in PARTS]
    for name in names:
        if name not in known:
            raise argparse.ArgumentTypeError(f"{name!r} is not one of {', '.join(known)}")
    return names


if __name__ == "__main__":
    sys.exit(main())
