"""Runs: training with the product's code from stored features, and mAP on held-out sequences."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.real_training.features import FeatureStore
from benchmarks.real_training.variants import Variant
from benchmarks.real_training.videos import LAWN, PARKING_LOT, SEQUENCES, names_of, subset
from tallformer_infer.evaluation import Predictions, Truth, evaluate, protocol_named
from tallformer_infer.structures import Action
from tallformer_training.checkpoint import load_checkpoint, save_checkpoint
from tallformer_training.datasets import DatasetRequest
from tallformer_training.loop import Processes, TrainingJob, train
from tallformer_training.loop.record import read_metrics
from tallformer_training.model import Detector

FOLDS = 5


@dataclass(frozen=True, kw_only=True)
class Place:
    """Folders, and length of a feature step."""

    videos: Path
    truth: Path
    store: FeatureStore
    work: Path
    step_s: float = 8 / 25
    """Length of a feature step."""


def splits(name: str) -> list[tuple[list[int], list[int]]]:
    """Training and test sequences of each part of a split.

    Args:
        name: `both`: five folds, with two sequences of each place held out; `across`: trained in the parking lot,
            tested on the lawn.
    """
    if name == "across":
        return [(list(PARKING_LOT), list(LAWN))]
    parts = []
    for fold in range(FOLDS):
        left_out = [sequence for sequence in SEQUENCES if sequence % FOLDS == fold]
        parts.append(([sequence for sequence in SEQUENCES if sequence not in left_out], left_out))
    return parts


def run(variant: Variant, split: str, place: Place, *, seed: int, orders: int) -> dict[str, Any]:
    """Train on every part of a split, and evaluate all held-out videos together.

    Args:
        variant: The variant to train.
        split: See `splits`.
        place: Folders.
        seed: Seed of training.
        orders: Compositions of each training sequence.
    """
    found: dict[str, list[Action]] = {}
    losses: list[list[float]] = []
    seconds, cpu_s = 0.0, 0.0
    for number, (learned, left_out) in enumerate(splits(split)):
        folder = place.work / f"{variant.name}-{split}-{seed}-{number}"
        names = names_of(learned, orders)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        detector, curve = _train(variant, names, folder, place, seed=seed)
        seconds += time.perf_counter() - started_s
        cpu_s += time.process_time() - started_cpu_s
        losses.append(curve)
        for name in names_of(left_out):
            found[name] = place.store.detect(detector, name)
        shutil.rmtree(folder)
    _keep(found, place.work / "actions" / f"{variant.recipe.name}-{variant.name}-{split}-{seed}.json")
    return {
        "variant": variant.name,
        "split": split,
        "seed": seed,
        "orders": orders,
        "steps": len(losses[0]),
        "train_s": round(seconds, 1),
        "train_cpu_s": round(cpu_s, 1),
        "last_loss": round(sum(sum(curve[-20:]) / len(curve[-20:]) for curve in losses) / len(losses), 4),
        **scored(found, place.truth),
    }


def _keep(found: Mapping[str, Sequence[Action]], path: Path) -> None:
    """Write the detections of a run, for figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {
        name: [[round(one.start_s, 2), round(one.end_s, 2), one.label, round(one.score, 3)] for one in actions]
        for name, actions in found.items()
    }
    path.write_text(json.dumps(rows), encoding="utf-8")


def scored(found: Mapping[str, Sequence[Action]], truth: Path) -> dict[str, Any]:
    """mAP at tIoU 0.3 to 0.7 of detections, in percent, over the tested videos."""
    database = json.loads(truth.read_text(encoding="utf-8"))["database"]
    segments = {
        name: [(*row["segment"], row["label"]) for row in database[name]["annotations"]] for name in sorted(found)
    }
    evaluation = evaluate(
        Predictions.of({name: list(found[name]) for name in sorted(found)}),
        Truth.of(segments, source="composed"),
        protocol_named("thumos14"),
    )
    return {
        "map": [round(100 * value, 2) for value in evaluation.mean_average_precision],
        "average_map": round(100 * evaluation.average, 2),
        "ap_per_class_0.5": {row.label: round(100 * row.average_precision[2], 1) for row in evaluation.classes},
        "truth": evaluation.truth_count,
    }


def run_job(
    variant: Variant,
    names: Sequence[str],
    folder: Path,
    place: Place,
    *,
    seed: int,
    start: Path | None = None,
    until: Callable[[], bool] | None = None,
) -> tuple[Path, list[float]]:
    """Train a variant on features of videos; returns the weights' path, and the loss of every step.

    Args:
        variant: The variant to train.
        names: Training videos.
        folder: Folder of the run; its content is removed.
        place: Folders.
        seed: Seed of training.
        start: Checkpoint to start from; None: random weights, or those of `quiet_start` for quiet variants.
        until: Called after every step; True ends the run.
    """
    if folder.exists():
        shutil.rmtree(folder)
    annotations = subset(place.truth, names, folder / "truth.json")
    place.store.write_memory(folder / "memory" / "base", variant.recipe, names)
    if start is None and variant.has_quiet_tcm:
        start = quiet_start(variant, folder / "start.safetensors", seed)
    job = TrainingJob(
        recipe=variant.recipe,
        config=replace(variant.config, seed=seed),
        training=DatasetRequest(annotations=annotations, videos=place.videos, subset=None),
        out=folder,
        start=start,
        cache=place.work / "frames",
        quiet=True,
    )
    result = train(job, Processes(), until=until)
    return result.model, [line["loss"] for line in read_metrics(folder) if line["kind"] == "step"]


def load(variant: Variant, path: Path) -> Detector:
    """A trained detector."""
    detector = Detector(variant.recipe).eval()
    detector.load_state_dict(load_checkpoint(path).state)
    return detector


def _train(
    variant: Variant, names: Sequence[str], folder: Path, place: Place, *, seed: int
) -> tuple[Detector, list[float]]:
    model, curve = run_job(variant, names, folder, place, seed=seed)
    return load(variant, model), curve


def quiet_start(variant: Variant, path: Path, seed: int) -> Path:
    """Write random weights of the seed, as in training, with a TCM that is the identity."""
    torch.manual_seed(seed)
    detector = Detector(variant.recipe)
    assert detector.tcm is not None, "only variants with a TCM begin so"
    for name, weight in detector.tcm.named_parameters():
        if ".attn.proj." in name or ".mlp.fc2." in name:
            torch.nn.init.zeros_(weight)
    save_checkpoint(path, detector.state_dict(), variant.recipe, provenance={"trained": False})
    return path
