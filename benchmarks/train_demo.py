"""Train the demo model from nothing on generated videos, and measure it on videos of other seeds, looks and places.

    torchrun --nproc-per-node 2 -m benchmarks.train_demo --out runs/demo --minutes 20

Data, training and figures are made in `--out`. `--minutes` is how long this call may train: the same command goes on
where it stopped, so that the whole may be done in pieces. When the last epoch is done, the test set is scored, and the
figures are written to `--result`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from benchmarks.measure import circumstances
from tallformer_infer.config import preset, to_json
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.datasets import DatasetRequest, FrameCache, read_video_set
from tallformer_training.schedule import ScheduleConfig
from tallformer_training.synthetic import SetSpec, make_dataset
from tallformer_training.synthetic.dataset import TRUTH_NAME
from tallformer_training.training import (
    EncoderStageConfig,
    OptimiserConfig,
    Processes,
    TrainingConfig,
    TrainingJob,
    join_processes,
    train,
)
from tallformer_training.training.encoder_stage import FOLDER as ENCODER_FOLDER
from tallformer_training.training.job import RUN_FILE
from tallformer_training.training.material import Material
from tallformer_training.training.measuring import measure
from tallformer_training.training.metrics import read_metrics

Subset = Literal["training", "validation", "testing"]
SEEDS: dict[Subset, int] = {"training": 7, "validation": 8, "testing": 9}

EVERY = 50
RECIPE = preset("demo")
CONFIG = TrainingConfig(
    ratio=0.125,
    sampling="stratified",
    epochs=20,
    windows_per_video=4,
    batch_windows=8,
    optimiser=OptimiserConfig(kind="adamw", base_lr=1e-3, encoder_factor=0.1, weight_decay=0.05),
    schedule=ScheduleConfig(period_epochs=20, min_factor=0.02, warmup_steps=100),
    smooth_schedule=True,
    max_gradient_norm=1.0,
    ema_decay=0.998,
    encoder_stage=EncoderStageConfig(steps=3000, batch_clips=16, precision="bf16"),
    keep_encoder_norms=True,
    step_loss_weight=0.5,
    augmentation=AugmentationConfig(
        random_crop=False, mirrored_classes=(("spin left", "spin right"),), rotate=0.3, rotation_deg=15.0
    ),
    checkpoint_every_steps=200,
    validate_every_epochs=4,
    seed=1,
)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the data, train for a while, and score the test set when training is finished."""
    options = _options(arguments)
    torch.set_num_threads(options.threads)
    with join_processes("cpu") as processes:
        if processes.is_main:
            for subset, count in _counts(options).items():
                _make(options.out / "data", subset, count, options.jobs)
        processes.barrier()
        _train(options, processes)


def _train(options: argparse.Namespace, processes: Processes) -> None:
    requests = {subset: _request(options.out / "data", subset) for subset in SEEDS}
    job = TrainingJob(
        recipe=RECIPE,
        config=CONFIG,
        training=requests["training"],
        validation=requests["validation"],
        out=options.out / "run",
        cache=options.out / "frames",
        resume=(options.out / "run" / RUN_FILE).exists(),
    )
    end_s = time.monotonic() + 60 * options.minutes
    result = train(job, processes, until=lambda: time.monotonic() > end_s)
    if not result.is_finished:
        sys.stderr.write(f"{result.steps} steps done; the same command goes on\n")
    elif processes.is_main:
        figures = _figures(job, _score(result.model, requests["testing"], job.cache_folder))
        options.result.write_text(json.dumps(figures) + "\n", encoding="utf-8")
        sys.stdout.write(json.dumps({"test_map": figures["test"]["average_map"], "result": str(options.result)}) + "\n")


def _counts(options: argparse.Namespace) -> dict[Subset, int]:
    return {"training": options.videos, "validation": 16, "testing": options.test_videos}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_demo", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, frames and the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long this call may train")
    parser.add_argument("--result", type=Path, default=Path("train_demo.jsonl"), help="where the figures go")
    parser.add_argument("--videos", type=int, default=240, help="training videos of two minutes")
    parser.add_argument("--test-videos", type=int, default=36, help="test videos of two minutes; about 15 actions each")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that make videos")
    return parser.parse_args(arguments)


def _make(folder: Path, subset: Subset, count: int, jobs: int) -> None:
    make_dataset(SetSpec(subset=subset, videos=count, seed=SEEDS[subset]), folder / subset, jobs=jobs)


def _request(folder: Path, subset: Subset) -> DatasetRequest:
    return DatasetRequest(annotations=folder / subset / TRUTH_NAME, videos=folder / subset, subset=subset)


def _score(model: Path, request: DatasetRequest, cache_folder: Path) -> dict[str, Any]:
    videos = read_video_set(request, RECIPE.classes).videos
    cache = FrameCache(cache_folder, RECIPE.sampling)
    frames = {video.name: cache.add(video.path) for video in videos}
    return measure(RECIPE, load_checkpoint(model).state, Material(videos, frames, cache), Processes())


def _figures(job: TrainingJob, test: dict[str, Any]) -> dict[str, Any]:
    encoder, lines = read_metrics(job.out / ENCODER_FOLDER), read_metrics(job.out)
    steps = [line for line in lines if line["kind"] == "step"]
    validations = [line for line in lines if line["kind"] == "validation"]
    minutes = {
        "encoder_stage": _minutes(encoder, "step_s"),
        "first_memory": _minutes([line for line in lines if line["kind"] == "memory"], "seconds"),
        "detector": _minutes(steps, "step_s"),
        "validation": _minutes(validations, "seconds"),
    }
    return {
        "name": "train_demo",
        **circumstances(),
        "test": test,
        "minutes": minutes,
        "minutes_together": round(sum(minutes.values()), 1),
        "steps": {"encoder_stage": len(encoder), "detector": len(steps)},
        "seeds": dict(SEEDS),
        "recipe": to_json(job.recipe),
        "training": to_json(job.config),
        "validation": [{name: line[name] for name in ("epoch", "average_map")} for line in validations],
        "encoder_loss": _thinned(encoder),
        "loss": _thinned(steps),
    }


def _minutes(lines: Sequence[dict[str, Any]], name: str) -> float:
    return float(round(sum(line[name] for line in lines) / 60, 1))


def _thinned(lines: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """Mean loss of every `EVERY` steps, with the last of them."""
    parts = [lines[first : first + EVERY] for first in range(0, len(lines), EVERY)]
    return [(part[-1]["step"], round(sum(line["loss"] for line in part) / len(part), 4)) for part in parts]


if __name__ == "__main__":
    main()
