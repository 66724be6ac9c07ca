"""Train detectors on real footage with a frozen encoder, and evaluate them on held-out sequences.

    python -m benchmarks.real_training --encoder kinetics400.safetensors --work FOLDER [--only NAME,NAME] [--seeds 0,1]

UT-Interaction (`../shared/real`) as untrimmed videos, see `videos`; 6 classes; (a) `both`: five folds by sequence, (b)
`across`: trained in the parking lot, tested on the lawn. `--encoder` is a checkpoint of recipe `kinetics400-i3d`, whose
encoder is used, and its classifier for the untrained baseline; `--encoder demo` uses the encoder trained on generated
video, at its own frame rate and size. Features are computed once and stored in the work folder. Every run then trains
with `tallformer_training` from a memory of these features. One line per run is appended to `--out`; runs with a line
there are skipped.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks.kinetics.encoding import load_encoder
from benchmarks.measure import RESULTS, append_line, read_lines
from benchmarks.real_training.baselines import linear, untrained, whole_shots
from benchmarks.real_training.features import FeatureStore, encode_all, encode_all_with_bundle
from benchmarks.real_training.running import Place, run, splits
from benchmarks.real_training.variants import (
    BATCH_WINDOWS,
    WINDOWS_PER_VIDEO,
    encoder_recipe,
    frozen_config,
    generated_recipe,
    heads,
)
from benchmarks.real_training.videos import ORDERS, compose, compositions
from tallformer_infer.config import Recipe
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.model import Detector

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
ENCODER = "backbone."
GENERATED = Path("demo")
"""Instead of a checkpoint: the encoder of the bundle of that name, trained on generated video."""
VARIANTS = ["points", "anchor", "anchor-tcm", "refined"]


def main() -> None:
    """Compose videos, encode them, and do the remaining runs."""
    options = _options()
    torch.set_num_threads(options.threads)
    end_s = time.monotonic() + 60 * options.minutes
    recipe, place = prepare(options)
    facts = {"encoder": options.encoder.stem, "side_px": recipe.sampling.crop_px, "bf16_features": options.bf16}
    done = _done(options.out, options.steps)
    for split in options.splits:
        for line in _baselines(options, place, split, done):
            append_line(options.out, {**line, **facts})
        learned = len(splits(split)[0][0]) * options.orders * WINDOWS_PER_VIDEO
        epochs = max(round(options.steps * BATCH_WINDOWS / learned), 1)
        for seed in options.seeds:
            for variant in heads(recipe, frozen_config(epochs=epochs)):
                if variant.name not in options.only or (options.encoder.stem, variant.name, split, seed) in done:
                    continue
                if time.monotonic() < end_s:
                    line = run(variant, split, place, seed=seed, orders=options.orders)
                    append_line(options.out, {**line, **facts})
                    print(variant.name, split, seed, line["map"], line["average_map"], line["train_cpu_s"], flush=True)


def prepare(options: argparse.Namespace) -> tuple[Recipe, Place]:
    """Compose and encode missing videos; returns the recipe of the encoder, and the folders."""
    is_generated = options.encoder == GENERATED
    recipe = generated_recipe() if is_generated else encoder_recipe(side_px=options.side)
    videos = options.work / "videos"
    truth = videos / "truth.json"
    if not truth.exists():
        compose(options.real, videos, options.orders)
    features = options.work / ("features-generated" if is_generated else f"features-{options.side}")
    paths = {one.name: videos / f"{one.name}.mp4" for one in compositions(options.orders)}
    if is_generated:
        encode_all_with_bundle("demo", paths, features)
    else:
        encode_all(_detector(recipe, options.encoder), paths, features, bf16=options.bf16)
    step_s = recipe.model.encoder_stride / recipe.sampling.sample_fps
    work = options.work / "runs"
    return recipe, Place(videos=videos, truth=truth, store=FeatureStore(features), work=work, step_s=step_s)


def _baselines(
    options: argparse.Namespace, place: Place, split: str, done: set[tuple[str, str, str, int]]
) -> Iterator[dict[str, Any]]:
    if (options.encoder.stem, "linear", split, 0) in done:
        return
    yield linear(split, place, orders=options.orders)
    if options.encoder != GENERATED:
        _, weight, bias = load_encoder(options.encoder)
        yield whole_shots(split, place)
        yield untrained(split, place, weight, bias)


def _done(path: Path, steps: int) -> set[tuple[str, str, str, int]]:
    """Runs with a line: all baselines, and those of about as many steps, which are rounded to whole epochs."""
    if not path.exists():
        return set()
    return {
        (line["encoder"], line["variant"], line["split"], line["seed"])
        for line in read_lines(path)
        if not line["steps"] or abs(line["steps"] - steps) <= 0.1 * steps
    }


def _detector(recipe: Recipe, path: Path) -> Detector:
    """A detector of the recipe with the encoder of a checkpoint, and otherwise random weights."""
    detector = Detector(recipe)
    state = load_checkpoint(path).state
    learned = {name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}
    detector.backbone.load_state_dict(learned)
    return detector


def _names(text: str) -> list[str]:
    return text.split(",")


def _numbers(text: str) -> list[int]:
    return [int(name) for name in text.split(",")]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_training", description=main.__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="checkpoint whose encoder is used, or `demo`")
    parser.add_argument("--work", type=Path, required=True, help="folder of videos, features and runs")
    parser.add_argument("--real", type=Path, default=REAL, help="folder of the footage")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_training.jsonl", help="file to append lines to")
    parser.add_argument("--side", type=int, default=112, help="side of the encoder's frames, in pixels")
    parser.add_argument("--orders", type=int, default=ORDERS, help="compositions of each sequence")
    parser.add_argument("--steps", type=int, default=120, help="training steps per part of a split")
    parser.add_argument("--seeds", type=_numbers, default=[0, 1, 2], help="comma-separated seeds of the runs")
    parser.add_argument("--only", type=_names, default=VARIANTS, help="comma-separated variants")
    parser.add_argument("--splits", type=_names, default=["both", "across"], help="comma-separated splits")
    parser.add_argument("--minutes", type=float, default=1e9, help="start no run after this many minutes")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16")
    return parser.parse_args()


if __name__ == "__main__":
    main()
