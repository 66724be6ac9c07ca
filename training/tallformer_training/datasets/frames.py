"""Clips of frames of a video: only those that are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SamplingConfig
from tallformer_infer.media import open_video

Pixels = NDArray[np.uint8]


class FrameSource(Protocol):
    """Gives clips of videos, from any thread."""

    def read_clips(self, path: Path, start_frames: Sequence[int], clip_frames: int) -> Pixels:
        """Read clips of one video.

        Args:
            path: The video.
            start_frames: First frame of each of K clips; clips may overlap and reach beyond the video.
            clip_frames: Frames F per clip.

        Returns:
            RGB, zero beyond the video, shape (K, F, side, side, 3), where side is that of `stored_sampling`.
        """
        ...


def stored_sampling(sampling: SamplingConfig) -> SamplingConfig:
    """How frames are taken for training: as the recipe says, but without the last crop, which augmentation makes.

    Pictures are squares: the whole picture for `squash`, its middle for `short_side`; for `none`, where the picture's
    size is unknown, it stays at the recipe's crop.
    """
    return sampling if sampling.resize == "none" else replace(sampling, crop_px=sampling.resize_px)


def fill_clips(
    frames: Iterable[tuple[int, Pixels]], start_frames: Sequence[int], clip_frames: int, side_px: int
) -> Pixels:
    """Put numbered frames to their places in clips, shape (K, F, side, side, 3); what is not given is zero."""
    clips = np.zeros((len(start_frames), clip_frames, side_px, side_px, 3), np.uint8)
    for number, frame in frames:
        for clip, start in zip(clips, start_frames, strict=True):
            if start <= number < start + clip_frames:
                clip[number - start] = frame
    return clips


class DecodedFrames:
    """Decodes a video anew for every window, up to the end of the last clip that is needed."""

    def __init__(self, sampling: SamplingConfig) -> None:
        """Take frames as `stored_sampling(sampling)` says."""
        self._sampling = stored_sampling(sampling)

    def read_clips(self, path: Path, start_frames: Sequence[int], clip_frames: int) -> Pixels:
        """See `FrameSource.read_clips`."""
        end = max(start_frames, default=0) + clip_frames
        side_px = self._sampling.crop_px
        if not len(start_frames) or end <= 0:
            return fill_clips((), start_frames, clip_frames, side_px)
        with open_video(path, self._sampling, threads=1) as stream:
            numbered = zip(range(end), stream, strict=False)
            return fill_clips(numbered, start_frames, clip_frames, side_px)

    def count_frames(self, path: Path) -> int:
        """Decode the whole video and count its frames."""
        with open_video(path, self._sampling, threads=None) as stream:
            return sum(1 for _ in stream)
