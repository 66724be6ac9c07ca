"""The memory at the start of a run: every clip of every training video, encoded once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from tallformer_infer.config import Recipe
from tallformer_training.datasets import FrameSource, TrainingVideo
from tallformer_training.memory import Memory, MemoryBuilder, encoder_fingerprint
from tallformer_training.model import Detector
from tallformer_training.training.config import TrainingConfig
from tallformer_training.training.plan import MIRRORED, memory_clips
from tallformer_training.training.processes import Processes
from tallformer_training.training.validation import encode_video


def make_first_memory(
    folder: Path,
    detector: Detector,
    source: FrameSource,
    videos: Sequence[TrainingVideo],
    frames: Mapping[str, int],
    *,
    config: TrainingConfig,
    processes: Processes,
    on_clips: Callable[[int], None] = lambda _: None,
) -> None:
    """Make the memory, or go on making it; all processes call it, and share the work.

    Rows cover whole clips: a last partial clip is filled up with frames that are zero after normalisation, as at test
    time, and all its feature steps are kept. The encoder is in evaluation mode; the official code encodes with
    stochastic depth.

    Args:
        folder: Where the finished memory will be; nothing is done if it is there.
        detector: With the weights that training starts from.
        source: Where frames come from.
        videos: All training videos.
        frames: Their lengths, by name.
        config: Whether to encode at all, number format, mirrored videos.
        processes: Those that make it together.
        on_clips: Called with the number of clips done.
    """
    recipe = detector.recipe
    clips = memory_clips(frames, config, clip_frames=recipe.window.clip_frames)
    if not folder.exists():
        builder = MemoryBuilder(
            folder,
            {name: count * recipe.clip_steps for name, count in clips.items()},
            channels=recipe.model.backbone.out_channels,
            dtype=config.memory_dtype,
            fingerprint=encoder_fingerprint(recipe),
            worker=processes.rank,
        )
        processes.barrier()
        by_name = {video.name: video for video in videos}
        detector.eval()
        for entry in builder.missing(workers=processes.count, worker=processes.rank):
            video = by_name[entry.removesuffix(MIRRORED)]
            builder.write(entry, _features(detector, source, video, frames[video.name], entry, config))
            on_clips(clips[entry])
        processes.barrier()
        if processes.is_main:
            builder.finish()
    processes.barrier()


def count_clips(frames: Mapping[str, int], config: TrainingConfig, recipe: Recipe) -> int:
    """Clips that the memory holds."""
    return sum(memory_clips(frames, config, clip_frames=recipe.window.clip_frames).values())


def require_memory(memory: Memory, frames: Mapping[str, int], config: TrainingConfig, recipe: Recipe) -> None:
    """Check that a memory is of these videos.

    Raises:
        LongMemoryError: It is not.
    """
    clips = memory_clips(frames, config, clip_frames=recipe.window.clip_frames)
    steps = {name: count * recipe.clip_steps for name, count in clips.items()}
    memory.require(steps, channels=recipe.model.backbone.out_channels)


def _features(
    detector: Detector, source: FrameSource, video: TrainingVideo, frames: int, entry: str, config: TrainingConfig
) -> np.ndarray:
    """Features of one entry, shape (C, steps)."""
    recipe = detector.recipe
    clips = -(-frames // recipe.window.clip_frames)
    if config.memory_start == "zeros":
        return np.zeros((recipe.model.backbone.out_channels, clips * recipe.clip_steps), np.float32)
    is_mirrored = entry.endswith(MIRRORED)
    parts = [
        encoded.features.float().cpu()
        for encoded in encode_video(detector, source, video.path, frames, is_mirrored=is_mirrored)
    ]
    features: np.ndarray = torch.cat(parts).transpose(0, 1).flatten(1).numpy()  # (C, clips * clip steps)
    return features
