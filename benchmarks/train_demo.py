"""Train a small model from random weights on generated videos, and measure it on videos of other seeds and looks.

    torchrun --nproc-per-node 2 -m benchmarks.train_demo demo --out runs/demo --minutes 20
    python -m benchmarks.train_demo anet-demo --out runs/anet-demo --minutes 60

`demo` finds short actions in windows of long videos, `anet-demo` actions in whole videos of one class each. Data, the
run and its figures go to `--out`. `--minutes` limits this call: repeat the command to continue. After the last epoch
the test set is scored, and the figures are written to `--result`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import circumstances
from tallformer_infer.config import Recipe, preset, to_json
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.datasets import DatasetRequest, FrameCache, read_video_set
from tallformer_training.loop import (
    EncoderStageConfig,
    OptimiserConfig,
    Processes,
    TrainingConfig,
    TrainingJob,
    join_processes,
    train,
)
from tallformer_training.loop.encoder_stage import FOLDER as ENCODER_FOLDER
from tallformer_training.loop.job import RUN_FILE, Material
from tallformer_training.loop.record import read_metrics
from tallformer_training.loop.validation import measure
from tallformer_training.schedule import ScheduleConfig
from tallformer_training.synthetic import SetSpec, make_dataset
from tallformer_training.synthetic.dataset import TRUTH_NAME

EVERY = 50
"""Training steps per point of the loss curve."""


@dataclass(frozen=True, kw_only=True)
class DemoTraining:
    """What to train, and on which videos."""

    name: str
    """Name of the figures."""
    recipe: Recipe
    config: TrainingConfig
    training: SetSpec
    validation: SetSpec
    testing: SetSpec

    @property
    def sets(self) -> tuple[SetSpec, ...]:
        """The three sets of videos."""
        return self.training, self.validation, self.testing


DEMO = DemoTraining(
    name="train_demo",
    recipe=preset("demo"),
    config=TrainingConfig(
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
    ),
    training=SetSpec(subset="training", videos=240, seed=7),
    validation=SetSpec(subset="validation", videos=16, seed=8),
    testing=SetSpec(subset="testing", videos=36, seed=9),
)
ANET_DEMO = DemoTraining(
    name="train_anet_demo",
    recipe=preset("anet-demo"),
    config=replace(
        DEMO.config,
        epochs=16,
        windows_per_video=1,
        schedule=ScheduleConfig(period_epochs=16, min_factor=0.02, warmup_steps=100),
        ema_decay=0.995,
        encoder_stage=EncoderStageConfig(steps=2000, batch_clips=16, precision="bf16"),
        least_part=0.0,
        precision="bf16",
        loader_threads=1,
    ),
    training=SetSpec(subset="training", videos=500, seed=27, style="activitynet"),
    validation=SetSpec(subset="validation", videos=48, seed=28, style="activitynet"),
    testing=SetSpec(subset="testing", videos=180, seed=29, style="activitynet"),
)
DEMOS = {"demo": DEMO, "anet-demo": ANET_DEMO}


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the videos, train for a while, and score the test set when training is finished."""
    options = parse_options(arguments)
    demo = DEMOS[options.model]
    training = replace(demo.training, videos=options.videos or demo.training.videos)
    testing = replace(demo.testing, videos=options.test_videos or demo.testing.videos)
    run(replace(demo, training=training, testing=testing), options)


def run(demo: DemoTraining, options: argparse.Namespace) -> None:
    """Make the videos, train for a while, and score the test set when training is finished."""
    torch.set_num_threads(options.threads)
    with join_processes("cpu") as processes:
        if processes.is_main:
            for spec in demo.sets:
                make_dataset(spec, _folder(options, spec), jobs=options.jobs)
        processes.barrier()
        _train(demo, options, processes)


def parse_options(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the options; None reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.train_demo", description=main.__doc__)
    parser.add_argument("model", nargs="?", choices=DEMOS, default="demo", help="what to train (demo)")
    parser.add_argument("--out", type=Path, required=True, help="folder for data, frames and the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="time limit of this call")
    parser.add_argument("--result", type=Path, help="file of the figures (train_demo.jsonl or train_anet_demo.jsonl)")
    parser.add_argument("--videos", type=int, help="training videos (demo: 240, anet-demo: 500)")
    parser.add_argument("--test-videos", type=int, help="test videos (demo: 36, anet-demo: 180)")
    parser.add_argument("--threads", type=int, default=1, help="torch threads per process")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes that make videos")
    return parser.parse_args(arguments)


def _train(demo: DemoTraining, options: argparse.Namespace, processes: Processes) -> None:
    job = TrainingJob(
        recipe=demo.recipe,
        config=demo.config,
        training=_request(options, demo.training),
        validation=_request(options, demo.validation),
        out=options.out / "run",
        cache=options.out / "frames",
        resume=(options.out / "run" / RUN_FILE).exists(),
    )
    end_s = time.monotonic() + 60 * options.minutes
    result = train(job, processes, until=lambda: time.monotonic() > end_s)
    if not result.is_finished:
        sys.stderr.write(f"{result.steps} steps done; repeat the command to continue\n")
    elif processes.is_main:
        test = _score(demo.recipe, result.model, _request(options, demo.testing), job.cache_folder)
        figures = {**_figures(demo, job, test), "cores": processes.count * options.threads}
        path: Path = options.result or Path(f"{demo.name}.jsonl")
        path.write_text(json.dumps(figures) + "\n", encoding="utf-8")
        sys.stdout.write(json.dumps({"test_map": figures["test"]["average_map"], "result": str(path)}) + "\n")


def _folder(options: argparse.Namespace, spec: SetSpec) -> Path:
    folder: Path = options.out / "data" / spec.subset
    return folder


def _request(options: argparse.Namespace, spec: SetSpec) -> DatasetRequest:
    folder = _folder(options, spec)
    return DatasetRequest(annotations=folder / TRUTH_NAME, videos=folder, subset=spec.subset)


def _score(recipe: Recipe, model: Path, request: DatasetRequest, cache_folder: Path) -> dict[str, Any]:
    videos = read_video_set(request, recipe.classes).videos
    cache = FrameCache(cache_folder, recipe.sampling)
    frames = {video.name: cache.add(video.path) for video in videos}
    return measure(recipe, load_checkpoint(model).state, Material(videos, frames, cache), Processes())


def _figures(demo: DemoTraining, job: TrainingJob, test: dict[str, Any]) -> dict[str, Any]:
    encoder, lines = read_metrics(job.out / ENCODER_FOLDER), read_metrics(job.out)
    steps = [line for line in lines if line["kind"] == "step"]
    validations = [line for line in lines if line["kind"] == "validation"]
    stages = {
        "encoder_stage": (encoder, "step_s"),
        "first_memory": ([line for line in lines if line["kind"] == "memory"], "seconds"),
        "detector": (steps, "step_s"),
        "validation": (validations, "seconds"),
    }
    minutes = {name: _minutes(*stage) for name, stage in stages.items()}
    processor = {name: _minutes(of_stage, "processor_s") for name, (of_stage, _) in stages.items()}
    return {
        "name": demo.name,
        **circumstances(),
        "test": test,
        "minutes": minutes,
        "minutes_together": round(sum(minutes.values()), 1),
        "processor_minutes": processor,
        "processor_minutes_together": round(sum(processor.values()), 1),
        "steps": {"encoder_stage": len(encoder), "detector": len(steps)},
        "seeds": {spec.subset: spec.seed for spec in demo.sets},
        "videos": {spec.subset: spec.videos for spec in demo.sets},
        "recipe": to_json(job.recipe),
        "training": to_json(job.config),
        "validation": [{name: line[name] for name in ("epoch", "average_map")} for line in validations],
        "encoder_loss": _thinned(encoder),
        "loss": _thinned(steps),
    }


def _minutes(lines: Sequence[dict[str, Any]], name: str) -> float:
    return float(round(sum(line[name] for line in lines) / 60, 1))


def _thinned(lines: Sequence[dict[str, Any]]) -> list[tuple[int, float]]:
    """Mean loss of every `EVERY` steps, with the number of the last step."""
    parts = [lines[first : first + EVERY] for first in range(0, len(lines), EVERY)]
    return [(part[-1]["step"], round(sum(line["loss"] for line in part) / len(part), 4)) for part in parts]


if __name__ == "__main__":
    main()
