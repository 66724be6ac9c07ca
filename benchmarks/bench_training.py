"""What encoding a part r of the clips saves: bytes kept for the backward pass, and time of a training step.

    python -m benchmarks.bench_training > benchmarks/results/training.jsonl

One thread, so that the time of a step is that of its arithmetic. The ratios take turns, step by step, so that whatever
else the machine does meets all of them alike.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks import train_demo
from benchmarks.measure import Timing, report
from benchmarks.training_step import StepTrial
from tallformer_infer.config import Recipe, preset
from tallformer_training.memory import encoded_count
from tallformer_training.training import TrainingConfig

RATIOS = (0.0, 0.15, 0.3, 0.4, 0.6, 1.0)
MOST_BYTES, MOST_TIME = 0.20, 0.35
"""What is wanted at r = 0.15, as parts of what r = 1 takes."""


@dataclass(frozen=True, kw_only=True)
class Trial:
    """A recipe to measure, and how to train it."""

    recipe: Recipe
    """Architecture and window."""
    config: TrainingConfig
    """Batch, optimiser, losses."""
    rounds: int
    """Timed steps at each ratio."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line per recipe and ratio."""
    trials = _trials()
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_training", description=main.__doc__)
    parser.add_argument("--recipe", choices=trials, action="append", help="measure this one; again for more")
    parser.add_argument("--rounds", type=int, help="timed steps at each ratio")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.recipe or trials:
        trial = trials[name]
        measure_ratios(trial if options.rounds is None else replace(trial, rounds=options.rounds))


def measure_ratios(trial: Trial, ratios: Sequence[float] = RATIOS) -> dict[float, tuple[int, Timing]]:
    """Measure a step at each ratio, and print a line for each.

    Args:
        trial: What to measure.
        ratios: The last is what the others are compared with.

    Returns:
        Bytes kept for the backward pass, and times, by ratio.
    """
    torch.manual_seed(0)
    with TemporaryDirectory() as folder, StepTrial(trial.recipe, trial.config, Path(folder)) as steps:
        saved = {ratio: steps.saved_bytes(ratio) for ratio in ratios}  # the first step of each: a warm-up, too
        timings = _take_turns(steps, ratios, trial.rounds)
    for ratio in ratios:
        _report(trial, ratio, saved, timings, full=ratios[-1])
    return {ratio: (saved[ratio], timings[ratio]) for ratio in ratios}


def _trials() -> dict[str, Trial]:
    """Swin-T on windows of THUMOS14, where the encoder is nearly everything, and the demo model."""
    swin = preset("thumos14-swin-t-112")
    return {
        swin.name: Trial(recipe=swin, config=TrainingConfig(batch_windows=1), rounds=3),
        train_demo.RECIPE.name: Trial(recipe=train_demo.RECIPE, config=train_demo.CONFIG, rounds=15),
    }


def _take_turns(steps: StepTrial, ratios: Sequence[float], rounds: int) -> dict[float, Timing]:
    wall_s: dict[float, list[float]] = {ratio: [] for ratio in ratios}
    cpu_s: dict[float, list[float]] = {ratio: [] for ratio in ratios}
    for _ in range(rounds):
        for ratio in ratios:
            loaded = steps.load(ratio)
            wall, cpu = time.perf_counter(), time.process_time()
            steps.step(ratio, loaded)
            wall_s[ratio].append(time.perf_counter() - wall)
            cpu_s[ratio].append(time.process_time() - cpu)
    return {ratio: Timing(tuple(wall_s[ratio]), tuple(cpu_s[ratio])) for ratio in ratios}


def _report(trial: Trial, ratio: float, saved: dict[float, int], timings: dict[float, Timing], *, full: float) -> None:
    window, config = trial.recipe.window, trial.config
    report(
        "training_step",
        timings[ratio],
        recipe=trial.recipe.name,
        ratio=ratio,
        clips_encoded=encoded_count(window.clips, ratio),
        clips=window.clips,
        batch_windows=config.batch_windows,
        crop_px=trial.recipe.sampling.crop_px,
        precision=config.precision,
        checkpointing=config.checkpointing,
        threads=torch.get_num_threads(),
        saved_bytes=saved[ratio],
        saved_part=round(saved[ratio] / saved[full], 4),
        step_part=round(float(np.median(timings[ratio].wall_s) / np.median(timings[full].wall_s)), 4),
        cpu_part=round(float(np.median(timings[ratio].cpu_s) / np.median(timings[full].cpu_s)), 4),
    )


if __name__ == "__main__":
    main(sys.argv[1:])
