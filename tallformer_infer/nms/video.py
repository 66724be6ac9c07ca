"""Suppress the candidates of a whole video as its recipe says, and give proposals their classes.

Note [classes of proposals]
    A proposal's score times a class score is the score of the pair. Soft suppression multiplies scores, so suppressing
    pairs class by class gives the same as suppressing proposals first and adding classes afterwards, apart from scores
    too small to matter; and it stays right where windows with different classes overlap. `reference_actions` follows
    the official order, with the official faults.
"""

from __future__ import annotations

from typing import assert_never

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SuppressConfig
from tallformer_infer.nms.greedy import check_pairs, nms, nmw
from tallformer_infer.nms.soft import soft_nms, soft_nms_activitynet
from tallformer_infer.structures import Candidates, Proposals


def suppress(candidates: Candidates, config: SuppressConfig) -> Candidates:
    """The actions among the candidates of a whole video.

    Args:
        candidates: All windows' candidates; of equal scores the earlier row is preferred.
        config: Which way, from which score and overlap on, and how many at most.

    Returns:
        What is left, by falling score.

    Raises:
        ValueError: A segment or score is NaN or infinite, or a class is out of range.
    """
    tiou_threshold, max_outputs = config.tiou_threshold, config.max_per_video
    check_pairs(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
    above = candidates.take(candidates.scores > np.float32(config.score_threshold))
    match config.method:
        case "nms":
            return nms(above, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
        case "nmw":
            return nmw(above, tiou_threshold=tiou_threshold, max_outputs=max_outputs)
        case "soft_linear" | "soft_gaussian":
            return soft_nms(
                above,
                method="linear" if config.method == "soft_linear" else "gaussian",
                tiou_threshold=tiou_threshold,
                sigma=config.sigma,
                min_score=config.min_score,
                max_outputs=max_outputs,
            )
        case _:
            assert_never(config.method)


def proposals_with_classes(proposals: Proposals, class_scores: NDArray[np.float32], *, most_classes: int) -> Candidates:
    """Give every proposal the likeliest classes, proposal by proposal, the likeliest first.

    Args:
        proposals: Of one window.
        class_scores: Of the classes, without background, shape (K,). Classes with a score of 0 are not given.
        most_classes: Classes per proposal.
    """
    classes = _likeliest(class_scores, most_classes)
    classes = classes[class_scores[classes] > 0]
    rows = np.repeat(np.arange(len(proposals.scores)), len(classes))
    kinds = np.tile(classes, len(proposals.scores))
    scores = proposals.scores[rows] * class_scores[kinds]
    return Candidates(proposals.segments_frames[rows], scores.astype(np.float32), kinds)


def without_class(proposals: Proposals) -> Candidates:
    """Proposals as candidates of one and the same class, for `reference_actions`."""
    return Candidates(proposals.segments_frames, proposals.scores, np.zeros(len(proposals.scores), np.int64))


def reference_actions(
    proposals: Candidates, class_scores: NDArray[np.float32], config: SuppressConfig, *, most_classes: int
) -> Candidates:
    """Actions as the official ActivityNet scripts find them; see Note [classes of proposals].

    Proposals are suppressed without regard to classes, the last one is never taken (`soft_nms_activitynet`), and where
    the background is among the likeliest classes, the last class takes its place: the scripts take 1 from its index.

    Args:
        proposals: From `without_class`.
        class_scores: Of background and the classes, shape (1 + K,). A background of -inf is never among the likeliest.
        config: Width, least scores and number.
        most_classes: Classes per proposal.

    Returns:
        By falling score of the proposal, the likeliest class first.
    """
    above = proposals.take(proposals.scores > np.float32(config.score_threshold))
    kept = soft_nms_activitynet(above, sigma=config.sigma, min_score=config.min_score, max_outputs=config.max_per_video)
    likeliest = _likeliest(class_scores, most_classes)
    likeliest = likeliest[class_scores[likeliest] > 0]
    rows = np.repeat(np.arange(len(kept)), len(likeliest))
    chosen = np.tile(likeliest, len(kept))
    scores = kept.scores[rows] * class_scores[chosen]
    classes = (chosen - 1) % (len(class_scores) - 1)
    return Candidates(kept.segments_frames[rows], scores.astype(np.float32), classes)


def _likeliest(class_scores: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Classes by falling score, of equals the earlier one first."""
    return np.argsort(-class_scores, kind="stable")[:count].astype(np.int64)
