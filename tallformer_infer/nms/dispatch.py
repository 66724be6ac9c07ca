"""Suppression of a whole video as a recipe asks for it."""

from __future__ import annotations

from typing import assert_never

import numpy as np

from tallformer_infer.config import SuppressConfig
from tallformer_infer.nms.greedy import nms, nmw
from tallformer_infer.nms.pairs import check_pairs
from tallformer_infer.nms.soft import soft_nms
from tallformer_infer.structures import Candidates


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
