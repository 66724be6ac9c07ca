"""Feature steps of clips to overlapping windows of feature steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import WindowConfig


@dataclass(frozen=True)
class FeatureWindow:
    """What the localizer sees at once."""

    start_frame: int
    """First frame, counted from the start of the video."""
    real_frames: int
    """Frames that belong to the video, 1 to the window's length."""
    features: NDArray[np.float32]
    """Feature steps, shape (C, S)."""


class Timeline:
    """Collects the features of clips and gives out windows as soon as they are whole.

    Windows start at 0, step, 2·step, …; the first that reaches the end of the video is the last. It is filled up with
    the features of an empty clip. Features are kept only as long as a coming window needs them.
    """

    def __init__(self, window: WindowConfig, step_frames: int) -> None:
        self._window = window
        self._step = step_frames
        self._clips: dict[int, NDArray[np.float32]] = {}
        self._next_start = 0
        self._frames = 0

    @property
    def next_start_frame(self) -> int:
        """First frame of the next window that will be given out."""
        return self._next_start

    def add(self, start_frame: int, real_frames: int, features: NDArray[np.float32]) -> Iterator[FeatureWindow]:
        """Take the features of one clip, shape (C, clip steps), and give out the windows that it completes.

        Clips come by rising start.
        """
        self._clips[start_frame] = features
        self._frames = max(self._frames, start_frame + real_frames)
        while self._next_start + self._window.window_frames <= self._frames and self._has_all_clips():
            yield self._take(self._window.window_frames, None)

    def finish(self, empty: Callable[[], NDArray[np.float32]]) -> Iterator[FeatureWindow]:
        """Give out what is left, after the last clip.

        Args:
            empty: Gives the features of a clip beyond the end of the video, shape (C, clip steps); called at most once.
        """
        filler: NDArray[np.float32] | None = None
        while self._frames and self._reaches_beyond_the_windows_before():
            if filler is None and not self._has_all_clips():
                filler = empty()
            yield self._take(min(self._window.window_frames, self._frames - self._next_start), filler)

    def _reaches_beyond_the_windows_before(self) -> bool:
        if self._next_start == 0:
            return True
        end_before = self._next_start - self._step + self._window.window_frames
        return end_before < self._frames

    def _has_all_clips(self) -> bool:
        return all(start in self._clips for start in self._clip_starts())

    def _clip_starts(self) -> range:
        return range(self._next_start, self._next_start + self._window.window_frames, self._window.clip_frames)

    def _take(self, real_frames: int, filler: NDArray[np.float32] | None) -> FeatureWindow:
        parts = []
        for start in self._clip_starts():
            part = self._clips.get(start) if start < self._frames else filler
            assert part is not None, f"no features for the clip at frame {start}"
            parts.append(part)
        window = FeatureWindow(self._next_start, real_frames, np.concatenate(parts, axis=1))
        self._next_start += self._step
        self._clips = {start: part for start, part in self._clips.items() if start >= self._next_start}
        return window
