"""Sample the clips of a window that are encoded; the others come from memory.

# Note [equal refresh]
`stratified` encodes all clips of a video equally often: the counts of any two clips of a video never differ by more
than one. It also chooses the window, because clips that are encoded together must be in one window. The remaining clips
of a round can always be divided, in order of time, into groups of K that fit into a window: blocks that fit into a
window, each with a multiple of K clips, are cut greedily from the front, and the next K clips are drawn from a random
block. The last group of a round, with fewer than K clips, is filled with clips of the next round. In a video longer
than a window this needs at least 2K - 1 clips per window, that is r up to about a half. For larger r, clips near the
ends of a video, which are in fewer windows, may be encoded less often.

Source: own design. `random` and `uniform` select what the official TALLFormer code selects (commit 5519140,
Apache-2.0), `jittered` what its ActivityNet variant does (behaviour only).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Literal, TypedDict, assert_never

import numpy as np
from numpy.typing import NDArray

Sampling = Literal["random", "uniform", "jittered", "stratified"]
Clips = NDArray[np.int64]
"""Clips of a window, rising, each once, shape (K,)."""


def encoded_count(clips: int, ratio: float) -> int:
    """Clips of a window to encode, K: 2 of 15 for 0.15, none for 0, all for 1.

    Args:
        clips: Clips per window.
        ratio: Share to encode, r in [0, 1].
    """
    if not 0 <= ratio <= 1:
        raise ValueError(f"expected {ratio = } in [0, 1]")
    return int(clips * ratio)


def random_clips(clips: int, count: int, generator: np.random.Generator | np.random.RandomState) -> Clips:
    """`count` different clips, all equally likely; a `RandomState` gives the official code's choice for its seed."""
    return np.sort(generator.choice(clips, count, replace=False)).astype(np.int64)


def uniform_clips(clips: int, count: int) -> Clips:
    """`count` equidistant clips including the first and the last, always the same."""
    return np.floor(np.linspace(0, clips - 1, count)).astype(np.int64)


def jittered_clips(clips: int, ratio: float, generator: np.random.Generator | np.random.RandomState) -> Clips:
    """Equidistant clips, each moved by a random share of the distance; fewer if two coincide."""
    count = encoded_count(clips, ratio)
    if count in (0, clips):
        return np.arange(count)
    starts = np.linspace(0, clips - 1, count, endpoint=False)
    moved = starts + generator.uniform(0, (clips - 1) / (clips * ratio), count)
    return np.unique(np.clip(np.floor(moved), 0, clips - 1).astype(np.int64))


class VideoState(TypedDict):
    """State of `stratified` for a video, as JSON."""

    draws: int
    """Windows drawn so far."""
    refreshed: list[int]
    """How often each clip was encoded."""


class ClipSampler:
    """Draws windows and their encoded clips for a data set, the same for the same seed.

    Every process of a run has a sampler with the same arguments, and draws for the windows of *all* processes, in the
    order of ranks: so all know the clips of all, and no two windows of a step share a random number.
    """

    def __init__(
        self, mode: Sampling, video_clips: Mapping[str, int], *, window_clips: int, ratio: float, seed: int
    ) -> None:
        """Start with clips that were never encoded.

        Args:
            mode: Sampling mode.
            video_clips: Clips of every video, the last partial one included, at least 1.
            window_clips: Clips per window n.
            ratio: Share of a window to encode, r in [0, 1].
            seed: Seed of the draws.
        """
        self.mode = mode
        self.video_clips = dict(video_clips)
        self.window_clips = window_clips
        self.ratio = ratio
        self.count = encoded_count(window_clips, ratio)
        self.seed = seed
        self._refreshed = {name: np.zeros(clips, np.int64) for name, clips in self.video_clips.items()}
        self._draws = dict.fromkeys(self.video_clips, 0)

    def draw_window(self, video: str) -> tuple[int, Clips]:
        """Choose a window of a video, and its clips to encode.

        Returns:
            First clip of the window, and the clips to encode, counted from it. Windows are inside the video if it is
            long enough. A window of a shorter video starts at clip 0, and clips past the end are never drawn.
        """
        generator = self._generator(video)
        last = max(self.video_clips[video] - self.window_clips, 0)
        first = int(generator.integers(last + 1))
        if self.mode != "stratified":
            return first, self._draw(video, first, generator)
        group = self._group(video, generator)
        if len(group):
            lowest, highest = int(group.min()), int(group.max())
            first = int(generator.integers(max(highest - self.window_clips + 1, 0), min(lowest, last) + 1))
        return first, self._draw(video, first, generator, group)

    def draw_clips(self, video: str, first_clip: int) -> Clips:
        """Choose the clips to encode in a given window.

        `stratified` chooses those that were encoded least often.

        Args:
            video: Name of the video.
            first_clip: First clip of the window; may be negative or past the end.

        Returns:
            Clips inside the video, counted from `first_clip`.
        """
        return self._draw(video, first_clip, self._generator(video))

    def refreshed(self, video: str) -> Clips:
        """How often each clip of a video was drawn, shape (clips,)."""
        return self._refreshed[video].copy()

    def state(self) -> dict[str, VideoState]:
        """State to resume from, as JSON."""
        return {
            name: VideoState(draws=self._draws[name], refreshed=self._refreshed[name].tolist())
            for name in self.video_clips
        }

    def restore(self, state: Mapping[str, VideoState]) -> None:
        """Resume from a state.

        Raises:
            ValueError: The state belongs to other videos.
        """
        if {name: len(video["refreshed"]) for name, video in state.items()} != self.video_clips:
            raise ValueError("expected the state of a sampler for the same videos and clips")
        self._draws = {name: state[name]["draws"] for name in self.video_clips}
        self._refreshed = {name: np.array(state[name]["refreshed"], np.int64) for name in self.video_clips}

    def _generator(self, video: str) -> np.random.Generator:
        """Random generator that depends only on the seed, the video and how often it was drawn."""
        name = int.from_bytes(hashlib.sha256(video.encode()).digest()[:8], "little")
        generator = np.random.default_rng([self.seed, name, self._draws[video]])
        self._draws[video] += 1
        return generator

    def _draw(self, video: str, first_clip: int, generator: np.random.Generator, group: Clips | None = None) -> Clips:
        low = max(-first_clip, 0)
        high = min(self.video_clips[video] - first_clip, self.window_clips)
        clips = max(high - low, 0)
        count = min(self.count, clips)
        match self.mode:
            case "random":
                drawn = random_clips(clips, count, generator)
            case "uniform":
                drawn = uniform_clips(clips, count)
            case "jittered":
                drawn = jittered_clips(clips, self.ratio, generator) if clips else np.arange(0)
            case "stratified":
                drawn = self._least_refreshed(video, first_clip + low, clips, generator, group)
            case _:
                assert_never(self.mode)
        self._refreshed[video][first_clip + low + drawn] += 1
        return drawn + low

    def _least_refreshed(
        self, video: str, first: int, clips: int, generator: np.random.Generator, group: Clips | None
    ) -> Clips:
        counts = self._refreshed[video][first : first + clips].astype(np.float64)
        if group is not None:
            counts[group - first] = -math.inf
        order = np.lexsort((generator.permutation(clips), counts))  # by count, ties at random
        return np.sort(order[: min(self.count, clips)])

    def _group(self, video: str, generator: np.random.Generator) -> Clips:
        """Up to K clips of this round in one window; see Note [equal refresh]."""
        counts = self._refreshed[video]
        left = np.flatnonzero(counts == counts.min())
        count = min(self.count, len(counts))
        if not count:
            return left[:0]
        blocks = []
        while len(left):
            near = int(np.searchsorted(left, left[0] + self.window_clips))
            size = near if near == len(left) or near < count else near // count * count
            blocks.append(left[:size])
            left = left[size:]
        whole = [block for block in blocks if len(block) >= count] or blocks
        sizes = np.array([len(block) for block in whole])
        block = whole[int(generator.choice(len(whole), p=sizes / sizes.sum()))]
        return generator.choice(block, min(count, len(block)), replace=False)
