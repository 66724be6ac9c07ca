"""Runs of `label` for tests: the real driver and the real worker's function, in this process."""

from __future__ import annotations

import dataclasses
import json
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.labelling import Labeller
from tallformer_infer.archive.places import ResultFolder, ResultPlace
from tallformer_infer.archive.run import Run, RunParts, plan
from tallformer_infer.archive.sources import find_sources
from tallformer_infer.archive.stages import describe_scores
from tallformer_infer.archive.tasks import Event, LabelSettings, LabelTask, Task
from tallformer_infer.bundle import bundled_models, load_bundle
from tallformer_infer.commands.progress import JsonWatcher
from tallformer_infer.evaluation import read_class_scores
from tallformer_infer.results import Selection
from tallformer_infer.structures import Layout, Windows

ALL = Selection()


class InlineEngine:
    """One slot; a task is done as soon as it is given."""

    slots = 1

    def __init__(self, settings: LabelSettings) -> None:
        self._labeller = Labeller(settings)
        self._events: deque[Event] = deque()
        self.tasks: list[Task] = []

    def free(self) -> list[int]:
        return [0]

    def give(self, slot: int, task: Task) -> None:
        self.tasks.append(task)
        self._events.append(self._labeller.do(task, self._events.append))

    def next_event(self, timeout_s: float) -> tuple[int, Event] | None:
        return (0, self._events.popleft()) if self._events else None

    def place(self, slot: int) -> str:
        return "here"

    def close(self) -> None:
        """Nothing to end."""


@dataclasses.dataclass
class Done:
    """What a run did."""

    run: Run
    engine: InlineEngine

    @property
    def labelled(self) -> int:
        """Videos that a worker was asked to label."""
        return sum(isinstance(task, LabelTask) for task in self.engine.tasks)

    @property
    def encoded(self) -> int:
        """Clips that went through the encoder."""
        return self.run.totals.clips_encoded


def label(
    *sources: Path | str,
    out: Path,
    model: Path | None = None,
    selection: Selection = ALL,
    store: Path | str | None = "inside",
    static_tolerance: float = 0.0,
    max_attempts: int = 3,
    store_bytes: int = 1 << 40,
    windows: Windows = "shared",
    factors: tuple[int, ...] = (1,),
    place: ResultPlace | None = None,
    class_scores: Path | None = None,
) -> Done:
    """Label sources as the command does."""
    out.mkdir(parents=True, exist_ok=True)
    bundle = load_bundle(model)
    layout = Layout(windows, factors)
    given = None if class_scores is None else read_class_scores(class_scores)
    scores = None if given is None else describe_scores(given, bundle.recipe)
    settings = LabelSettings(
        model=str(bundle.path),
        bundle_sha256=bundle.sha256,
        device="cpu",
        threads=1,
        layout=layout,
        selection=selection,
        static_tolerance=static_tolerance,
        store=out / "store" if store == "inside" else store,
        longest_factor=30,
        scores=scores,
    )
    with ArchiveDatabase(out, writes=True) as database:
        parts = RunParts(
            database=database,
            bundle=bundle,
            settings=settings,
            place=place or ResultFolder(out),
            formats=("json",),
            watcher=JsonWatcher(quiet=True),
            max_attempts=max_attempts,
            store_bytes=store_bytes,
            class_scores=given,
        )
        found = find_sources([str(source) for source in sources], without=[out])
        done = Done(Run(parts, plan(parts, found)), InlineEngine(settings))
        done.run.conclude_stored()
        done.run.work(done.engine)
        done.run.write_left()
        return done


def start(source: Path, out: Path, *options: str, **how: Any) -> subprocess.Popen[str]:
    """Start the command; `how` goes to `Popen`."""
    told = ["--json-logs", "--model", "demo"]
    command = [sys.executable, "-m", "tallformer_infer", "label", str(source), "--out", str(out), *told, *options]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **how)


def content_of(out: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Everything in the database and the result files that does not tell of time spent or places."""
    with ArchiveDatabase(out) as database:
        rows = {}
        for row in database.videos():
            value = dataclasses.asdict(row)
            for name in ("id", "started_at", "finished_at"):
                del value[name]
            if value["result"] is not None:
                del value["result"]["timings"]
            rows[row.source] = {**value, "actions": database.actions_of(row.id)}
    files = {}
    for path in sorted((out / "results").rglob("*.json")):
        document = json.loads(path.read_text())
        for video in document["videos"]:
            del video["timings_s"]
        files[str(path.relative_to(out))] = document
    return rows, files


def demo_with(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the bundled model, its description changed."""
    copied = Path(shutil.copytree(bundled_models()["demo"], folder))
    description = json.loads((copied / "bundle.json").read_text())
    description.pop("description_sha256", None)
    change(description)
    (copied / "bundle.json").write_text(json.dumps(description))
    return copied
