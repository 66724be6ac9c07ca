"""Divide a video: frames into clips for the encoder, and feature steps into windows for the localizer.

# Note [clip grids]
Windows of 480 frames that step by 352 start on the same grid of 32-frame clips, so every clip is cut, and encoded, once
(`shared`). The official code steps by 360 frames, which is not a multiple of the clip: neighbouring windows cut their
common frames differently, and those frames are encoded twice (`reference`).

# Note [feature rates]
The localizer finds actions that are shorter than its window. At a lower rate, `factor` feature steps are averaged into
one, so a window with the same number of steps covers `factor` times the time, and the same weights find longer actions.
Only features are averaged: every frame is decoded, and every clip encoded, once for all rates. `factor` clips become
one clip of the lower rate; at the end of the video, empty clips fill the group. Windows of a lower rate count in its
frames: frame 1 of factor 3 is frame 3 of the video.
"""

from __future__ import annotations

import copy
import functools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

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


@dataclass(frozen=True)
class FeatureWindow:
    """Input of the localizer."""

    start_frame: int
    """First frame, counted from the start of the video, in frames of the window's rate."""
    real_frames: int
    """Frames of the window's rate that belong to the video, 1 to the window's length."""
    features: NDArray[np.float32]
    """Feature steps, shape (C, S)."""
    factor: int = 1
    """Frames of the video per frame of the window, see Note [feature rates]."""


Empty = Callable[[], NDArray[np.float32]]
"""Returns the features of a clip beyond the end of the video, shape (C, clip steps)."""


def pool_steps(features: NDArray[np.float32], factor: int) -> NDArray[np.float32]:
    """Averages of `factor` feature steps each: (C, S) to (C, S / factor); S must be a multiple."""
    channels, steps = features.shape
    pooled: NDArray[np.float32] = features.reshape(channels, steps // factor, factor).mean(axis=2)
    return pooled


class Timelines:
    """The windows of a video at one rate or several, see Note [feature rates]."""

    def __init__(self, window: WindowConfig, step_frames: int, factors: tuple[int, ...] = (1,)) -> None:
        self._rates = [_PooledTimeline(Timeline(window, step_frames), factor) for factor in factors]
        self.frames = 0
        """Frames of the video so far."""

    @property
    def next_start_frame(self) -> int:
        """First frame of the video that a later window can use."""
        return min(rate.next_start_frame for rate in self._rates)

    def add(self, start_frame: int, real_frames: int, features: NDArray[np.float32]) -> Iterator[FeatureWindow]:
        """Take the features of one clip, shape (C, clip steps), and yield the windows that it completes.

        Clips come by rising start; without gap or overlap where there is a factor above 1.
        """
        self.frames = max(self.frames, start_frame + real_frames)
        for rate in self._rates:
            yield from rate.add(start_frame, real_frames, features)

    def needs_empty(self, frames: int) -> bool:
        """Whether `finish` will call `empty` after so many frames. Of several rates it nearly always does."""
        return frames > 0 and any(rate.needs_empty(frames) for rate in self._rates)

    def finish(self, empty: Empty) -> Iterator[FeatureWindow]:
        """Yield the remaining windows after the last clip; `empty` is called at most once."""
        empty = functools.cache(empty)
        for rate in self._rates:
            yield from rate.finish(empty)

    def if_ended(self, empty: Empty) -> Iterator[FeatureWindow]:
        """Yield what `finish` would if the video ended here; it may go on, since nothing changes."""
        yield from copy.deepcopy(self).finish(empty)


class _PooledTimeline:
    """The windows of one rate."""

    def __init__(self, timeline: Timeline, factor: int) -> None:
        self._timeline = timeline
        self._factor = factor
        self._waiting: list[NDArray[np.float32]] = []
        self._start = self._real = 0

    @property
    def next_start_frame(self) -> int:
        return self._timeline.next_start_frame * self._factor

    def add(self, start_frame: int, real_frames: int, features: NDArray[np.float32]) -> Iterator[FeatureWindow]:
        if self._factor == 1:
            yield from self._timeline.add(start_frame, real_frames, features)
            return
        if not self._waiting:
            self._start, self._real = start_frame, 0
        self._waiting.append(features)
        self._real += real_frames
        if len(self._waiting) == self._factor:
            yield from self._pool()

    def needs_empty(self, frames: int) -> bool:
        return self._factor != 1 or self._timeline.needs_empty(frames)

    def finish(self, empty: Empty) -> Iterator[FeatureWindow]:
        if self._factor == 1:
            yield from self._timeline.finish(empty)
            return
        if self._waiting:
            self._waiting += [empty()] * (self._factor - len(self._waiting))
            yield from self._pool()
        for window in self._timeline.finish(lambda: pool_steps(np.tile(empty(), self._factor), self._factor)):
            yield replace(window, factor=self._factor)

    def _pool(self) -> Iterator[FeatureWindow]:
        """Average the waiting clips into one."""
        features = pool_steps(np.concatenate(self._waiting, axis=1), self._factor)
        self._waiting = []
        real_frames = -(-self._real // self._factor)
        for window in self._timeline.add(self._start // self._factor, real_frames, features):
            yield replace(window, factor=self._factor)


class Timeline:
    """Collect the features of clips and yield windows as soon as they are complete.

    Windows start at 0, step, 2·step, …; the first that reaches the end of the video (with `ends_partly`, beyond it) is
    the last. It is padded with the features of an empty clip. Features are kept only as long as a coming window
    needs them.
    """

    def __init__(self, window: WindowConfig, step_frames: int) -> None:
        self._window = window
        self._beyond = 1 if window.ends_partly else 0  # frames of the last window that must be behind the video's end
        self._step = step_frames
        self._clips: dict[int, NDArray[np.float32]] = {}
        self._next_start = 0
        self._frames = 0

    @property
    def next_start_frame(self) -> int:
        """First frame of the next window."""
        return self._next_start

    def add(self, start_frame: int, real_frames: int, features: NDArray[np.float32]) -> Iterator[FeatureWindow]:
        """Take the features of one clip, shape (C, clip steps), and yield the windows that it completes.

        Clips come by rising start.
        """
        self._clips[start_frame] = features
        self._frames = max(self._frames, start_frame + real_frames)
        while self._next_start + self._window.window_frames <= self._frames and self._has_all_clips():
            yield self._take(self._window.window_frames, None)

    def needs_empty(self, frames: int) -> bool:
        """Whether the last window of a video of so many frames, 1 or more, has a clip beyond its end."""
        wanted = frames + self._beyond - self._window.window_frames
        last_window = max(-(-wanted // self._step), 0) * self._step
        return last_window + self._window.window_frames - self._window.clip_frames >= frames

    def finish(self, empty: Empty) -> Iterator[FeatureWindow]:
        """Yield the remaining windows after the last clip.

        Args:
            empty: Features of a clip beyond the end of the video, shape (C, clip steps); called at most once.
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
        return end_before < self._frames + self._beyond

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
