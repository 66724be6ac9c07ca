"""Ways to decode a video to pictures of one size and rate: ours, and those it is compared with.

Each is used as its documentation shows for this purpose, with as many threads as it takes by itself.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video

Pictures = Iterator[NDArray[np.uint8]]
BATCH_FRAMES = 32
"""Pictures asked of the libraries that give several at once: a clip."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """Which pictures are wanted."""

    path: Path
    source_fps: int
    source_frames: int
    sample_fps: int
    side_px: int
    """Width and height, whatever the shape of the video."""
    threads: int | None = None
    """Of our reader; None lets it choose."""

    @property
    def chosen(self) -> list[int]:
        """Source frames that are taken: for each picture the last that rounds to its time, halves up."""
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


def find_ways() -> tuple[list[Way], dict[str, str]]:
    """What is there to compare, ours first, and for each that is not there the reason."""
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
        except (ImportError, OSError, RuntimeError) as error:  # torchcodec raises the last where it finds no FFmpeg
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
    """The command that the reference extracts frames with, through a pipe instead of files."""
    filters = f"fps={task.sample_fps}:round=near,scale={task.side_px}:{task.side_px}:flags=bicubic"
    arguments = ["-v", "error", "-nostdin", "-i", task.path, "-an", "-vf", filters, "-pix_fmt", "rgb24"]
    size = 3 * task.side_px**2
    with subprocess.Popen(["ffmpeg", *arguments, "-f", "rawvideo", "-"], stdout=subprocess.PIPE, bufsize=size) as run:
        assert run.stdout is not None
        while len(data := run.stdout.read(size)) == size:
            yield np.frombuffer(data, np.uint8).reshape(task.side_px, task.side_px, 3)


def read_by_opencv(task: Task) -> Pictures:
    """`grab` for every frame, `retrieve` for those that are taken, bicubic as ours."""
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
    """`get_batch`, resized by decord (bilinear, it has no other)."""
    decord = import_module("decord")
    video = decord.VideoReader(str(task.path), ctx=decord.cpu(0), width=task.side_px, height=task.side_px)
    for batch in _batches(task.chosen):
        yield from video.get_batch(batch).asnumpy()


def read_by_torchcodec(task: Task) -> Pictures:
    """`get_frames_at`, resized by torchcodec (bilinear), with a thread per core: its own choice is one thread."""
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
