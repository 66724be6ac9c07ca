"""How long does `label` take if there is little or nothing to do?

    python -m benchmarks.bench_archive >> benchmarks/results/label.jsonl

200 generated videos of 6 s and, if present, every file of `../shared/videos` are labelled once; then the same command
and one with another threshold run in turn, timed from start to end including Python and its imports. A line for each,
with the results of the files. On a shared machine, look at the processor time.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from benchmarks.measure import Timing, children_cpu_s, report
from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_training.synthetic import VideoSpec, write_script, write_video

VIDEOS, REPEATS = 200, 3
SHARED_VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"
"""Real and unusual videos beside the repository, if present."""


def main(videos: Path | None = None) -> None:
    """Measure, and print JSON lines; `videos` is a folder of `write_videos`."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        _compare_runs(videos or write_videos(work / "videos"), work / "out")


def write_videos(folder: Path) -> Path:
    """Make a folder of 200 videos of 6 s, 96 x 96, 15 frames per second."""
    folder.mkdir()
    for index in range(VIDEOS):
        spec = VideoSpec(subset="testing", seed=0, index=index, minutes=0.1, fps=15, width_px=96, height_px=96)
        write_video(write_script(spec), folder / f"{index}.mp4")
    return folder


def _compare_runs(videos: Path, out: Path) -> None:
    sources = [str(videos), *([str(SHARED_VIDEOS)] if SHARED_VIDEOS.is_dir() else [])]
    runs: dict[str, list[tuple[float, float]]] = {"first": [_label(sources, out)], "again": [], "threshold": []}
    threshold: list[str] = []
    for number in range(REPEATS):
        runs["again"].append(_label(sources, out, *threshold))
        threshold = ["--threshold", f"{0.3 + number / 100:.2f}"]
        runs["threshold"].append(_label(sources, out, *threshold))
    with ArchiveDatabase(out) as database:
        rows = database.videos()
    for name, times in runs.items():
        report(
            "label again",
            Timing(tuple(wall_s for wall_s, _ in times), tuple(cpu_s for _, cpu_s in times)),
            run=name,
            videos=f"{VIDEOS} of 6 s, 96x96, and {len(rows) - VIDEOS} odd files",
            recipe="demo",
            rows=dict(Counter(row.status for row in rows)),
            reasons=[row.error.rpartition("/")[2] for row in rows if row.status == "failed" and row.error],
        )


def _label(sources: list[str], out: Path, *options: str) -> tuple[float, float]:
    """Wall and processor time of a run, including child processes, in seconds."""
    command = [
        sys.executable,
        "-m",
        "tallformer_infer",
        "label",
        *sources,
        "--model",
        "demo",
        "--out",
        str(out),
        "--quiet",
        *options,
    ]
    started, cpu = time.perf_counter(), children_cpu_s()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wall_s, cpu_s = time.perf_counter() - started, children_cpu_s() - cpu
    if done.returncode not in (0, 1) or "Traceback" in done.stderr:  # 1: a file is not a video
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-2000:]}")
    return wall_s, cpu_s


if __name__ == "__main__":
    main()
