"""Training works: from random weights to actions in videos it has not seen, with most clips from memory."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tallformer_infer.config import CandidateConfig, Recipe
from tallformer_infer.console import make_speaker
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.checkpoint import load_detector
from tallformer_training.datasets import DatasetRequest, FrameCache, read_video_set
from tallformer_training.loop import OptimiserConfig, Processes, TrainingConfig, TrainingJob, train
from tallformer_training.loop.beginning import make_detector
from tallformer_training.loop.job import Material
from tallformer_training.loop.validation import measure
from tallformer_training.schedule import ScheduleConfig
from tests.training_set import FPS, RECIPE
from tests.videos import write_video

FRAMES = 300
LEARNED, UNTRAINED = 0.35, 0.2
"""Least mAP (tIoU 0.3 to 0.7) after training, and most before; 0.45 and 0.12 were seen."""

SHOWING: Recipe = replace(RECIPE, classes=("red", "blue"), candidates=CandidateConfig(per_window=300))
CONFIG = TrainingConfig(
    ratio=0.5,
    sampling="stratified",
    epochs=16,
    windows_per_video=6,
    batch_windows=6,
    optimiser=OptimiserConfig(kind="adamw", base_lr=2e-3, encoder_factor=1.0, weight_decay=0.05),
    schedule=ScheduleConfig(period_epochs=16, warmup_steps=10),
    smooth_schedule=True,
    max_gradient_norm=1.0,
    ema_decay=0.95,
    augmentation=AugmentationConfig(rotate=0.0, colour=0.0),
    memory_start="zeros",
    step_loss_weight=0.2,
    checkpoint_every_steps=1000,
)


pytestmark = pytest.mark.usefixtures("one_thread")


def make_videos(folder: Path, *, count: int, seed: int) -> DatasetRequest:
    """Videos of 20 s in which a red or a blue square appears for 1.2 to 3.5 s on a background of its own."""
    folder.mkdir()
    generator = np.random.default_rng(seed)
    database = {}
    for index in range(count):
        coarse = generator.integers(60, 190, (6, 6, 3))
        background = np.kron(coarse, np.ones((8, 8, 1))).astype(np.uint8)
        frames = np.repeat(background[None], FRAMES, axis=0)
        rows, now = [], int(generator.integers(5, 30))
        while now + 60 < FRAMES:
            end, kind = now + int(generator.integers(18, 53)), int(generator.integers(2))
            top, left = generator.integers(4, 28, 2)
            frames[now:end, top : top + 16, left : left + 16] = ((230, 20, 20), (20, 20, 230))[kind]
            rows.append({"segment": [now / FPS, end / FPS], "label": SHOWING.classes[kind]})
            now = end + int(generator.integers(15, 50))
        write_video(folder / f"v{seed}-{index}.mp4", list(frames), fps=FPS)
        database[f"v{seed}-{index}"] = {"duration": FRAMES / FPS, "annotations": rows}
    (folder / "annotations.json").write_text(json.dumps({"database": database}))
    return DatasetRequest(annotations=folder / "annotations.json", videos=folder)


def test_a_detector_trained_from_nothing_finds_actions_that_an_untrained_one_does_not(tmp_path: Path) -> None:
    training = make_videos(tmp_path / "training", count=8, seed=1)
    validation = make_videos(tmp_path / "validation", count=4, seed=2)
    job = TrainingJob(
        recipe=SHOWING, config=CONFIG, training=training, validation=validation, out=tmp_path / "run", quiet=True
    )

    untrained = average_map(
        make_detector(job, Processes(), make_speaker(quiet=True)).state_dict(), validation, tmp_path
    )
    result = train(job, Processes())

    trained = average_map(load_detector(result.model)[0].state_dict(), validation, tmp_path)
    assert trained == pytest.approx(result.validations[-1]["average_map"], abs=1e-6)
    assert untrained < UNTRAINED, untrained
    assert trained > LEARNED, trained


def average_map(weights: dict[str, torch.Tensor], request: DatasetRequest, folder: Path) -> float:
    """mAP of some weights on the videos of `request`."""
    videos = read_video_set(request, SHOWING.classes).videos
    cache = FrameCache(folder / "frames", SHOWING.sampling)
    frames = {video.name: cache.add(video.path) for video in videos}
    found: float = measure(SHOWING, weights, Material(videos, frames, cache), Processes())["average_map"]
    return found
