"""Frames to clips: what the encoder sees at once.

Note [clip grids]
    Windows of 480 frames that step by 352 start on the same grid of 32-frame clips, so every clip is cut, and encoded,
    once (`shared`). The official code steps by 360 frames, which is not a multiple of the clip: neighbouring windows
    cut their common frames differently, and those frames are encoded twice (`reference`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import WindowConfig
from tallformer_infer.structures import Windows


@dataclass(frozen=True)
class Clip:
    """Consecutive frames of a video."""

    start_frame: int
    """First frame, counted from the start of the video."""
    frames: NDArray[np.uint8]
    """RGB pixels, shape (F, H, W, 3); zero beyond the end of the video."""
    real_frames: int
    """Frames that belong to the video, 1 to F."""


def cut_clips(frames: Iterable[NDArray[np.uint8]], window: WindowConfig, windows: Windows) -> Iterator[Clip]:
    """Cut a stream of frames into clips on the grid of its windows, see Note [clip grids].

    Args:
        frames: RGB frames of one size, shape (H, W, 3).
        window: Lengths of windows and clips.
        windows: Which grid.

    Yields:
        Clips by rising start; the last ones may be partly beyond the end of the video.
    """
    step = step_frames(window, windows)
    open_clips: list[tuple[int, NDArray[np.uint8]]] = []
    count = 0
    for count, frame in enumerate(frames, start=1):
        index = count - 1
        if _starts_clip(index, window, step):
            open_clips.append((index, np.zeros((window.clip_frames, *frame.shape), np.uint8)))
        for start, pixels in open_clips:
            pixels[index - start] = frame
        if open_clips and count - open_clips[0][0] == window.clip_frames:
            yield Clip(*open_clips.pop(0), window.clip_frames)
    for start, pixels in open_clips:
        yield Clip(start, pixels, count - start)


def step_frames(window: WindowConfig, windows: Windows) -> int:
    """Frames between the starts of neighbouring windows."""
    return window.shared_step_frames if windows == "shared" else window.reference_step_frames


def _starts_clip(frame: int, window: WindowConfig, step: int) -> bool:
    last_clip = window.window_frames - window.clip_frames
    newest_window = frame // step
    oldest_window = max(-((last_clip - frame) // step), 0)
    return any((frame - step * index) % window.clip_frames == 0 for index in range(oldest_window, newest_window + 1))
