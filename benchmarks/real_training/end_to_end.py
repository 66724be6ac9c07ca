"""Continue training a head with a frozen encoder and end to end: effect and cost of training the encoder.

    python -m benchmarks.real_training.end_to_end --encoder kinetics400.safetensors --work FOLDER --steps 40

FOLDER is that of `python -m benchmarks.real_training`. The point head is first trained in the parking lot on a frozen
encoder; then it is trained for `--steps` more steps twice from the same weights: with r = 0, and with `--ratio`, where
the encoder is trained on a share of the clips and the others come from the memory. Both are tested on the lawn, the
second one with newly encoded features. One line per part is appended to `--out`. With `--cost`, a few steps are timed
in both precisions.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.kinetics.encoding import load_encoder
from benchmarks.measure import RESULTS, append_line
from benchmarks.real_training.features import FeatureStore, encode_all
from benchmarks.real_training.running import Place, load, run_job, scored, splits
from benchmarks.real_training.variants import Variant, encoder_recipe, frozen_config, heads
from benchmarks.real_training.videos import ORDERS, names_of
from tallformer_training.checkpoint import save_checkpoint
from tallformer_training.loop.record import read_metrics
from tallformer_training.memory import encoded_count
from tallformer_training.model import Detector

VARIANT, SPLIT, SIDE_PX = "points", "across", 112
TRAINED = "end-to-end.safetensors"
"""The detector whose encoder was trained, in the work folder; see `stale_memory`."""
TRAINED_FEATURES = f"features-{SIDE_PX}-trained"
"""Features by its encoder."""
FROZEN_EPOCHS = 24
"""Epochs of the first part: 120 steps."""
_BATCH_WINDOWS = 2
_COST_STEPS, _COST_VIDEOS = 6, 4
_LR = 3e-4


def main() -> None:
    """Train the head, continue in both ways, and write a line for each."""
    options = _options()
    torch.set_num_threads(options.threads)
    videos = options.work / "videos"
    store = FeatureStore(options.work / f"features-{SIDE_PX}")
    place = Place(videos=videos, truth=videos / "truth.json", store=store, work=options.work / "runs")
    ((learned, left_out),) = splits(SPLIT)
    names = names_of(learned, ORDERS)
    tested = names_of(left_out)
    if options.cost:
        for precision in ("fp32", "bf16"):
            append_line(options.out, _cost(options, place, names[:_COST_VIDEOS], precision))
        return
    first = _variant(0.0, FROZEN_EPOCHS)
    start = _with_encoder(first, options.encoder, options.work / "start.safetensors", options.seed)
    folder = options.work / "runs" / "end-to-end"
    for name, ratio in (("first", 0.0), ("frozen", 0.0), ("end-to-end", options.ratio)):
        variant = first if name == "first" else continued(ratio, options.steps, len(names), options.precision)
        started_s, started_cpu_s = time.perf_counter(), time.process_time()
        model, losses = run_job(variant, names, folder / name, place, seed=options.seed, start=start)
        spent = {"train_s": time.perf_counter() - started_s, "train_cpu_s": time.process_time() - started_cpu_s}
        features = store if ratio == 0 else _encoded(variant, model, place, tested, folder)
        detector = load(variant, model)
        result = scored({video: features.detect(detector, video) for video in tested}, place.truth)
        line: dict[str, Any] = {
            "part": name,
            "variant": VARIANT,
            "split": SPLIT,
            "seed": options.seed,
            "ratio": ratio,
            "precision": variant.config.precision,
            "batch_windows": variant.config.batch_windows,
            "steps": len(losses),
            "first_loss": round(sum(losses[:10]) / len(losses[:10]), 4),
            "last_loss": round(sum(losses[-10:]) / len(losses[-10:]), 4),
            **{key: round(value, 1) for key, value in spent.items()},
            **result,
        }
        append_line(options.out, line)
        print(name, line["steps"], line["map"], line["average_map"], line["train_cpu_s"], flush=True)
        if name == "first":
            start = Path(shutil.copy(model, options.work / "head.safetensors"))
        elif name == "end-to-end":
            shutil.copy(model, options.work / TRAINED)
            shutil.rmtree(options.work / TRAINED_FEATURES, ignore_errors=True)
    shutil.rmtree(folder)


def _cost(options: argparse.Namespace, place: Place, names: list[str], precision: str) -> dict[str, Any]:
    """Processor time of a step, median of all but the first."""
    variant = continued(options.ratio, _COST_STEPS, len(names), precision)
    start = _with_encoder(variant, options.encoder, options.work / "start.safetensors", options.seed)
    folder = options.work / "runs" / "cost"
    run_job(variant, names, folder, place, seed=options.seed, start=start)
    seconds = [line["processor_s"] for line in read_metrics(folder) if line["kind"] == "step"]
    shutil.rmtree(folder)
    window, batch = variant.recipe.window, variant.config.batch_windows
    return {
        "part": "cost",
        "ratio": options.ratio,
        "precision": precision,
        "threads": options.threads,
        "batch_windows": batch,
        "clips": batch * encoded_count(window.clips, options.ratio),
        "clip_frames": window.clip_frames,
        "side_px": SIDE_PX,
        "step_cpu_s": round(statistics.median(seconds[1:]), 2),
    }


def _variant(ratio: float, epochs: int) -> Variant:
    config = replace(frozen_config(epochs=epochs), ratio=ratio)
    (variant,) = (one for one in heads(encoder_recipe(side_px=SIDE_PX), config) if one.name == VARIANT)
    return variant


def continued(ratio: float, steps: int, videos: int, precision: str) -> Variant:
    """Settings for `steps` steps with small batches, as encoding takes nearly all of the time."""
    epochs = max(round(steps * _BATCH_WINDOWS / videos), 1)
    variant = _variant(ratio, epochs)
    config = replace(
        variant.config,
        batch_windows=_BATCH_WINDOWS,
        windows_per_video=1,
        optimiser=replace(variant.config.optimiser, base_lr=_LR),
        schedule=replace(variant.config.schedule, warmup_steps=min(10, steps)),
        precision=precision,  # type: ignore[arg-type]  # one of argparse's choices
    )
    return replace(variant, config=config)


def _with_encoder(variant: Variant, encoder: Path, path: Path, seed: int) -> Path:
    """Write random weights of the seed with the encoder of a checkpoint."""
    torch.manual_seed(seed)
    detector = Detector(variant.recipe)
    detector.backbone.load_state_dict(load_encoder(encoder)[0].state_dict())
    save_checkpoint(path, detector.state_dict(), variant.recipe, provenance={"trained": False})
    return path


def _encoded(variant: Variant, model: Path, place: Place, names: list[str], folder: Path) -> FeatureStore:
    """Features of videos by the encoder of a trained model."""
    out = folder / "features"
    paths = {name: place.videos / f"{name}.mp4" for name in names}
    encode_all(load(variant, model), paths, out, bf16=True)
    return FeatureStore(out)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_training.end_to_end", description=main.__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="checkpoint of recipe kinetics400-i3d")
    parser.add_argument("--work", type=Path, required=True, help="folder of videos, features and runs")
    parser.add_argument("--steps", type=int, default=40, help="training steps of the second part")
    parser.add_argument("--ratio", type=float, default=0.15, help="share of clips on which the encoder is trained")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="bf16", help="precision of the second part")
    parser.add_argument("--cost", action="store_true", help="only measure the time of a step")
    parser.add_argument("--seed", type=int, default=0, help="seed of training")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_end_to_end.jsonl", help="file to append lines to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
