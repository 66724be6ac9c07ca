"""The candidates of a video so far, bounded so that memory does not grow with its length."""

from __future__ import annotations

import numpy as np

from tallformer_infer.pipeline.settling import are_settled
from tallformer_infer.structures import Candidates


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
            self.replace(_best(Candidates.concatenate(self._parts), self._limit))

    def all(self) -> Candidates:
        """The best candidates, in the order in which they came."""
        candidates = Candidates.concatenate(self._parts)
        return candidates if self._limit is None else _best(candidates, self._limit)

    def replace(self, candidates: Candidates) -> None:
        """Hold these instead of all taken so far."""
        self._parts = [candidates]
        self._count = len(candidates)


class RatePools:
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


def _best(candidates: Candidates, limit: int) -> Candidates:
    """The `limit` of highest score, of equal scores the earlier, in the order given."""
    if len(candidates) <= limit:
        return candidates
    order = np.argsort(-candidates.scores, kind="stable")[:limit]
    return candidates.take(np.sort(order))
