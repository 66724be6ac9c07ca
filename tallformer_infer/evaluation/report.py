"""An evaluation as JSON."""

from __future__ import annotations

import dataclasses
from typing import Any

from tallformer_infer.evaluation.operating_point import OperatingPoint
from tallformer_infer.evaluation.scoring import Evaluation

SCHEMA_VERSION = "1.0"
"""The number after the dot rises when a key is added, the one before it when a key changes or goes."""


def evaluation_document(evaluation: Evaluation, *, predictions: str, truth: str) -> dict[str, Any]:
    """Everything about an evaluation as JSON values; shares are in [0, 1], times in seconds.

    Args:
        evaluation: What was found.
        predictions: Where the predictions are from.
        truth: Where the truth is from.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "predictions": predictions,
        "truth": truth,
        "protocol": evaluation.protocol,
        "subset": evaluation.subset,
        "tiou_thresholds": list(evaluation.tiou_thresholds),
        "mAP": list(evaluation.mean_average_precision),
        "average_mAP": evaluation.average,
        "truth_count": evaluation.truth_count,
        "prediction_count": evaluation.prediction_count,
        "operating_point": _operating_point(evaluation.operating_point),
        "errors": dataclasses.asdict(evaluation.errors),
        "classes": [
            {
                "label": score.label,
                "truth_count": score.truth_count,
                "prediction_count": score.prediction_count,
                "ap": list(score.average_precision),
                "average_ap": score.average,
                "operating_point": _operating_point(score.operating_point),
            }
            for score in evaluation.classes
        ],
        "videos": {
            "scored": list(evaluation.videos.scored),
            "without_prediction": list(evaluation.videos.without_prediction),
            "skipped": {reason: list(videos) for reason, videos in evaluation.videos.skipped.items()},
        },
        "unknown_labels": dict(evaluation.unknown_labels),
        "notes": list(evaluation.notes),
    }


def _operating_point(point: OperatingPoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    return {
        "score_threshold": point.score_threshold,
        "kept": point.kept,
        "precision": list(point.precision),
        "recall": list(point.recall),
    }
