"""Cut frames into clips, the input of the encoder.

Note [clip grids]
    Windows of 480 frames that step by 352 start on the same grid of 32-frame clips, so every clip is cut, and encoded,
    once (`shared`). The official code steps by 360 frames, which is not a multiple of the clip: neighbouring windows
    cut their common frames differently, and those frames are encoded twice (`reference`).
"""

from __future__ import annotations

from collections import deque
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
        windows: Where windows begin.

    Yields:
        Clips by rising start; the last ones may be partly beyond the end of the video.
    """
    step = step_frames(window, windows)
    waiting: deque[_Cut] = deque()
    count = 0
    for count, frame in enumerate(frames, start=1):
        needed_from = _needed_from(count - 1, window, step)
        if needed_from is not None:
            waiting.append(_Cut(count - 1, np.zeros((window.clip_frames, *frame.shape), np.uint8), needed_from))
        for cut in waiting:
            if count <= cut.start_frame + window.clip_frames:
                cut.pixels[count - 1 - cut.start_frame] = frame
        while waiting and count >= max(waiting[0].needed_from, waiting[0].start_frame + window.clip_frames):
            cut = waiting.popleft()
            yield Clip(cut.start_frame, cut.pixels, window.clip_frames)
    for cut in waiting:
        if count >= cut.needed_from:
            yield Clip(cut.start_frame, cut.pixels, min(count - cut.start_frame, window.clip_frames))


def step_frames(window: WindowConfig, windows: Windows) -> int:
    """Frames between the starts of neighbouring windows."""
    match windows:
        case "shared":
            return window.shared_step_frames
        case "reference":
            return window.reference_step_frames
        case _:
            raise ValueError(f"windows={windows!r}: expected shared or reference")


@dataclass(frozen=True)
class _Cut:
    """A clip that is being filled, or waits for its window."""

    start_frame: int
    pixels: NDArray[np.uint8]
    needed_from: int


def _needed_from(frame: int, window: WindowConfig, step: int) -> int | None:
    """Length of the video from which a clip that starts at `frame` is part of a window; None if none starts there.

    A window exists if the one before does not reach the end of the video, or, with `ends_partly`, beyond it.
    """
    last_clip = window.window_frames - window.clip_frames
    newest_window = frame // step
    oldest_window = max(-((last_clip - frame) // step), 0)
    for index in range(oldest_window, newest_window + 1):
        if (frame - step * index) % window.clip_frames == 0:
            beyond = 0 if window.ends_partly else 1
            return step * (index - 1) + window.window_frames + beyond if index else 0
    return None
