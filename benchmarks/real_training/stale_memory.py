"""Train heads on a memory that is stale on purpose, with and without TCM.

    python -m benchmarks.real_training.stale_memory --work FOLDER --seeds 0,1,2

In end-to-end training the other clips' features come from earlier states of the encoder, and the TCM is there to repair
that. Here it is exaggerated: of each training film, a random share r of the clips has features of the encoder after
end-to-end training (`python -m benchmarks.real_training.end_to_end`), and all others have those from before it. Tests
see features of the trained encoder only, as after real training. With r = 1 nothing is stale: the comparison. Trained
in the parking lot, tested on the lawn. One line per run is appended to `--out`.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.measure import RESULTS, append_line
from benchmarks.real_training.end_to_end import SIDE_PX, SPLIT, TRAINED, TRAINED_FEATURES, VARIANT
from benchmarks.real_training.features import EMPTY, FeatureStore, encode_all
from benchmarks.real_training.running import Place, load, run_job, scored, splits
from benchmarks.real_training.variants import BATCH_WINDOWS, WINDOWS_PER_VIDEO, encoder_recipe, frozen_config, heads
from benchmarks.real_training.videos import ORDERS, names_of

VARIANTS = ("anchor", "anchor-tcm", "anchor-tcm-quiet")
SHARES = (1.0, 0.15)
_DRAWS = 4
"""Draws of fresh clips for each film, so that heads cannot learn which ones are fresh."""


def main() -> None:
    """Encode the films with the trained encoder, and do the requested runs."""
    options = _options()
    torch.set_num_threads(options.threads)
    ((learned, left_out),) = splits(SPLIT)
    names = names_of(learned, ORDERS)
    tested = names_of(left_out)
    before = FeatureStore(options.work / f"features-{SIDE_PX}")
    after = _encoded_after(options.work, [*names, *tested])
    changed = drift(before, after, names)
    truth = options.work / "videos" / "truth.json"
    epochs = max(round(options.steps * BATCH_WINDOWS / (len(names) * _DRAWS * WINDOWS_PER_VIDEO)), 1)
    variants = heads(encoder_recipe(side_px=SIDE_PX), frozen_config(epochs=epochs))
    for seed in options.seeds:
        for share in options.shares:
            place, drawn = mixed(options.work, before, after, names, share=share, seed=seed)
            for variant in (one for one in variants if one.name in VARIANTS):
                folder = options.work / "runs" / "stale"
                model, losses = run_job(variant, drawn, folder, place, seed=seed)
                detector = load(variant, model)
                line: dict[str, Any] = {
                    "variant": variant.name,
                    "split": SPLIT,
                    "seed": seed,
                    "fresh_share": share,
                    "drift": changed,
                    "steps": len(losses),
                    "last_loss": round(sum(losses[-20:]) / len(losses[-20:]), 4),
                    **scored({name: after.detect(detector, name) for name in tested}, truth),
                }
                append_line(options.out, line)
                print(variant.name, share, seed, line["map"], line["last_loss"], flush=True)
                shutil.rmtree(folder)


def _encoded_after(work: Path, names: list[str]) -> FeatureStore:
    """Features by the encoder after end-to-end training."""
    folder = work / TRAINED_FEATURES
    (variant,) = (one for one in heads(encoder_recipe(side_px=SIDE_PX), frozen_config()) if one.name == VARIANT)
    paths = {name: work / "videos" / f"{name}.mp4" for name in names}
    encode_all(load(variant, work / TRAINED), paths, folder, bf16=True)
    return FeatureStore(folder)


def drift(before: FeatureStore, after: FeatureStore, names: list[str]) -> float:
    """L2 norm of what training changed in the features, as a part of their norm."""
    pairs = [(before.read(name)[0], after.read(name)[0]) for name in names]
    changed = sum(float(np.square(new - old).sum()) for old, new in pairs)
    return round((changed / sum(float(np.square(old).sum()) for old, _ in pairs)) ** 0.5, 3)


def mixed(
    work: Path, before: FeatureStore, after: FeatureStore, names: list[str], *, share: float, seed: int
) -> tuple[Place, list[str]]:
    """Films under new names, each with its own draw of fresh clips; returns their folders and names."""
    folder = work / "stale"
    shutil.rmtree(folder, ignore_errors=True)
    videos, features = folder / "videos", folder / "features"
    videos.mkdir(parents=True)
    features.mkdir()
    database = json.loads((work / "videos" / "truth.json").read_text(encoding="utf-8"))["database"]
    chosen = random.Random(seed)
    drawn = {}
    for name in names:
        old, frames = before.read(name)
        new, _ = after.read(name)
        for draw in range(_DRAWS):
            fresh = chosen.sample(range(len(old)), max(round(share * len(old)), 1))
            mixed = old.copy()
            mixed[fresh] = new[fresh]
            drawn[f"{name}-{draw}"] = database[name]
            np.savez(features / f"{name}-{draw}.npz", features=mixed, frames=frames)
            (videos / f"{name}-{draw}.mp4").symlink_to((work / "videos" / f"{name}.mp4").resolve())
    np.save(features / f"{EMPTY}.npy", after.empty)
    (videos / "truth.json").write_text(json.dumps({"database": drawn}), encoding="utf-8")
    store = FeatureStore(features)
    return Place(videos=videos, truth=videos / "truth.json", store=store, work=folder / "runs"), list(drawn)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_training.stale_memory", description=main.__doc__)
    parser.add_argument("--work", type=Path, required=True, help="folder of videos, features and runs")
    parser.add_argument("--steps", type=int, default=500, help="training steps")
    parser.add_argument("--seeds", type=lambda text: [int(name) for name in text.split(",")], default=[0, 1, 2])
    parser.add_argument("--shares", type=lambda text: [float(part) for part in text.split(",")], default=list(SHARES))
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--out", type=Path, default=RESULTS / "real_stale.jsonl", help="file to append lines to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
