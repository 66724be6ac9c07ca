"""How much faster are more workers, and what is the overhead of `label` over `detect`?

    python -m benchmarks.bench_label [workers] [overhead] >> benchmarks/results/label.jsonl

Both use the model `demo`, whose encoder is small, so that decoding dominates, and run the command line as users do.
`workers`: eight videos of 30 s, 1920 x 1080, 30 frames per second, labelled by one and by two processes of one thread
each, in turn; a line for each, with clips per second between the first worker's first clip and the end. `overhead`: one
video of 10 minutes, 1280 x 720, by `detect` and by `label`, in turn, from start to end of the command.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.goals import Figure
from benchmarks.measure import Timing, children_cpu_s, paired, report, say_round, take_turns
from tallformer_infer.diagnosis.sample_video import copy_packets
from tallformer_training.synthetic import SetSpec, VideoSpec, make_dataset, write_script, write_video

VIDEOS, SECONDS, LONG_MINUTES, REPEATS = 8, 30, 10, 3
MANY = 200
SHARED_VIDEOS = Path(__file__).resolve().parents[2] / "shared" / "videos"
"""Real and unusual videos beside the repository, if present."""
CLIP_S = 32 / 15


@dataclass(frozen=True)
class LabelRun:
    """One run of the command."""

    wall_s: float
    """Seconds from start to end."""
    working_s: float
    """Seconds from the first clip to the end."""
    cpu_s: float
    """Processor time of all processes, in seconds."""


def main(*wanted: str) -> None:
    """Run the named parts, or all, and print JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if not wanted or "workers" in wanted:
            _compare_workers(work)
        if not wanted or "overhead" in wanted:
            _compare_with_detect(work)


def goal(work: Path) -> dict[str, Figure]:
    """Clips per second of two workers over those of one."""
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        runs = _workers_in_turn(_large_videos(Path(scratch)), rounds=2)
    seconds = {workers: [run.working_s for run in done] for workers, done in runs.items()}
    busy = {workers: float(np.median([run.cpu_s / run.wall_s for run in done])) for workers, done in runs.items()}
    return {
        "speed-up": Figure.of(
            paired(seconds[1], seconds[2]), f"processors busy: {busy[1]:.2f} with one, {busy[2]:.2f} with two"
        )
    }


def goal_again(work: Path) -> dict[str, Figure]:
    """Seconds of a second run without anything to do, and of one with another threshold."""
    with tempfile.TemporaryDirectory(dir=work) as scratch:
        videos, out = _many_videos(Path(scratch)), Path(scratch) / "labels"
        first, second, other = (_label_into(videos, out, *options) for options in ((), (), ("--threshold", "0.4")))
        files = sum(1 for _ in videos.iterdir())
    return {
        "second": Figure(value=second, profile=f"{files} files; the first run took {first:.0f} s"),
        "threshold": Figure(value=other, profile="suppression of all that is stored; Python and imports included"),
    }


def _large_videos(work: Path) -> Path:
    """A folder of videos for which decoding takes nearly all of the time."""
    videos = work / "videos"
    videos.mkdir()
    part, first = work / "part.mp4", videos / "0.mp4"
    spec = VideoSpec(subset="testing", seed=0, index=0, minutes=0.1, fps=30, width_px=1920, height_px=1080)
    write_video(write_script(spec), part)
    copy_packets(part, first, times=SECONDS // 6)
    for index in range(1, VIDEOS):
        _write_twin(first, videos / f"{index}.mp4", index)
    return videos


def _workers_in_turn(videos: Path, *, rounds: int) -> dict[int, list[LabelRun]]:
    ways = {
        workers: lambda _, workers=workers: _label(videos, "--workers", str(workers), "--threads", "1")
        for workers in (1, 2)
    }
    return take_turns(ways, rounds=rounds, warmups=0, on_round=partial(say_round, "workers", rounds))


def _compare_workers(work: Path) -> None:
    rates = _workers_in_turn(_large_videos(work), rounds=REPEATS)
    clips = VIDEOS * int(-(-SECONDS // CLIP_S))
    for workers, runs in rates.items():
        seconds = [run.working_s for run in runs]
        report(
            "label workers",
            Timing(tuple(seconds), tuple(run.cpu_s for run in runs)),
            workers=workers,
            threads=1,
            videos=f"{VIDEOS} of {SECONDS} s, 1920x1080, 30 fps, h264",
            recipe="demo",
            clips_per_s=round(clips / float(np.median(seconds)), 2),
            speed_up=round(paired([run.working_s for run in rates[1]], seconds).median, 2),
        )


def _compare_with_detect(work: Path) -> None:
    minute, long = work / "minute.mp4", work / "long.mp4"
    spec = VideoSpec(subset="testing", seed=0, index=0, minutes=1, fps=30, width_px=1280, height_px=720)
    write_video(write_script(spec), minute)
    copy_packets(minute, long, times=LONG_MINUTES)
    ways = {"detect": lambda _: _detect(long, work / "actions.json"), "label": lambda _: _label(long)}
    runs = take_turns(ways, rounds=REPEATS, warmups=0, on_round=partial(say_round, "overhead", REPEATS))
    timings = {
        command: Timing(tuple(run.wall_s for run in done), tuple(run.cpu_s for run in done))
        for command, done in runs.items()
    }
    base = timings["detect"]
    for command, timing in timings.items():
        report(
            "label overhead",
            timing,
            command=command,
            video=f"{LONG_MINUTES} min, 1280x720, 30 fps, h264",
            recipe="demo",
            times_detect=round(paired(timing.wall_s, base.wall_s).median, 3),
            times_detect_cpu=round(paired(timing.cpu_s, base.cpu_s).median, 3),
        )


def _detect(video: Path, out: Path) -> LabelRun:
    started, cpu = time.perf_counter(), children_cpu_s()
    with _process("detect", str(video), "--model", "demo", "--out", str(out), "--json-logs") as events:
        for _ in events:
            pass
    wall_s = time.perf_counter() - started
    return LabelRun(wall_s, wall_s, children_cpu_s() - cpu)


def _label(source: Path, *options: str) -> LabelRun:
    with tempfile.TemporaryDirectory() as out:
        started, cpu = time.perf_counter(), children_cpu_s()
        first = None
        with _process("label", str(source), "--model", "demo", "--out", out, "--json-logs", *options) as events:
            for event in events:
                if first is None and event["event"] == "progress" and event["position_s"]:
                    first = time.perf_counter()
        ended = time.perf_counter()
        return LabelRun(ended - started, ended - (first or started), children_cpu_s() - cpu)


@contextmanager
def _process(*arguments: str) -> Iterator[Iterator[dict[str, object]]]:
    command = [sys.executable, "-m", "tallformer_infer", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        yield (json.loads(line) for line in process.stderr if not lines.append(line))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {lines[-20:]}")


def _many_videos(work: Path) -> Path:
    """200 generated videos of 6 s, twenty of them different; and the unusual ones beside the repository, if present."""
    videos = work / "many"
    made = make_dataset(SetSpec(subset="testing", videos=MANY // 10, seed=22, minutes=0.1), work / "different", jobs=2)
    videos.mkdir()
    for source in sorted(made.parent.rglob("*.mp4")):
        for number in range(MANY // 20):
            _write_twin(source, videos / f"{source.stem}-{number}.mp4", number)
    if SHARED_VIDEOS.is_dir():
        for file in SHARED_VIDEOS.iterdir():
            shutil.copy(file, videos / file.name)
    return videos


def _label_into(videos: Path, out: Path, *options: str) -> float:
    """Seconds from start to end; exit code 1 means that some files are not videos."""
    command = [
        sys.executable,
        "-m",
        "tallformer_infer",
        "label",
        str(videos),
        "--model",
        "demo",
        "--out",
        str(out),
        *options,
    ]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode not in (0, 1):
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr[-500:]}")
    return seconds


def _write_twin(source: Path, target: Path, number: int) -> None:
    """Write another file with the same pictures, by appending an empty box of `number` bytes."""
    target.write_bytes(source.read_bytes() + (8 + number).to_bytes(4) + b"free" + b"\0" * number)


if __name__ == "__main__":
    main(*sys.argv[1:])
