"""What do more workers bring, and what does `label` cost on top of `detect`?

    python -m benchmarks.bench_label [workers] [overhead] >> benchmarks/results/label.jsonl

Both use the bundled model, whose encoder is small, so that decoding dominates, and run the command line as users do.
`workers`: eight videos of 30 s, 1920 x 1080, 30 frames per second, labelled by one and by two processes of one thread
each, in turn; a line for each, with clips per second between the first worker's first clip and the end. `overhead`: one
video of 10 minutes, 1280 x 720, by `detect` and by `label`, in turn, from start to end of the command.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from benchmarks.measure import Timing, report
from tallformer_training.synthetic import VideoSpec, write_script, write_video

VIDEOS, SECONDS, LONG_MINUTES, REPEATS = 8, 30, 10, 3
CLIP_S = 32 / 15


@dataclass(frozen=True)
class LabelRun:
    """One run of the command."""

    wall_s: float
    """From start to end."""
    working_s: float
    """From the first sign of a clip to the end."""
    cpu_s: float
    """Processor time of all its processes."""


def main(*wanted: str) -> None:
    """Run what is wanted, or all, and print JSON lines."""
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        if not wanted or "workers" in wanted:
            _compare_workers(work)
        if not wanted or "overhead" in wanted:
            _compare_with_detect(work)


def _compare_workers(work: Path) -> None:
    videos = work / "videos"
    videos.mkdir()
    part, first = work / "part.mp4", videos / "0.mp4"
    spec = VideoSpec(subset="testing", seed=0, index=0, minutes=0.1, fps=30, width_px=1920, height_px=1080)
    write_video(write_script(spec), part)
    _repeat(part, first, times=SECONDS // 6)
    for index in range(1, VIDEOS):  # an empty box at the end: another file with the same pictures
        (videos / f"{index}.mp4").write_bytes(first.read_bytes() + (8 + index).to_bytes(4) + b"free" + b"\0" * index)
    clips = VIDEOS * int(-(-SECONDS // CLIP_S))
    rates: dict[int, list[LabelRun]] = {1: [], 2: []}
    for _ in range(REPEATS):
        for workers, runs in rates.items():
            runs.append(_label(videos, "--workers", str(workers), "--threads", "1"))
    base = float(np.median([run.working_s for run in rates[1]]))
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
            speed_up=round(base / float(np.median(seconds)), 2),
        )


def _compare_with_detect(work: Path) -> None:
    minute, long = work / "minute.mp4", work / "long.mp4"
    spec = VideoSpec(subset="testing", seed=0, index=0, minutes=1, fps=30, width_px=1280, height_px=720)
    write_video(write_script(spec), minute)
    _repeat(minute, long, times=LONG_MINUTES)
    runs: dict[str, list[LabelRun]] = {"detect": [], "label": []}
    for _ in range(REPEATS):
        runs["detect"].append(_detect(long, work / "actions.json"))
        runs["label"].append(_label(long))
    base = float(np.median([run.wall_s for run in runs["detect"]]))
    for command, done in runs.items():
        seconds = [run.wall_s for run in done]
        report(
            "label overhead",
            Timing(tuple(seconds), tuple(run.cpu_s for run in done)),
            command=command,
            video=f"{LONG_MINUTES} min, 1280x720, 30 fps, h264",
            recipe="demo",
            times_detect=round(float(np.median(seconds)) / base, 3),
        )


def _detect(video: Path, out: Path) -> LabelRun:
    started, cpu = time.perf_counter(), _children_cpu_s()
    with _process("detect", str(video), "--out", str(out), "--json-logs") as events:
        for _ in events:
            pass
    wall_s = time.perf_counter() - started
    return LabelRun(wall_s, wall_s, _children_cpu_s() - cpu)


def _label(source: Path, *options: str) -> LabelRun:
    with tempfile.TemporaryDirectory() as out:
        started, cpu = time.perf_counter(), _children_cpu_s()
        first = None
        with _process("label", str(source), "--out", out, "--json-logs", *options) as events:
            for event in events:
                if first is None and event["event"] == "progress" and event["position_s"]:
                    first = time.perf_counter()
        ended = time.perf_counter()
        return LabelRun(ended - started, ended - (first or started), _children_cpu_s() - cpu)


def _children_cpu_s() -> float:
    times = os.times()
    return times.children_user + times.children_system


@contextmanager
def _process(*arguments: str) -> Iterator[Iterator[dict[str, object]]]:
    command = [sys.executable, "-m", "tallformer_infer", *arguments]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        lines: list[str] = []
        yield (json.loads(line) for line in process.stderr if not lines.append(line))
    if process.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {process.returncode}: {lines[-20:]}")


def _repeat(source: Path, target: Path, *, times: int) -> None:
    """One after another, without encoding again."""
    with av.open(str(target), "w") as out:
        stream = None
        offset = 0
        for _ in range(times):
            with av.open(str(source)) as container:
                video = container.streams.video[0]
                stream = stream or out.add_stream_from_template(video)
                for packet in container.demux(video):
                    if packet.dts is None:
                        continue
                    packet.pts += offset
                    packet.dts += offset
                    packet.stream = stream
                    out.mux(packet)
                offset += video.duration


if __name__ == "__main__":
    main(*sys.argv[1:])
