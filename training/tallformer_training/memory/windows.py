"""From encoded and remembered clips to the feature sequence of a window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_training.memory.bank import OUTSIDE, Memory


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a batch."""

    video: str
    """Name of the video in the memory."""
    first_step: int
    """Feature step of the video in which the window starts; may be negative.

    For a window that starts at an odd frame it is the frame's number over the stride, rounded down, as in the official
    code: for reading and writing alike.
    """
    encoded_clips: tuple[int, ...]
    """Clips of the window that are encoded, each once; the others come from the memory."""


def read_windows(
    memory: Memory, windows: Sequence[Window], *, clips: int, clip_steps: int, step_number: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """Read the clips of a batch that are not encoded.

    Args:
        memory: Where to read.
        windows: The batch.
        clips: Clips per window.
        clip_steps: Feature steps per clip.
        step_number: The training step now, for the ages.

    Returns:
        Features with zeros for clips to be encoded and outside the video, float32, shape (B, C, clips * clip_steps);
        ages in training steps with `OUTSIDE` there, shape (B, clips * clip_steps), for `staleness`.
    """
    channels = memory.manifest.channels
    features = np.zeros((len(windows), clips, channels, clip_steps), np.float32)
    ages = np.full((len(windows), clips, clip_steps), OUTSIDE, np.int64)
    for index, window in enumerate(windows):
        remembered = [clip for clip in range(clips) if clip not in window.encoded_clips]
        rows = memory.read(
            window.video,
            [window.first_step + clip * clip_steps for clip in remembered],
            clip_steps,
            step_number=step_number,
        )
        features[index, remembered] = rows.features
        ages[index, remembered] = rows.ages_steps
    total = clips * clip_steps
    sequences = features.swapaxes(1, 2).reshape(len(windows), channels, total)
    return torch.from_numpy(sequences), ages.reshape(len(windows), total)


def join_windows(remembered: Tensor, encoded: Tensor, windows: Sequence[Window]) -> Tensor:
    """Put encoded clips in their places; gradients flow to `encoded` only.

    Args:
        remembered: From `read_windows`, on the device of `encoded`, shape (B, C, clips * clip_steps).
        encoded: Encoded clips of the first window, then of the second and so on, shape (N, C, clip_steps).
        windows: The batch.

    Returns:
        Features of the windows, shape (B, C, clips * clip_steps).
    """
    batch, channels, total = remembered.shape
    rows = [index for index, window in enumerate(windows) for _ in window.encoded_clips]
    places = [clip for window in windows for clip in window.encoded_clips]
    if len(places) != len(encoded):
        raise ValueError(f"expected {len(places)} encoded clips for these windows, got {encoded.shape = }")
    if not places:
        return remembered
    clips = remembered.reshape(batch, channels, -1, encoded.shape[-1]).transpose(1, 2)  # (B, clips, C, clip_steps)
    index = (torch.tensor(rows, device=encoded.device), torch.tensor(places, device=encoded.device))
    joined = clips.to(encoded.dtype).index_put(index, encoded)
    return joined.transpose(1, 2).reshape(batch, channels, total)
