"""What does encoding a share r of the clips save: bytes kept for the backward pass, and time of a training step?

    python -m benchmarks.bench_training > benchmarks/results/training.jsonl

One thread, so that the time of a step is that of its arithmetic. The ratios take turns, step by step, so that other
load affects all alike.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch

from benchmarks.goals import Figure
from benchmarks.measure import Call, Timing, clocked, paired, report, say_round, take_turns
from benchmarks.train_demo import DEMO
from benchmarks.training_step import StepTrial
from tallformer_infer.config import Recipe, preset
from tallformer_training.loop import TrainingConfig
from tallformer_training.memory import encoded_count

RATIOS = (0.0, 0.15, 0.3, 0.4, 0.6, 1.0)
_SWIN = "thumos14-swin-t-112"
MOST_BYTES, MOST_TIME = 0.20, 0.35
"""Goals at r = 0.15, relative to r = 1."""


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
    parser.add_argument("--recipe", choices=trials, action="append", help="recipe to measure; repeatable")
    parser.add_argument("--rounds", type=int, help="timed steps at each ratio")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for name in options.recipe or trials:
        trial = trials[name]
        measure_ratios(trial if options.rounds is None else replace(trial, rounds=options.rounds))


def measure_ratios(trial: Trial, ratios: Sequence[float] = RATIOS) -> dict[float, tuple[int, Timing]]:
    """Measure a step at each ratio, and print a line for each.

    Args:
        trial: Recipe and settings.
        ratios: Ratios; the last one is the reference.

    Returns:
        Bytes kept for the backward pass, and timings, by ratio.
    """
    torch.manual_seed(0)
    with TemporaryDirectory() as folder, StepTrial(trial.recipe, trial.config, Path(folder)) as steps:
        saved = {ratio: steps.saved_bytes(ratio) for ratio in ratios}  # the first step of each, also the warm-up
        ways = {ratio: lambda _, ratio=ratio: _step(steps, ratio) for ratio in ratios}
        calls = take_turns(
            ways, rounds=trial.rounds, warmups=0, on_round=partial(say_round, trial.recipe.name, trial.rounds)
        )
    timings = {ratio: Timing.of(calls[ratio]) for ratio in ratios}
    for ratio in ratios:
        _report(trial, ratio, saved, timings, full=ratios[-1])
    return {ratio: (saved[ratio], timings[ratio]) for ratio in ratios}


def goal(work: Path) -> dict[str, Figure]:
    """Bytes kept and time of a step at r = 0.15 relative to r = 1, for a model dominated by its encoder."""
    torch.set_num_threads(1)
    trial = replace(_trials()[_SWIN], rounds=2)
    found = measure_ratios(trial, (0.15, 1.0))
    (few_bytes, few), (all_bytes, whole) = found[0.15], found[1.0]
    clips = trial.recipe.window.clips
    encoded = encoded_count(clips, 0.15)
    return {
        "kept": Figure(
            value=few_bytes / all_bytes, profile=f"{_SWIN}, {encoded} of {clips} clips, {few_bytes / 2**20:.0f} MiB"
        ),
        "step": Figure.of(
            paired(few.wall_s, whole.wall_s), f"{few.spread.median:.2f} s of {whole.spread.median:.1f} s, one thread"
        ),
    }


def _trials() -> dict[str, Trial]:
    """Swin-T on windows of THUMOS14, which is dominated by its encoder, and the demo model."""
    swin = preset(_SWIN)
    return {
        swin.name: Trial(recipe=swin, config=TrainingConfig(batch_windows=1), rounds=3),
        DEMO.recipe.name: Trial(recipe=DEMO.recipe, config=DEMO.config, rounds=15),
    }


def _step(steps: StepTrial, ratio: float) -> Call:
    """Time a step at a ratio, without reading its pixels, which training does ahead."""
    loaded = steps.load(ratio)
    return clocked(lambda: steps.step(ratio, loaded))(0)


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
