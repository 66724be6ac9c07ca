"""Run the remaining ablations within a time limit.

    python -m benchmarks.ablations --list                     list runs and their state
    python -m benchmarks.ablations --minutes 30               run the rest; repeat to continue
    python -m benchmarks.ablations --minutes 30 --init base=encoder.safetensors --only ratio
    python -m benchmarks.ablations --recipes DIR              write the recipes of the initial encoders
    python -m benchmarks.tables                               write the tables of docs/ablations.md

An interrupted run is resumed. Encoders that are not given (`--init`) are trained first.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.ablations.groups import BASE, GROUPS
from benchmarks.ablations.plan import Plan, whole_plan
from benchmarks.ablations.results import RESULTS_FILE
from benchmarks.ablations.running import Place, Progress, is_done, run_folder, run_plan
from tallformer_infer.config import to_json
from tallformer_infer.errors import ConfigError, TallformerError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, list, or write the recipes of the starts; returns 1 after an error."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    plan = whole_plan()
    try:
        place = Place(out=options.out, results=options.results, starts=_starts(options.init, plan), jobs=options.jobs)
        if options.recipes is not None:
            write_recipes(plan, options.recipes)
        elif options.list:
            sys.stdout.write("".join(f"{line}\n" for line in listed(plan, place, options.only)))
        else:
            end_s = time.monotonic() + 60 * options.minutes
            _say(run_plan(plan, place, only=options.only, until=lambda: time.monotonic() > end_s))
    except TallformerError as error:
        sys.stderr.write(f"benchmarks.ablations: {error}\n")
        return 1
    return 0


def write_recipes(plan: Plan, folder: Path) -> None:
    """Write the recipe of every start as `NAME.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, recipe in plan.starts().items():
        path = folder / f"{name}.json"
        path.write_text(json.dumps(to_json(recipe), indent=1) + "\n", encoding="utf-8")
        sys.stdout.write(f"{path}\n")


def listed(plan: Plan, place: Place, only: Sequence[str] = ()) -> list[str]:
    """A line for every run: name, state, start, and the groups it belongs to."""
    lines = []
    for run in plan.runs(only):
        groups = [group.name for group in GROUPS if any(row.variant == run.variant.name for row in group.rows)]
        if is_done(run, plan, place):
            state = "measured"
        else:
            state = "begun" if run_folder(place, run.name).exists() else "to do"
        lines.append(f"{run.name}\t{state}\tfrom {run.variant.start}\t{', '.join(groups)}")
    return lines


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ablations", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/ablations"), help="folder of videos, frames and runs")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of this call")
    parser.add_argument(
        "--init", action="append", default=[], metavar="[NAME=]CHECKPOINT", help="encoder to start from"
    )
    parser.add_argument(
        "--only", action="append", default=[], metavar="NAME", help="group or variant to run; repeatable"
    )
    parser.add_argument("--list", action="store_true", help="list the runs and exit")
    parser.add_argument("--recipes", type=Path, metavar="DIR", help="write the recipe of every start and exit")
    parser.add_argument("--results", type=Path, default=RESULTS_FILE, help="file of the results")
    parser.add_argument("--threads", type=int, default=cores, help="torch threads")
    parser.add_argument("--jobs", type=int, default=cores, help="processes that make videos")
    return parser.parse_args(arguments)


def _starts(given: Sequence[str], plan: Plan) -> dict[str, Path]:
    starts = {}
    for text in given:
        name, found, path = text.rpartition("=")
        starts[name if found else BASE] = Path(path)
    for name, checkpoint in starts.items():
        if name not in plan.starts():
            raise ConfigError(f"--init {name}={checkpoint}: no such start; there are {', '.join(plan.starts())}")
        if not checkpoint.is_file():
            raise ConfigError(f"--init {name}={checkpoint}: no such file")
    return starts


def _say(progress: Progress) -> None:
    sys.stderr.write(
        f"finished now: {', '.join(progress.finished) or 'none'}; {len(progress.left)} left"
        + (f", {progress.left[0]} first; repeat the command to continue" if progress.left else "")
        + "\n"
    )


if __name__ == "__main__":
    sys.exit(main())
