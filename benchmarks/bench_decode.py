"""How fast does the reader give pictures, beside ffmpeg's command line, OpenCV, decord and torchcodec?

    python -m benchmarks.bench_decode > benchmarks/results/decode.jsonl

The video of `bench_detect` (60 s, 1280 x 720, 30 frames per second, h264), to 15 per second and to 256 and 64 px. What
is not installed is left out, and its line says why: `pip install '.[bench]'` brings OpenCV, the system ffmpeg; decord
and torchcodec (0.13 is the last for CPUs) are found where Python finds them. `everything` is our reader made to
decode frames that it never shows, which it need not: see the note in `tallformer_infer/media/decoding.py`.

First every way's pictures are compared with ours. Then all take turns, round by round, so that what disturbs one
disturbs the next as well; processor time is that of all threads and of ffmpeg's process.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_detect import VIDEO, video_in
from benchmarks.decode_ways import Pictures, Task, Way, find_ways, read_ours
from benchmarks.measure import Call, Timing, children_cpu_s, report, take_turns
from tallformer_infer.media import decoding

SAMPLE_FPS = 15
SIDES_PX = (256, 64)
ROUNDS = 7
OURS, EVERYTHING = "tallformer", "everything"


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line for each way and size, and one for each way that is not there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES_PX, help="pixels; both sides of a picture")
    parser.add_argument("--video", type=Path, help="the video of bench_detect, where it has been made already")
    chosen = parser.parse_args(arguments)
    ways, left_out = find_ways()
    for name, reason in left_out.items():
        print(json.dumps({"name": "decode_left_out", "way": name, "reason": reason}), flush=True)
    ways.append(Way(EVERYTHING, ways[0].version, read_everything))
    with tempfile.TemporaryDirectory() as work:
        path = chosen.video or video_in(Path(work))
        for side_px in chosen.sides:
            task = task_of(path, side_px)
            compared = compare(ways, task)
            timings = time_ways(ways, task, rounds=chosen.rounds)
            for way in ways:
                _report(way, task, timings, compared[way.name])


def goal(*, rounds: int = 5, side_px: int = 256, video: Path | None = None) -> dict[str, Any]:
    """How our rate compares with the fastest other way that is installed.

    Returns:
        `ratio` and its `quartiles` over the rounds (ours over the fastest other, above 1 where ours is faster), both
        None where nothing is there to compare with; `note`, in words.
    """
    ways, left_out = find_ways()
    missing = f"; not there: {', '.join(left_out)}" if left_out else ""
    if len(ways) == 1:
        return {"ratio": None, "quartiles": None, "note": f"nothing to compare with{missing}"}
    with tempfile.TemporaryDirectory() as work:
        task = task_of(video or video_in(Path(work)), side_px)
        compare(ways, task)
        timings = time_ways(ways, task, rounds=rounds)
    medians = {name: float(np.median(timing.wall_s)) for name, timing in timings.items()}
    fastest = min((name for name in medians if name != OURS), key=lambda name: medians[name])
    ratios = np.array(timings[fastest].wall_s) / np.array(timings[OURS].wall_s)
    rates = ", ".join(f"{name} {task.source_frames / medians[name]:.0f}" for name in medians)
    low, middle, high = (float(value) for value in np.percentile(ratios, [25, 50, 75]))
    return {"ratio": middle, "quartiles": [low, high], "note": f"source frames per second: {rates}{missing}"}


def task_of(path: Path, side_px: int) -> Task:
    """The pictures that the benchmark asks for."""
    return Task(path=path, source_fps=VIDEO.fps, source_frames=VIDEO.frames, sample_fps=SAMPLE_FPS, side_px=side_px)


def read_everything(task: Task) -> Pictures:
    """Our reader, decoding what it never shows as well."""
    with mock.patch.object(decoding, "SKIPPED_CODECS", frozenset()):
        yield from read_ours(task)


def compare(ways: Sequence[Way], task: Task) -> dict[str, dict[str, Any]]:
    """How far each way's pictures are from ours, in levels of 0 to 255.

    Raises:
        SystemExit: Another number of pictures, or other source frames; or our own reader gives other pixels when it
            decodes everything.
    """
    ours = np.stack(list(read_ours(task)))
    found: dict[str, dict[str, Any]] = {}
    for way in ways:
        differences = np.array([_difference(ours, index, other) for index, other in enumerate(way.read(task))])
        if len(differences) != len(ours):
            raise SystemExit(f"{way.name}: {len(differences)} pictures, {len(ours)} of ours")
        means, most = differences[:, 0], int(differences[:, 1].max())
        if means.max() > 8 or (most and way.name == EVERYTHING):
            raise SystemExit(f"{way.name}: pictures differ by {means.max():.1f} levels on average, at most {most}")
        found[way.name] = {"mean_levels": round(float(means.mean()), 3), "most_levels": most}
    return found


def time_ways(ways: Sequence[Way], task: Task, *, rounds: int) -> dict[str, Timing]:
    """Time every way once in each round."""
    calls = take_turns({way.name: partial(_timed, way, task) for way in ways}, rounds=rounds, warmups=0)
    return {name: Timing.of(found) for name, found in calls.items()}


def _timed(way: Way, task: Task, _: int) -> Call:
    """Read all pictures once; the processor time is that of child processes too."""
    wall_s, cpu_s = time.perf_counter(), processor_s()
    deque(way.read(task), maxlen=0)
    return Call(time.perf_counter() - wall_s, processor_s() - cpu_s)


def processor_s() -> float:
    """Processor time of this process and of those that it has waited for, in seconds."""
    return time.process_time() + children_cpu_s()


def _difference(ours: NDArray[np.uint8], index: int, other: NDArray[np.uint8]) -> tuple[float, int]:
    if index >= len(ours):
        return 0.0, 0
    levels = np.abs(ours[index].astype(np.int16) - other)
    return float(levels.mean()), int(levels.max())


def _report(way: Way, task: Task, timings: dict[str, Timing], compared: dict[str, Any]) -> None:
    timing = timings[way.name]
    ratios = np.array(timing.wall_s) / np.array(timings[OURS].wall_s)
    report(
        "decode",
        timing,
        way=way.name,
        version=way.version,
        side_px=task.side_px,
        sample_fps=task.sample_fps,
        video="60 s, 1280x720, 30 fps, h264",
        source_frames_per_s=round(task.source_frames / float(np.median(timing.wall_s)), 1),
        cpu_ms_per_source_frame=round(1e3 * float(np.median(timing.cpu_s)) / task.source_frames, 3),
        times_ours=[round(float(value), 3) for value in np.percentile(ratios, [25, 50, 75])],
        compared=compared,
    )


if __name__ == "__main__":
    main()
