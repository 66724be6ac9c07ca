"""A stand-in for the plan of the ablations: two runs that take seconds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.ablations.groups import BASE
from benchmarks.ablations.plan import DataConfig, Plan, Variant
from benchmarks.ablations.running import Place
from tallformer_infer.config import Recipe
from tallformer_training.checkpoint import save_checkpoint
from tallformer_training.model import Detector
from tallformer_training.synthetic import CLASSES
from tests.training_set import CONFIG, RECIPE

TINY: Recipe = replace(RECIPE, classes=tuple(CLASSES))
"""Windows of 64 frames with 4 clips."""


def tiny_plan() -> Plan:
    """Two variants of four steps each."""
    variants = tuple(
        Variant(name=name, recipe=TINY, config=replace(CONFIG, ratio=ratio), start=BASE)
        for name, ratio in ((BASE, 0.5), ("r-1", 1.0))
    )
    return Plan(variants=variants, seeds=(1,), data=DataConfig(training_videos=2, testing_videos=1, minutes=0.2))


def place_in(folder: Path, start: Path) -> Place:
    """Everything in one folder, with `start` as the base's."""
    return Place(out=folder, results=folder / "results.jsonl", starts={BASE: start})


def write_start(path: Path) -> Path:
    """A checkpoint to take the encoder of."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        save_checkpoint(path, Detector(RECIPE).state_dict(), RECIPE, provenance={"trained": False})
    return path


def after(calls: int) -> Callable[[], bool]:
    """Says stop when it is asked for that time, and from then on."""
    asked = 0

    def until() -> bool:
        nonlocal asked
        asked += 1
        return asked >= calls

    return until
