"""Hard suppression and non-maximum weighting: both keep the best of what overlaps, one of them moves it."""

from __future__ import annotations

import numpy as np

from tallformer_infer.nms.clusters import find_clusters
from tallformer_infer.nms.pairs import check_pairs
from tallformer_infer.structures import Candidates


def nms(candidates: Candidates, *, tiou_threshold: float, max_outputs: int | None) -> Candidates:
    """Keep the best candidates; drop those that overlap a better one of their class by more than the threshold.

    Args:
        candidates: In any order.
        tiou_threshold: Overlap in [0, 1] that is just still allowed.
        max_outputs: Most candidates to keep over all classes; None for no limit.

    Returns:
        Kept candidates by falling score; of equal scores the earlier row first.

    Raises:
        ValueError: A value is NaN, infinite or out of range.
    """
    check_pairs(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
    above = np.nextafter(np.float32(tiou_threshold), np.float32(np.inf))
    return candidates.take(find_clusters(candidates, least_tiou=above, max_tops=max_outputs).tops)


def nmw(candidates: Candidates, *, tiou_threshold: float, max_outputs: int | None) -> Candidates:
    """Non-maximum weighting: the best candidate, moved to the weighted mean of those it takes away.

    A candidate is taken away by the first better one of its class that it overlaps by the threshold or more. The
    weight in the mean is score times overlap with the best (1 for itself). Score and class are those of the best.

    Args:
        candidates: In any order.
        tiou_threshold: Overlap in [0, 1] from which candidates are averaged.
        max_outputs: Most clusters to make over all classes; None for no limit.

    Returns:
        One candidate per cluster by falling score; of equal scores the earlier row first. Where all weights of a
        cluster are 0 (scores of 0) the mean does not exist and the segment is NaN, as in the official code.

    Raises:
        ValueError: A value is NaN, infinite or out of range.

    Source: non-maximum weighting of Zhou et al., CAD (ICCV Workshops 2017), as the official TALLFormer code (commit
    5519140) applies it in one dimension.
    """
    check_pairs(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
    clusters = find_clusters(candidates, least_tiou=np.float32(tiou_threshold), max_tops=max_outputs)
    members = np.flatnonzero(clusters.owner >= 0)
    owner = clusters.owner[members]
    weights = candidates.scores[members].astype(np.float64) * clusters.tiou[members]
    starts, ends = candidates.segments_frames[members].T
    count = len(clusters.tops)
    total = np.bincount(owner, weights, count)
    sums = np.stack([np.bincount(owner, weights * starts, count), np.bincount(owner, weights * ends, count)], axis=1)
    with np.errstate(invalid="ignore"):
        means = sums / total[:, None]  # (M, 2)
    return Candidates(means.astype(np.float32), candidates.scores[clusters.tops], candidates.classes[clusters.tops])
