"""The video for comparing an export with torch: generated from a seed, or the start of the user's own."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import ParitySample, SamplingConfig
from tallformer_infer.errors import MediaError
from tallformer_infer.media import exact_rate, file_sha256, is_regular_file, open_video, probe
from tallformer_infer.timeline import Clip, cut_clips
from tallformer_training.datasets.frames import stored_sampling
from tallformer_training.model import Detector
from tallformer_training.synthetic import VideoSpec, render_frames, write_script

_BUDGET, _BUDGET_FRAMES = 2e12, 32
"""Largest product of encoder weights and pixels of a frame, summed over the frames of clips. Torch on one core takes
about 3 s for 1e12."""
_MOST_CLIPS = 8
"""Largest number of clips of a generated video: with the smallest model comparing takes 2 s, and exporting 15 s."""
_FASTEST_FPS, _SLOWEST_FPS = 120.0, 10.0
"""Rates of generated videos; at other rates the same frames are used, with slower or faster motion."""
_SMALLEST_PX = 32

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class Sample:
    """A video file with exactly the frames of the comparison."""

    path: Path
    """Lossless, at the recipe's rate and size."""
    told: ParitySample
    """Description in the report."""


def check_sample(video: Path) -> None:
    """Refuse an unreadable video before an export of minutes.

    Raises:
        MediaError: It is not a regular file, or cannot be decoded.
    """
    if not is_regular_file(video):
        raise MediaError(f"{video}: expected a video file for the comparison")
    probe(video)


@contextlib.contextmanager
def sample_video(detector: Detector, video: Path | None = None) -> Iterator[Sample]:
    """The video of the comparison, for the duration of the block.

    Args:
        detector: Determines the length of a generated video: two clips for a large model, up to eight for a small one,
            one if windows are single clips. The last clip is half after the end.
        video: A video of the user, whose first two windows are used; None generates one, always the same.

    Raises:
        MediaError: `video` cannot be decoded.
    """
    recipe = detector.recipe
    sampling = stored_sampling(recipe.sampling)
    with tempfile.TemporaryDirectory(prefix="tallformer-parity-") as folder:
        path = Path(folder) / "sample.mkv"
        if video is None:
            count = _write(path, _generate(sampling, generated_frames(detector)), sampling)
            yield Sample(path, ParitySample(source="generated", sha256=None, frames=count))
            return
        most = recipe.window.shared_step_frames + recipe.window.window_frames
        with open_video(video, sampling) as stream:
            count = _write(path, itertools.islice(stream, most), sampling)
        yield Sample(path, ParitySample(source=video.name, sha256=file_sha256(video), frames=count))


def sample_clips(detector: Detector, video: Path | None = None) -> Iterator[Clip]:
    """The clips of `sample_video`, as inputs of the encoder."""
    recipe = detector.recipe
    with sample_video(detector, video) as sample, open_video(sample.path, recipe.sampling) as stream:
        yield from cut_clips(stream, recipe.window, "shared")


def generated_frames(detector: Detector) -> int:
    """Length of the generated video, which depends only on the model, so that reports are reproducible."""
    window = detector.recipe.window
    weights = sum(parameter.numel() for parameter in detector.backbone.parameters())
    cost = weights * detector.recipe.sampling.crop_px**2 * window.clip_frames / _BUDGET_FRAMES
    clips = min(max(int(_BUDGET / cost), min(window.clips, 2)), _MOST_CLIPS)
    return (clips - 1) * window.clip_frames + (window.clip_frames + 1) // 2


def _generate(sampling: SamplingConfig, frames: int) -> Iterator[Picture]:
    side = sampling.crop_px
    even_px = max(side + side % 2, _SMALLEST_PX)
    fps = min(max(sampling.sample_fps, _SLOWEST_FPS), _FASTEST_FPS)
    minutes = max(frames / fps / 60, 0.01)
    spec = VideoSpec(subset="testing", seed=0, index=0, minutes=minutes, fps=fps, width_px=even_px, height_px=even_px)
    for picture in render_frames(write_script(spec), end_frame=frames):
        yield np.ascontiguousarray(picture[:side, :side])


def _write(path: Path, pictures: Iterable[Picture], sampling: SamplingConfig) -> int:
    """Write pictures of one size losslessly; returns their number."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("ffv1", rate=exact_rate(sampling.sample_fps))
        stream.width = stream.height = sampling.crop_px
        stream.pix_fmt = "bgr0"
        count = 0
        for picture in pictures:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
            count += 1
        container.mux(stream.encode())
    return count
