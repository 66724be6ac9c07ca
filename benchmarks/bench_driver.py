"""What does the driver of `label` cost per video, in an empty archive and in a large one?

    python -m benchmarks.bench_driver >> benchmarks/results/label.jsonl

Workers are replaced by immediate answers, so that only the driver is timed: database, result files and the limit of
the store, from the first finished video to the last. 500 videos are added to an archive without and with 100,000
finished videos, and to a store without and with their 200,000 files; a line for each.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Timing, report
from tallformer_infer.archive.database import DATABASE, ArchiveDatabase
from tallformer_infer.archive.places import ResultFolder
from tallformer_infer.archive.run import Run, RunParts, plan
from tallformer_infer.archive.sources import FoundSource
from tallformer_infer.archive.tasks import Event, Finished, Identified, IdentifyTask, LabelSettings, Task, Totals
from tallformer_infer.bundle import load_bundle
from tallformer_infer.commands.progress import JsonWatcher
from tallformer_infer.pipeline import Detector
from tallformer_infer.results import Selection
from tallformer_infer.structures import Layout, Result
from tallformer_training.synthetic import VideoSpec, write_script, write_video

NEW, DONE, REPEATS = 500, 100_000, 3


class ReadyEngine:
    """One slot that answers at once, always with the same result."""

    slots = 1

    def __init__(self, result: Result) -> None:
        self._result = result
        self._events: deque[Event] = deque()

    def free(self) -> Sequence[int]:
        """The slot."""
        return [0]

    def give(self, slot: int, task: Task) -> None:
        """Answer."""
        done = Finished(self._result, (), 1)
        content = hashlib.sha256(task.source.encode()).hexdigest()
        self._events.append(Identified(f"sha256:{content}", 1, 1) if isinstance(task, IdentifyTask) else done)

    def next_event(self, timeout_s: float) -> tuple[int, Event] | None:
        """The answer."""
        return (0, self._events.popleft()) if self._events else None

    def place(self, slot: int) -> str:
        """No place."""
        return ""

    def close(self) -> None:
        """Do nothing."""


class ClockWatcher(JsonWatcher):
    """Records when each video is finished."""

    def __init__(self, *, quiet: bool) -> None:
        super().__init__(quiet=quiet)
        self.clocks: list[tuple[float, float]] = []

    def done(self, path: str, result: Result, remarks: tuple[str, ...], totals: Totals) -> None:
        """Record wall and processor time."""
        self.clocks.append((time.perf_counter(), time.process_time()))


def main() -> None:
    """Measure, and print JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        spec = VideoSpec(subset="testing", seed=0, index=0, minutes=0.5, fps=15, width_px=96, height_px=96)
        write_video(write_script(spec), work / "video.mp4")
        result = Detector.load("demo", device="cpu").detect(work / "video.mp4", operating_point="none")
        _fill_store(work / "store", DONE)
        for done in (0, DONE):
            _make_archive(work / str(done), done)
            timings = [_label(work / str(done), result, number, work / "store") for number in range(REPEATS)]
            report(
                "label driver per video",
                Timing(tuple(wall_s for wall_s, _ in timings), tuple(cpu_s for _, cpu_s in timings)),
                videos_done_before=done,
                stored_files=2 * done,
                new_videos=NEW,
                actions=len(result.actions),
            )


def _label(out: Path, result: Result, number: int, store: Path) -> tuple[float, float]:
    """Wall and processor time per video, from the first to the last of a run over new videos."""
    watcher = ClockWatcher(quiet=True)
    bundle, layout, selection = load_bundle(None), Layout("shared"), Selection()
    settings = LabelSettings(
        model=str(bundle.path),
        bundle_sha256=bundle.sha256,
        device="cpu",
        threads=1,
        layout=layout,
        selection=selection,
        static_tolerance=0.0,
        store=out / "store" if out.name == "0" else store,
        longest_factor=30,
    )
    found = [FoundSource(f"/videos/new-{number}-{video}.mp4", f"new-{number}-{video}.mp4") for video in range(NEW)]
    with ArchiveDatabase(out, writes=True) as database:
        parts = RunParts(
            database=database,
            bundle=bundle,
            settings=settings,
            place=ResultFolder(out),
            formats=("json",),
            watcher=watcher,
            max_attempts=1,
            store_bytes=1 << 40,
        )
        run = Run(parts, plan(parts, found))
        run.work(ReadyEngine(result))
        assert run.totals.done == len(watcher.clocks) == NEW
        (began_s, began_cpu_s), (ended_s, ended_cpu_s) = watcher.clocks[0], watcher.clocks[-1]
        return (ended_s - began_s) / (NEW - 1), (ended_cpu_s - began_cpu_s) / (NEW - 1)


def _make_archive(out: Path, count: int) -> None:
    """Make an archive of finished videos with two actions each."""
    out.mkdir()
    with ArchiveDatabase(out, writes=True) as database:
        database.add((f"/videos/{number}.mp4", f"{number}.mp4", f"{number}.mp4", False) for number in range(count))
    with sqlite3.connect(out / DATABASE) as change:
        change.execute("UPDATE videos SET status = 'done', content = 'sha256:' || id, size_bytes = 1, mtime_ns = 1")
        change.execute("INSERT INTO labels VALUES (1, 'wave')")
        change.execute(
            "WITH RECURSIVE numbers(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM numbers WHERE n < 1) "
            "INSERT INTO actions (video_id, label_id, start_s, end_s, score) SELECT id, 1, n, n + 1, 0.5 "
            "FROM videos, numbers"
        )
    change.close()


def _fill_store(folder: Path, videos: int) -> None:
    for number in range(256):
        (folder / f"{number:02x}").mkdir(parents=True)
    for number in range(videos):
        key = hashlib.sha256(str(number).encode()).hexdigest()
        for ending in ("features", "candidates"):
            os.close(os.open(f"{folder}/{key[:2]}/{key}.{ending}", os.O_CREAT | os.O_WRONLY))


if __name__ == "__main__":
    main()
