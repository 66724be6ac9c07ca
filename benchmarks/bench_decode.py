"""How fast does the reader decode, beside ffmpeg's command line, OpenCV, decord and torchcodec, and by picture height?

    python -m benchmarks.bench_decode > benchmarks/results/decode.jsonl
    python -m benchmarks.bench_decode --heights > benchmarks/results/decode_heights.jsonl

Readers: the video of `bench_detect` (60 s, 1280 x 720, 30 frames per second, h264), to 15 per second and to 256 and
64 px. Each reader is used as its documentation shows for this purpose, with its default number of threads. Readers that
are not installed are left out, and a line says why: OpenCV comes with `pip install '.[bench]'`, ffmpeg with the system;
decord and torchcodec (0.13 is the last for CPUs) have to be installed separately. `everything` is our reader, decoding
also the frames that it drops; see the note in `tallformer_infer/media/decoding.py`. The pictures of every reader are
compared with ours first. Then the readers take turns; processor time covers all threads and ffmpeg's process.

Heights: what one core needs for an hour of video. Generated videos of 10 s (`--seconds`) at 30 frames per second, h264,
read as the THUMOS14 recipes do (15 per second, 256 px), on one thread, as `tallformer label` reads with a worker per
core; with and without `everything`. The cost of a frame grows with its bits, too; the line holds the bit rate.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from benchmarks.bench_detect import VIDEO, video_in
from benchmarks.goals import Figure, NotMeasuredError
from benchmarks.measure import Call, Timing, children_cpu_s, paired, report, take_turns
from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import decoding, open_video
from tallformer_training.synthetic import VideoSpec, write_script, write_video

SAMPLE_FPS = 15
SIDES_PX = (256, 64)
HEIGHTS_PX = (360, 720, 1080)
HEIGHTS_FPS = 30
ROUNDS, ROUNDS_OF_HEIGHTS = 7, 3
OURS, EVERYTHING = "tallformer", "everything"
BATCH_FRAMES = 32
"""Pictures requested at once from the libraries that return several: a clip."""

Pictures = Iterator[NDArray[np.uint8]]


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which pictures to read."""

    path: Path
    source_fps: int
    source_frames: int
    sample_fps: int
    side_px: int
    """Width and height of a picture; the aspect ratio is ignored."""
    threads: int | None = None
    """Threads of our reader; None lets it choose."""

    @property
    def chosen(self) -> list[int]:
        """Source frame of each picture: the last one that rounds to its time, halves up."""
        step = Fraction(self.sample_fps, self.source_fps)
        points = [int(frame * step + Fraction(1, 2)) for frame in range(self.source_frames)]
        last = {point: frame for frame, point in enumerate(points)}
        end = int(self.source_frames * step + Fraction(1, 2))
        return [frame for point, frame in last.items() if point < end]


@dataclass(frozen=True)
class Way:
    """One reader."""

    name: str
    version: str
    read: Callable[[Task], Pictures]


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line per reader and size, or per height; and one for each reader that is not installed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, help=f"timed rounds ({ROUNDS}; heights: {ROUNDS_OF_HEIGHTS})")
    parser.add_argument("--sides", type=int, nargs="+", default=SIDES_PX, help="width and height of a picture, px")
    parser.add_argument("--video", type=Path, help="the video of bench_detect, if it exists already")
    parser.add_argument("--heights", type=int, nargs="*", help=f"measure videos of these heights {HEIGHTS_PX}, px")
    parser.add_argument("--seconds", type=int, default=10, help="length of the videos of --heights")
    chosen = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as work:
        if chosen.heights is not None:
            for height_px in chosen.heights or HEIGHTS_PX:
                _time_height(Path(work), height_px, chosen.seconds, chosen.rounds or ROUNDS_OF_HEIGHTS)
        else:
            _time_readers(chosen.video or video_in(Path(work)), chosen.sides, chosen.rounds or ROUNDS)


def goal(work: Path) -> dict[str, Figure]:
    """Our rate over that of the fastest other reader that is installed, at 256 px.

    Raises:
        NotMeasuredError: No other reader is installed.
    """
    ways, left_out = find_ways()
    missing = f"; not there: {', '.join(left_out)}" if left_out else ""
    if len(ways) == 1:
        raise NotMeasuredError(f"nothing to compare with{missing}")
    task = task_of(video_in(work), 256)
    compare(ways, task)
    timings = time_ways(ways, task, rounds=5)
    medians = {name: timing.spread.median for name, timing in timings.items()}
    fastest = min((name for name in medians if name != OURS), key=lambda name: medians[name])
    rates = ", ".join(f"{name} {task.source_frames / medians[name]:.0f}" for name in medians)
    ratio = paired(timings[fastest].wall_s, timings[OURS].wall_s)
    return {"fastest": Figure.of(ratio, f"source frames per second: {rates}{missing}")}


def _time_readers(video: Path, sides_px: Sequence[int], rounds: int) -> None:
    ways, left_out = find_ways()
    for name, reason in left_out.items():
        print(json.dumps({"name": "decode_left_out", "way": name, "reason": reason}), flush=True)
    ways.append(Way(EVERYTHING, ways[0].version, read_everything))
    for side_px in sides_px:
        task = task_of(video, side_px)
        compared = compare(ways, task)
        timings = time_ways(ways, task, rounds=rounds)
        for way in ways:
            _report(way, task, timings, compared[way.name])


def _time_height(work: Path, height_px: int, seconds: int, rounds: int) -> None:
    spec = VideoSpec(
        subset="testing",
        seed=0,
        index=0,
        minutes=seconds / 60,
        fps=HEIGHTS_FPS,
        width_px=height_px * 16 // 9,
        height_px=height_px,
    )
    path = work / f"{height_px}.mp4"
    write_video(write_script(spec), path)
    task = Task(path=path, source_fps=HEIGHTS_FPS, source_frames=spec.frames, sample_fps=15, side_px=256, threads=1)
    ways = [Way(OURS, "", read_ours), Way(EVERYTHING, "", read_everything)]
    for name, timing in time_ways(ways, task, rounds=rounds).items():
        cpu_s = sorted(timing.cpu_s)[len(timing.cpu_s) // 2]
        report(
            "decode_height",
            timing,
            way=name,
            height_px=height_px,
            source_fps=HEIGHTS_FPS,
            seconds=seconds,
            megabit_per_s=round(8e-6 * path.stat().st_size / seconds, 2),
            core_s_per_hour=round(3600 * cpu_s / seconds, 1),
        )


def task_of(path: Path, side_px: int) -> Task:
    """The pictures that the benchmark requests."""
    return Task(path=path, source_fps=VIDEO.fps, source_frames=VIDEO.frames, sample_fps=SAMPLE_FPS, side_px=side_px)


def find_ways() -> tuple[list[Way], dict[str, str]]:
    """The installed readers, ours first, and why each other one is missing."""
    ways = [Way("tallformer", f"PyAV {metadata.version('av')}", read_ours)]
    left_out: dict[str, str] = {}
    program = shutil.which("ffmpeg")
    if program:
        shown = subprocess.run([program, "-version"], capture_output=True, text=True, check=True).stdout
        found = re.match(r"ffmpeg version (\S+)", shown)
        ways.append(Way("ffmpeg", found[1] if found else "of unknown version", read_by_ffmpeg))
    else:
        left_out["ffmpeg"] = "no such program on the path"
    for name, module, read in (
        ("OpenCV", "cv2", read_by_opencv),
        ("decord", "decord", read_by_decord),
        ("torchcodec", "torchcodec.decoders", read_by_torchcodec),
    ):
        try:
            import_module(module)
        except (ImportError, OSError, RuntimeError) as error:  # torchcodec raises RuntimeError if it finds no FFmpeg
            left_out[name] = f"cannot be imported: {str(error).strip().splitlines()[0]}"
        else:
            package = "opencv-contrib-python-headless" if module == "cv2" else module.partition(".")[0]
            ways.append(Way(name, metadata.version(package), read))
    return ways, left_out


def read_ours(task: Task) -> Pictures:
    """This project's reader."""
    sampling = SamplingConfig(sample_fps=task.sample_fps, resize="squash", resize_px=task.side_px, crop_px=task.side_px)
    with open_video(task.path, sampling, threads=task.threads) as video:
        yield from video


def read_by_ffmpeg(task: Task) -> Pictures:
    """The command with which the reference extracts frames, through a pipe instead of files."""
    filters = f"fps={task.sample_fps}:round=near,scale={task.side_px}:{task.side_px}:flags=bicubic"
    arguments = ["-v", "error", "-nostdin", "-i", task.path, "-an", "-vf", filters, "-pix_fmt", "rgb24"]
    size = 3 * task.side_px**2
    with subprocess.Popen(["ffmpeg", *arguments, "-f", "rawvideo", "-"], stdout=subprocess.PIPE, bufsize=size) as run:
        assert run.stdout is not None
        while len(data := run.stdout.read(size)) == size:
            yield np.frombuffer(data, np.uint8).reshape(task.side_px, task.side_px, 3)


def read_by_opencv(task: Task) -> Pictures:
    """`grab` for every frame, `retrieve` for the chosen ones, bicubic as ours."""
    cv2 = import_module("cv2")
    chosen = set(task.chosen)
    capture = cv2.VideoCapture(str(task.path))
    for frame in range(task.source_frames):
        if not capture.grab():
            break
        if frame in chosen:
            _, picture = capture.retrieve()
            small = cv2.resize(picture, (task.side_px, task.side_px), interpolation=cv2.INTER_CUBIC)
            yield cv2.cvtColor(small, cv2.COLOR_BGR2RGB)
    capture.release()


def read_by_decord(task: Task) -> Pictures:
    """`get_batch`, resized by decord (bilinear, the only choice)."""
    decord = import_module("decord")
    video = decord.VideoReader(str(task.path), ctx=decord.cpu(0), width=task.side_px, height=task.side_px)
    for batch in _batches(task.chosen):
        yield from video.get_batch(batch).asnumpy()


def read_by_torchcodec(task: Task) -> Pictures:
    """`get_frames_at`, resized by torchcodec (bilinear), with a thread per core; its default is one thread."""
    decoders, transforms = import_module("torchcodec.decoders"), import_module("torchcodec.transforms")
    video: Any = decoders.VideoDecoder(
        str(task.path),
        dimension_order="NHWC",
        num_ffmpeg_threads=0,
        transforms=[transforms.Resize((task.side_px, task.side_px))],
    )
    for batch in _batches(task.chosen):
        yield from video.get_frames_at(batch).data.numpy()


def _batches(chosen: list[int]) -> Iterator[list[int]]:
    return (chosen[start : start + BATCH_FRAMES] for start in range(0, len(chosen), BATCH_FRAMES))


def read_everything(task: Task) -> Pictures:
    """Our reader, decoding also the frames that it drops."""
    with mock.patch.object(decoding, "SKIPPED_CODECS", frozenset()):
        yield from read_ours(task)


def compare(ways: Sequence[Way], task: Task) -> dict[str, dict[str, Any]]:
    """How far the pictures of each reader are from ours, in levels of 0 to 255.

    Raises:
        SystemExit: The number of pictures or the source frames differ, or our own reader gives other pixels when it
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
    """Time every reader once per round."""
    calls = take_turns({way.name: partial(_timed, way, task) for way in ways}, rounds=rounds, warmups=0)
    return {name: Timing.of(found) for name, found in calls.items()}


def _timed(way: Way, task: Task, _: int) -> Call:
    """Read all pictures once; processor time includes child processes."""
    wall_s, cpu_s = time.perf_counter(), _processor_s()
    deque(way.read(task), maxlen=0)
    return Call(time.perf_counter() - wall_s, _processor_s() - cpu_s)


def _processor_s() -> float:
    """Processor time of this process and of finished child processes, in seconds."""
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
