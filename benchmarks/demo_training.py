"""A small model from nothing: generated videos, training in pieces, and figures on videos of another seed."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import circumstances
from tallformer_infer.config import Recipe, to_json
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.datasets import DatasetRequest, FrameCache, read_video_set
from tallformer_training.loop import Processes, TrainingConfig, TrainingJob, join_processes, train
from tallformer_training.loop.encoder_stage import FOLDER as ENCODER_FOLDER
from tallformer_training.loop.job import RUN_FILE, Material
from tallformer_training.loop.record import read_metrics
from tallformer_training.loop.validation import measure
from tallformer_training.synthetic import SetSpec, make_dataset
from tallformer_training.synthetic.dataset import TRUTH_NAME

EVERY = 50


@dataclass(frozen=True, kw_only=True)
class DemoTraining:
    """What is trained, on what."""

    name: str
    """Of the script and of its figures."""
    recipe: Recipe
    config: TrainingConfig
    training: SetSpec
    validation: SetSpec
    testing: SetSpec

    @property
    def sets(self) -> tuple[SetSpec, ...]:
        """The three sets of videos."""
        return self.training, self.validation, self.testing


def run(demo: DemoTraining, options: argparse.Namespace) -> None:
    """Make the data, train for a while, and score the test set when training is finished."""
    torch.set_num_threads(options.threads)
    with join_processes("cpu") as processes:
        if processes.is_main:
            for spec in demo.sets:
                make_dataset(spec, _folder(options, spec), jobs=options.jobs)
        processes.barrier()
        _train(demo, options, processes)


def parse_options(name: str, arguments: Sequence[str] | None, *, videos: tuple[int, int]) -> argparse.Namespace:
    """Read the options of `benchmarks.NAME`.

    Args:
        name: The script.
        arguments: What was given; None reads the command line.
        videos: For training and for the test, unless the user says otherwise.
    """
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=run.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for data, frames and the run")
    parser.add_argument("--minutes", type=float, default=60.0, help="how long this call may train")
    parser.add_argument("--result", type=Path, default=Path(f"{name}.jsonl"), help="where the figures go")
    parser.add_argument("--videos", type=int, default=videos[0], help="training videos")
    parser.add_argument("--test-videos", type=int, default=videos[1], help="test videos")
    parser.add_argument("--threads", type=int, default=1, help="of torch, in each process")
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
        sys.stderr.write(f"{result.steps} steps done; the same command goes on\n")
    elif processes.is_main:
        test = _score(demo.recipe, result.model, _request(options, demo.testing), job.cache_folder)
        figures = {**_figures(demo, job, test), "cores": processes.count * options.threads}
        options.result.write_text(json.dumps(figures) + "\n", encoding="utf-8")
        sys.stdout.write(json.dumps({"test_map": figures["test"]["average_map"], "result": str(options.result)}) + "\n")


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
    """Mean loss of every `EVERY` steps, with the last of them."""
    parts = [lines[first : first + EVERY] for first in range(0, len(lines), EVERY)]
    return [(part[-1]["step"], round(sum(line["loss"] for line in part) / len(part), 4)) for part in parts]
