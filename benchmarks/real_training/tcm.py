"""Train the anchor head with and without TCM for many steps, and measure mAP during training.

    python -m benchmarks.real_training.tcm --work FOLDER --steps 3000 --only anchor,anchor-tcm --seeds 0

    python -m benchmarks.real_training.tcm --work FOLDER --beginning --seeds 0,1,2 --out LINES

FOLDER is that of `python -m benchmarks.real_training`, with its videos and features. Trained in the parking lot, tested
on the lawn (split `across`). A line per run is appended to `--out`: every `--every` steps the mean loss since the last
row, and mAP of the running mean of the weights. Variants: see `VARIANTS`. With `--beginning`, nothing is trained: a
line per seed contains what the random layers of the TCM add to their input.
"""

from __future__ import annotations

import argparse
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import RESULTS, append_line
from benchmarks.real_training.features import FeatureStore
from benchmarks.real_training.running import Place, load, run_job, scored, splits
from benchmarks.real_training.variants import (
    BATCH_WINDOWS,
    WINDOWS_PER_VIDEO,
    Variant,
    encoder_recipe,
    frozen_config,
    heads,
)
from benchmarks.real_training.videos import ORDERS, names_of
from tallformer_training.loop.checkpoints import MEAN, checkpoint_folders
from tallformer_training.loop.record import read_metrics
from tallformer_training.model import Detector

SPLIT = "across"
VARIANTS = ("anchor", "anchor-warm", "anchor-tcm", "anchor-tcm-quiet", "anchor-tcm-slow", "anchor-tcm-warm")
"""Without TCM; with TCM; `quiet`: a TCM that is initially the identity; `slow`: a third of the learning rate of all
weights; `warm`: ten times the warm-up."""
_SLOWER = 1 / 3
_WARM_UP_STEPS = 500


def main() -> None:
    """Do the requested runs."""
    options = _options()
    torch.set_num_threads(options.threads)
    videos = options.work / "videos"
    store = FeatureStore(options.work / "features-112")
    place = Place(videos=videos, truth=videos / "truth.json", store=store, work=options.work / "runs")
    for seed in options.seeds:
        for name in ["anchor-tcm"] if options.beginning else options.only:
            variant = variant_named(name, options.steps, options.every)
            if options.beginning:
                line = beginning(variant, place, seed=seed)
            else:
                line = measure(variant, place, seed=seed, every=options.every, minutes=options.minutes)
            append_line(options.out, line)
            print(name, seed, line.get("curve", [line])[-1], flush=True)


def variant_named(name: str, steps: int, every: int) -> Variant:
    """One of `VARIANTS`, for `steps` steps, with a checkpoint every `every` steps."""
    learned = len(splits(SPLIT)[0][0]) * ORDERS * WINDOWS_PER_VIDEO
    config = frozen_config(epochs=max(round(steps * BATCH_WINDOWS / learned), 1))
    config = replace(config, checkpoint_every_steps=every, keep_checkpoints=steps)
    base = name.removesuffix("-slow").removesuffix("-warm")
    (variant,) = (one for one in heads(encoder_recipe(side_px=112), config) if one.name == base)
    if name.endswith("-slow"):
        optimiser = replace(config.optimiser, base_lr=config.optimiser.base_lr * _SLOWER)
        config = replace(config, optimiser=optimiser)
    elif name.endswith("-warm"):
        config = replace(config, schedule=replace(config.schedule, warmup_steps=_WARM_UP_STEPS))
    return replace(variant, name=name, config=config)


def measure(variant: Variant, place: Place, *, seed: int, every: int, minutes: float) -> dict[str, Any]:
    """Train a variant for its steps or `minutes`, and evaluate its checkpoints."""
    names = names_of(splits(SPLIT)[0][0], ORDERS)
    folder = place.work / f"{variant.name}-long-{seed}"
    end_s = time.monotonic() + 60 * minutes
    run_job(variant, names, folder, place, seed=seed, until=lambda: time.monotonic() > end_s)
    line = score_checkpoints(variant, place, folder, seed=seed, every=every)
    shutil.rmtree(folder)
    return line


def score_checkpoints(variant: Variant, place: Place, folder: Path, *, seed: int, every: int) -> dict[str, Any]:
    """Loss and mAP at the checkpoints of a run, even if it was stopped."""
    tested = names_of(splits(SPLIT)[0][1])
    steps = [line for line in read_metrics(folder) if line["kind"] == "step"]
    curve = []
    for checkpoint in checkpoint_folders(folder):
        step = int(checkpoint.name.split("-")[1])
        if step % every:
            continue
        detector = load(variant, checkpoint / MEAN)
        result = scored({name: place.store.detect(detector, name) for name in tested}, place.truth)
        recent = [line["loss"] for line in steps[step - every : step]]
        loss = round(sum(recent) / len(recent), 4)
        curve.append({"step": step, "loss": loss, "map": result["map"], "average_map": result["average_map"]})
    return {
        "variant": variant.name,
        "split": SPLIT,
        "seed": seed,
        "planned_steps": variant.config.epochs * len(splits(SPLIT)[0][0]) * ORDERS * WINDOWS_PER_VIDEO // BATCH_WINDOWS,
        "steps": len(steps),
        "step_cpu_s": round(sum(line["processor_s"] for line in steps) / len(steps), 3),
        "curve": curve,
    }


def beginning(variant: Variant, place: Place, *, seed: int) -> dict[str, Any]:
    """What a TCM with random weights adds to its input, over the first windows of the training videos.

    `steps_differ`: standard deviation of the input over time, root mean square over channels; `added`: root mean square
    of output minus input; `added_differs`: its standard deviation over time.
    """
    torch.manual_seed(seed)
    detector = Detector(variant.recipe).eval()
    assert detector.tcm is not None, "the variant has a TCM"
    clips = variant.recipe.window.clips
    videos = [place.store.read(name)[0] for name in names_of(splits(SPLIT)[0][0])]
    windows = np.stack([np.moveaxis(video[:clips], 1, 0).reshape(video.shape[1], -1) for video in videos])
    with torch.no_grad():
        x = detector.reduction(torch.from_numpy(windows))  # (videos, C, steps)
        added = detector.tcm(x) - x
    spread = {"steps_differ": x.std(dim=-1), "added": added, "added_differs": added.std(dim=-1)}
    sizes = {name: round(float(value.square().mean().sqrt()), 4) for name, value in spread.items()}
    return {"variant": variant.name, "seed": seed, "windows": len(windows), **sizes}


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_training.tcm", description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of videos, features and runs")
    parser.add_argument("--beginning", action="store_true", help="measure random layers without training")
    parser.add_argument("--steps", type=int, default=3000, help="training steps")
    parser.add_argument("--minutes", type=float, default=1e9, help="end a run after this many minutes")
    parser.add_argument("--every", type=int, default=250, help="steps between measurements")
    parser.add_argument("--only", type=lambda text: text.split(","), default=["anchor", "anchor-tcm"], help="variants")
    parser.add_argument("--seeds", type=lambda text: [int(name) for name in text.split(",")], default=[0])
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_tcm.jsonl", help="file to append lines to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
