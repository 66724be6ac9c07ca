"""The candidates of a video so far, bounded so that memory does not grow with its length."""

from __future__ import annotations

import numpy as np

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


def _best(candidates: Candidates, limit: int) -> Candidates:
    """The `limit` of highest score, of equal scores the earlier, in the order given."""
    if len(candidates) <= limit:
        return candidates
    order = np.argsort(-candidates.scores, kind="stable")[:limit]
    return candidates.take(np.sort(order))
