"""A few short videos with annotations, and a run on them that takes a second."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from tallformer_infer.config import PyramidConfig, Recipe, SamplingConfig, to_json
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.datasets import DatasetRequest
from tallformer_training.loop import OptimiserConfig, TrainingConfig, TrainingJob
from tests.small_detector import SMALL
from tests.videos import write_video

FPS = 15
RECIPE: Recipe = replace(
    SMALL,
    classes=("run", "jump", "run left"),
    model=replace(SMALL.model, pyramid=replace(SMALL.model.pyramid, dropout=0.1)),
    sampling=SamplingConfig(resize="squash", resize_px=36, crop_px=32),
)
"""Windows of 64 frames with 4 clips of 16."""
STILL: Recipe = replace(
    RECIPE,
    model=replace(
        RECIPE.model,
        backbone=replace(RECIPE.model.backbone, drop_path=0.0),
        tcm=None if RECIPE.model.tcm is None else replace(RECIPE.model.tcm, drop_path=0.0),
        pyramid=PyramidConfig(heads=4, levels=3, attention_steps=(3, 3), fpn_channels=32, dropout=0.0),
    ),
)
"""The same without anything random in the forward pass."""
CONFIG = TrainingConfig(
    ratio=0.5,
    epochs=2,
    batch_windows=2,
    windows_per_video=2,
    optimiser=OptimiserConfig(kind="adamw", base_lr=1e-3),
    max_gradient_norm=1.0,
    ema_decay=0.9,
    augmentation=AugmentationConfig(rotation_deg=10),
    checkpoint_every_steps=2,
    loader_threads=1,
)
FRAMES: Mapping[str, int] = {"one": 150, "two": 97, "short": 40}
"""The last is shorter than a window."""


def make_set(folder: Path, frames: Mapping[str, int] = FRAMES) -> tuple[Path, Path]:
    """Write videos of noise and their annotations; returns the annotations and the folder of the videos."""
    videos = folder / "videos"
    videos.mkdir(parents=True)
    database: dict[str, Any] = {}
    for number, (name, count) in enumerate(frames.items()):
        generator = np.random.default_rng(number)
        write_video(videos / f"{name}.mp4", list(generator.integers(0, 256, (count, 36, 48, 3), np.uint8)), fps=FPS)
        seconds = count / FPS
        database[name] = {
            "duration": seconds,
            "subset": "training",
            "annotations": [
                {"segment": [0.3, 1.5], "label": "run"},
                {"segment": [1.0, min(seconds, 3.0)], "label": "jump"},
            ],
        }
    annotations = folder / "annotations.json"
    annotations.write_text(json.dumps({"database": database}), encoding="utf-8")
    return annotations, videos


def write_settings(folder: Path) -> None:
    """Write `RECIPE` and `CONFIG` as files beside the annotations."""
    (folder / "recipe.json").write_text(json.dumps(to_json(RECIPE)))
    (folder / "config.json").write_text(json.dumps(to_json(CONFIG)))


def train_arguments(folder: Path, out: Path) -> list[str]:
    """`tallformer train` on the set in `folder`, with the settings of `write_settings`."""
    files = {"annotations": "annotations.json", "videos": "videos", "recipe": "recipe.json", "config": "config.json"}
    paths = [part for name, file in files.items() for part in (f"--{name}", str(folder / file))]
    return ["train", *paths, "--cache", str(folder / "cache"), "--out", str(out), "--device", "cpu"]


def job_of(folder: Path, out: Path, **changes: Any) -> TrainingJob:
    """A job on the set in `folder`; `changes` of the job, or of its config where they are settings of training."""
    settings = {name: changes.pop(name) for name in list(changes) if hasattr(CONFIG, name) and name != "validation"}
    base = TrainingJob(
        recipe=RECIPE,
        config=replace(CONFIG, **settings),
        training=DatasetRequest(annotations=folder / "annotations.json", videos=folder / "videos"),
        out=out,
        cache=folder / "cache",
        quiet=True,
    )
    return replace(base, **changes)
