"""Validation in the course of training, shared by all processes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from tallformer_infer.config import Recipe
from tallformer_training.model import Detector
from tallformer_training.training.material import Material
from tallformer_training.training.processes import Processes
from tallformer_training.training.validation import detect_actions, score


def measure(recipe: Recipe, weights: Mapping[str, Tensor], measured: Material, processes: Processes) -> dict[str, Any]:
    """mAP of some weights on all validation videos, as JSON values; every process takes some of the videos."""
    detector = Detector(recipe).to(processes.device).eval()
    detector.load_state_dict(weights)
    started_s, processor_s = time.perf_counter(), time.process_time()
    own = {
        video.name: detect_actions(detector, measured.source, video, measured.frames[video.name])
        for video in measured.videos[processes.rank :: processes.count]
    }
    found = {name: actions for part in processes.gather(own) for name, actions in part.items()}
    ordered = {video.name: found[video.name] for video in measured.videos}
    evaluation = score(ordered, measured.videos, recipe)
    return {
        "average_map": evaluation.average,
        "map_per_tiou": list(evaluation.mean_average_precision),
        "average_precision_per_class": {row.label: row.average for row in evaluation.classes},
        "predictions": evaluation.prediction_count,
        "truth": evaluation.truth_count,
        "seconds": time.perf_counter() - started_s,
        "processor_s": time.process_time() - processor_s,
    }
