"""Which candidates no later window can change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.structures import Candidates


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
