"""Frames for measurements: real videos if present, otherwise generated ones; never noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import VideoReformatter
from numpy.typing import NDArray

from benchmarks.afsd.classifier import FRAME_PX, SNIPPET_FLOWS, SNIPPET_STEP
from benchmarks.afsd.flow import Gray
from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video, probe
from tallformer_training.synthetic import VideoSpec, write_script, write_video

AFSD_PX = 112
"""Side of AFSD's frames, before the crop."""
REAL = (
    "moviepy_chaplin.mp4",
    "torchcodec_nasa_13013.mp4",
    "tfio_small.mp4",
    "skv_bigbuckbunny.mp4",
    "moviepy_fire2.mp4",
    "moviepy_example2.mp4",
)
"""Files of the shared folder with filmed or animated content, without test patterns."""

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Snippet:
    """Input of the classifier for one second: frames of 340 x 256 pixels."""

    frame: Picture
    """RGB, shape (256, 340, 3)."""
    grays: list[Gray]
    """The same frame and the next ones."""


def videos(folder: Path | None, work: Path) -> list[Path]:
    """The real videos of a folder: the known ones, otherwise all .mp4 files; without a folder two generated ones."""
    if folder is not None:
        known = [folder / name for name in REAL if (folder / name).is_file()]
        return known or sorted(folder.glob("*.mp4"))
    files = []
    for index in range(2):
        file = work / f"generated-{index}.mp4"
        if not file.is_file():
            spec = VideoSpec(subset="testing", seed=0, index=index, minutes=0.1, fps=30, width_px=640, height_px=360)
            write_video(write_script(spec), file)
        files.append(file)
    return files


def clip_frames(video: Path, sample_fps: float, *, threads: int) -> list[Picture]:
    """Frames as sampled by AFSD: RGB, 112 x 112, regardless of the aspect ratio."""
    return pictures(video, afsd_sampling(sample_fps), threads=threads)


def afsd_sampling(sample_fps: float) -> SamplingConfig:
    """Sampling of AFSD's frames."""
    return SamplingConfig(sample_fps=sample_fps, resize_px=AFSD_PX, crop_px=AFSD_PX)


def pictures(video: Path, sampling: SamplingConfig, *, threads: int) -> list[Picture]:
    """All frames of a video, sampled by the reader of `detect`."""
    with open_video(video, sampling, threads=threads) as stream:
        return list(stream)


def snippets(video: Path, *, threads: int) -> list[Snippet]:
    """Six frames of every thirty, 340 x 256; an incomplete snippet at the end is left out."""
    shown: list[list[Picture]] = []
    with av.open(str(video)) as container:
        stream = container.streams.video[0]
        stream.codec_context.thread_count = threads
        stream.thread_type = "AUTO"
        # One for all frames, to avoid setting it up, with its threads, for each frame.
        resizer = VideoReformatter()
        for index, frame in enumerate(container.decode(stream)):
            if index % SNIPPET_STEP == 0:
                shown.append([])
            if index % SNIPPET_STEP <= SNIPPET_FLOWS:
                resized = resizer.reformat(frame, *FRAME_PX, "rgb24", threads=1)
                shown[-1].append(resized.to_ndarray())
    whole = [frames for frames in shown if len(frames) == SNIPPET_FLOWS + 1]
    return [Snippet(frames[0], [gray(frame) for frame in frames]) for frames in whole]


def duration_s(video: Path) -> float:
    """Length of a video, by its frames if its header does not say."""
    length = probe(video).duration_s
    return float(length or 0)


def spread(items: Sequence[Picture], count: int) -> list[Picture]:
    """`count` of the items, evenly spaced."""
    return [items[int(index)] for index in np.linspace(0, len(items) - 1, count)]


def gray(picture: Picture) -> Gray:
    """RGB to gray with OpenCV's weights."""
    return np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), np.uint8)
