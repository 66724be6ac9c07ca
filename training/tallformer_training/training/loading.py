"""Clips of the windows of coming steps, read ahead in threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tallformer_training.datasets import FrameSource
from tallformer_training.training.plan import PlannedWindow

_AHEAD = 2
Source = TypeVar("Source")
Result = TypeVar("Result")


@dataclass(frozen=True, eq=False)
class LoadedWindow:
    """A window with the pixels of its encoded clips; the others are not read."""

    window: PlannedWindow
    """The window."""
    pixels: NDArray[np.uint8]
    """RGB, zero beyond the video, shape (K, F, H, W, 3)."""
    real_frames: NDArray[np.int64]
    """Frames of each clip up to the end of the video, shape (K,)."""
    lead_frames: NDArray[np.int64] | None = None
    """Frames of each clip in front of the video, shape (K,); None where there are none."""


def load_window(source: FrameSource, path: Path, window: PlannedWindow, *, clip_frames: int) -> LoadedWindow:
    """Read the encoded clips of one window.

    Args:
        source: Where frames come from.
        path: The window's video.
        window: The window.
        clip_frames: Frames per clip.
    """
    starts = np.array(window.encoded_clips, np.int64) * clip_frames
    pixels = source.read_clips(path, (starts + window.start_frame).tolist(), clip_frames)
    real_frames = np.clip(window.real_frames - starts, 0, clip_frames)
    lead_frames = np.clip(-window.start_frame - starts, 0, clip_frames) if window.start_frame < 0 else None
    return LoadedWindow(window, pixels, real_frames, lead_frames)


def run_ahead(
    items: Iterable[Source], work: Callable[[Source], Result], *, threads: int, ahead: int = _AHEAD
) -> Iterator[Result]:
    """`work` of every item, in order, begun in threads before it is asked for.

    Args:
        items: What to work on.
        work: Runs in a thread; what it raises is raised here.
        threads: How many threads.
        ahead: Items begun ahead, at most.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="tallformer-load") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
