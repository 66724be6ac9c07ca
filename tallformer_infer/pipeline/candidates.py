"""The candidates of a video so far: of all rates, bounded, and which of them are final.

# Note [which rate answers for what]
A lower rate sees less of short actions, and its boundaries are coarser. It answers for what windows of the next higher
rate may cut: actions longer than two neighbouring windows share; all others are whole in one of them. A rate finds
pieces of what its windows cut, and suppression leaves them beside the whole, as they overlap it too little. So where a
lower rate follows, a rate answers for actions of up to half a window only. Measured on generated videos, see
`docs/demo.md`.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import WindowConfig
from tallformer_infer.structures import Candidates


def length_ranges(window: WindowConfig, step_frames: int, factors: tuple[int, ...]) -> dict[int, tuple[float, float]]:
    """Shortest and longest candidates that count at each factor, in frames; see Note [which rate answers for what].

    Args:
        window: Length of windows.
        step_frames: Between their starts.
        factors: Rising.
    """
    shared_frames = window.window_frames - step_frames
    half_frames = max(window.window_frames / 2, shared_frames)  # no length may be left to nobody
    shortest = [0.0, *(float(factor * shared_frames) for factor in factors[:-1])]
    longest = [*(factor * half_frames for factor in factors[:-1]), math.inf]
    return dict(zip(factors, zip(shortest, longest, strict=True), strict=True))


def in_video_frames(
    candidates: Candidates, factor: int, *, lengths_frames: tuple[float, float], frames: int
) -> Candidates:
    """Candidates of a window in frames of the video, without those that another rate answers for.

    Args:
        candidates: In frames of the window's rate.
        factor: Frames of the video in each.
        lengths_frames: Shortest and longest that count.
        frames: Of the video so far; a window of a lower rate may end up to `factor` frames later.
    """
    segments = candidates.segments_frames
    if factor > 1:
        segments = np.minimum(segments * np.float32(factor), np.float32(frames))
    scaled = Candidates(segments, candidates.scores, candidates.classes)
    lengths = segments[:, 1] - segments[:, 0]
    return scaled.take((lengths >= lengths_frames[0]) & (lengths <= lengths_frames[1]))


class CandidatePool:
    """Collects candidates and keeps the best `limit` of them.

    A trained model has a few candidates per second above its score threshold, and the limit is never reached. It is
    there for what is not: random weights, a threshold near 0, a day of video.
    """

    def __init__(self, limit: int | None) -> None:
        """Start empty; a `limit` of None keeps all."""
        self._limit = limit
        self._parts: list[Candidates] = []
        self._count = 0

    def add(self, candidates: Candidates) -> None:
        """Take candidates, which come after all taken before."""
        self._parts.append(candidates)
        self._count += len(candidates)
        if self._limit is not None and self._count > 2 * self._limit:
            self.replace(best_candidates(Candidates.concatenate(self._parts), self._limit))

    def all(self) -> Candidates:
        """The best candidates, in the order in which they came."""
        candidates = Candidates.concatenate(self._parts)
        return best_candidates(candidates, self._limit)

    def replace(self, candidates: Candidates) -> None:
        """Hold these instead of all taken so far."""
        self._parts = [candidates]
        self._count = len(candidates)


class CandidatePools:
    """A pool for each rate, so that none of them crowds out another."""

    def __init__(self, limit: int | None, factors: tuple[int, ...]) -> None:
        """Start empty; `limit` is that of each."""
        self._pools = {factor: CandidatePool(limit) for factor in factors}

    def add(self, factor: int, candidates: Candidates) -> None:
        """Take candidates of a rate, in frames of the video."""
        self._pools[factor].add(candidates)

    def all(self) -> Candidates:
        """The best candidates of every rate, one rate after another."""
        return Candidates.concatenate([pool.all() for pool in self._pools.values()])

    def take_settled(self, next_start_frame: float) -> Candidates:
        """Take out those that no later candidate can change, see `are_settled`."""
        parts = [pool.all() for pool in self._pools.values()]
        candidates = Candidates.concatenate(parts)
        settled = are_settled(candidates, next_start_frame)
        ends = np.cumsum([len(part) for part in parts])
        for pool, part, own in zip(self._pools.values(), parts, np.split(settled, ends[:-1]), strict=True):
            pool.replace(part.take(~own))
        return candidates.take(settled)


def best_candidates(candidates: Candidates, limit: int | None) -> Candidates:
    """The `limit` of highest score, of equal scores the earlier, in the order given; None: all."""
    if limit is None or len(candidates) <= limit:
        return candidates
    order = np.argsort(-candidates.scores, kind="stable")[:limit]
    return candidates.take(np.sort(order))


def are_settled(candidates: Candidates, next_start_frame: float) -> NDArray[np.bool_]:
    """Which candidates' suppression is final; the others wait.

    Suppression acts between overlapping candidates of one class, and along chains of them. A chain that ends at or
    before the start of the next window cannot meet a later candidate, since those start there or after it.

    Args:
        candidates: All that were not settled so far.
        next_start_frame: Start of the next window; infinite after the last.

    Returns:
        Shape (N,).
    """
    if len(candidates) == 0:
        return np.zeros(0, bool)
    starts, ends = candidates.segments_frames.astype(np.float64).T
    order = np.lexsort((starts, candidates.classes))
    span = max(float(ends.max()) - float(starts.min()), 0.0) + 1.0
    shift = candidates.classes[order] * span  # one time line, the classes one after another
    reach = np.maximum.accumulate(ends[order] + shift)
    begins_chain = np.concatenate([[True], starts[order][1:] + shift[1:] >= reach[:-1]])
    first = np.flatnonzero(begins_chain)
    chain = np.cumsum(begins_chain) - 1
    chain_end = np.maximum.reduceat(ends[order], first)[chain]
    settled = np.empty(len(candidates), bool)
    settled[order] = chain_end <= next_start_frame
    return settled
