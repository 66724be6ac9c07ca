"""A model that sees whole videos, small enough to train in a test, and videos of one class each for it."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np

from tallformer_infer.config import (
    CandidateConfig,
    ModelConfig,
    PyramidConfig,
    Recipe,
    RefinedHeadConfig,
    SamplingConfig,
    SuppressConfig,
    TcmConfig,
    WindowConfig,
)
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.datasets import DatasetRequest
from tallformer_training.loop import OptimiserConfig, TrainingConfig
from tallformer_training.schedule import ScheduleConfig
from tests.small_detector import SMALL
from tests.videos import write_video

WHOLE: Recipe = Recipe(
    name="whole",
    classes=("red", "blue"),
    model=ModelConfig(
        backbone=replace(SMALL.model.backbone, drop_path=0.0),
        channels=32,
        tcm=TcmConfig(layers=1, heads=4, max_steps=32, drop_path=0.0),
        pyramid=PyramidConfig(kind="convolution", levels=5, fpn_channels=32, norm="group"),
        head=RefinedHeadConfig(kind="refined", classes_per_proposal=1, classifier_dropout=0.0),
    ),
    sampling=SamplingConfig(resize="squash", resize_px=36, crop_px=32, most_frames=256, fill="black"),
    window=WindowConfig(window_frames=256, clip_frames=16),
    candidates=CandidateConfig(per_window=62),
    suppress=SuppressConfig(method="soft_gaussian", sigma=0.85, score_threshold=1e-9, min_score=1e-9),
)
"""16 clips of 16 frames; levels of 32, 16, 8, 4 and 2 steps."""

LEARNING = TrainingConfig(
    ratio=0.5,
    sampling="jittered",
    epochs=26,
    batch_windows=4,
    optimiser=OptimiserConfig(kind="adamw", base_lr=2e-3, encoder_factor=1.0, weight_decay=0.01),
    schedule=ScheduleConfig(period_epochs=26, warmup_steps=10),
    smooth_schedule=True,
    max_gradient_norm=5.0,
    least_part=0.0,
    augmentation=AugmentationConfig(rotate=0.0, colour=0.0),
    memory_start="zeros",
    validate_every_epochs=100,
    checkpoint_every_steps=1000,
)


def make_videos(folder: Path, *, count: int, seed: int) -> DatasetRequest:
    """Videos of 10 to 40 s, in each of which a square of one colour appears once or twice for a good while."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    database = {}
    for index in range(count):
        fps, seconds, kind = 10, int(generator.integers(10, 41)), index % 2
        coarse = generator.integers(60, 190, (6, 6, 3))
        background = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
        frames = np.repeat(background[None], seconds * fps, axis=0)
        rows, now = [], float(generator.uniform(0.02, 0.2))
        while now < 0.7:
            end = min(now + float(generator.uniform(0.15, 0.4)), 0.97)
            first, last = round(now * len(frames)), round(end * len(frames))
            top, left = generator.integers(4, 24, 2)
            frames[first:last, top : top + 20, left : left + 20] = ((230, 20, 20), (20, 20, 230))[kind]
            rows.append({"segment": [first / fps, last / fps], "label": WHOLE.classes[kind]})
            now = end + float(generator.uniform(0.1, 0.3))
        name = f"v_{seed}-{index}"
        write_video(folder / f"{name}.mp4", list(frames), fps=fps)
        database[name] = {"duration": seconds, "subset": "training", "annotations": rows}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return DatasetRequest(annotations=folder / "annotations.json", videos=folder)
