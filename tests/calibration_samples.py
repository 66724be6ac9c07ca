"""Calibrations made by hand, and predictions whose right share is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tallformer_infer.config import CalibratedClass, Calibration, Cut, PointSummary, ScoreCurve
from tallformer_infer.evaluation import Predictions, Truth
from tallformer_infer.structures import Action

HALVING = ScoreCurve(low=1.0, high=0.0, shift=0.0)
"""sigmoid(ln s) = s / (1 + s): 0.9 becomes 9 / 19."""


def calibration(thresholds: dict[str, float | None], *, default: str = "max-f1") -> Calibration:
    """A calibration with the point `max-f1` at these thresholds, and `precision-0.90` that keeps nothing."""
    nothing = Cut(threshold=None, precision=None, recall=0.0)
    summary = PointSummary(
        wanted_precision=None, precision=0.75, recall=0.5, held_out_precision=0.625, held_out_recall=0.375
    )
    return Calibration(
        default=default,
        tiou_threshold=0.5,
        points={"max-f1": summary, "precision-0.90": summary},
        classes={
            label: CalibratedClass(
                truths=12,
                predictions=24,
                pooled=False,
                curve=HALVING,
                cuts={"max-f1": Cut(threshold=threshold, precision=0.75, recall=0.5), "precision-0.90": nothing},
            )
            for label, threshold in thresholds.items()
        },
        made_from={"videos": 3, "truths": 36},
    )


def labelled(
    rows: dict[str, Sequence[tuple[float, bool]]], *, missed: int = 0, videos: int = 3
) -> tuple[Predictions, Truth]:
    """Predictions and truth of some videos.

    Args:
        rows: Score of each prediction of a class and whether it is right, dealt to the videos in turn.
        missed: Truths of each class that nothing finds.
        videos: Number of videos.
    """
    actions: dict[str, list[Action]] = {f"v{number}": [] for number in range(videos)}
    truth: dict[str, list[tuple[float, float, str]]] = {name: [] for name in actions}
    starts = iter(np.arange(0.0, 1e7, 10.0).tolist())
    for label, found in rows.items():
        for number, (score, is_right) in enumerate(found):
            start, video = next(starts), f"v{number % videos}"
            actions[video].append(Action(start_s=start, end_s=start + 5, label=label, score=score))
            if is_right:
                truth[video].append((start, start + 5, label))
        for number in range(missed):
            start = next(starts)
            truth[f"v{number % videos}"].append((start, start + 5, label))
    return Predictions.of(actions), Truth.of(truth)


def columns(found: list[tuple[float, bool]]) -> tuple[np.ndarray, np.ndarray]:
    """Scores from the highest to the lowest, and whether each is right."""
    found = sorted(found, key=lambda row: -row[0])
    return np.array([score for score, _ in found]), np.array([right for _, right in found], bool)
