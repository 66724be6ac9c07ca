"""Train detectors on real footage from a frozen encoder, and measure them on sequences that were left out.

    python -m benchmarks.real_training --encoder kinetics400.safetensors --work FOLDER [--only NAME,NAME] [--seeds 3]

UT-Interaction (`../shared/real`) as untrimmed videos, see `videos`; 6 classes; (a) `both`: five folds by sequence, (b)
`across`: learned in the parking lot, tested on the lawn. `--encoder` is a checkpoint of recipe
`kinetics400-i3d`, whose encoder is taken, and its classifier for the baseline without training.
Features are computed once and stand in the work folder. Every
run then trains with `tallformer_training` from a memory that is made of them. Lines go to `--out`, one for each run;
runs that stand there already are left out.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch

from benchmarks.kinetics.encoding import load_encoder
from benchmarks.measure import circumstances
from benchmarks.real_training.baselines import linear, untrained, whole_shots
from benchmarks.real_training.features import FeatureStore, encode_all
from benchmarks.real_training.running import Place, run, splits
from benchmarks.real_training.variants import BATCH_WINDOWS, WINDOWS_PER_VIDEO, encoder_recipe, frozen_config, heads
from benchmarks.real_training.videos import compose, compositions
from tallformer_infer.config import Recipe
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.model import Detector

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
RESULTS = Path(__file__).parents[1] / "results" / "real_training.jsonl"
ENCODER = "backbone."


def main() -> None:
    """Compose, encode, and do the runs that are left."""
    options = _options()
    torch.set_num_threads(options.threads)
    end_s = time.monotonic() + 60 * options.minutes
    recipe = encoder_recipe(side_px=options.side)
    videos = options.work / "videos"
    truth = videos / "truth.json"
    if not truth.exists():
        compose(options.real, videos, options.orders)
    features = options.work / f"features-{options.side}"
    paths = {one.name: videos / f"{one.name}.mp4" for one in compositions(options.orders)}
    encode_all(_detector(recipe, options.encoder), paths, features, bf16=options.bf16)
    place = Place(videos=videos, truth=truth, store=FeatureStore(features), work=options.work / "runs")
    done = _done(options.out)
    _write_baselines(options, place, done)
    for split in ("both", "across"):
        learned = len(splits(split)[0][0]) * options.orders * WINDOWS_PER_VIDEO
        epochs = max(round(options.steps * BATCH_WINDOWS / learned), 1)
        for variant in heads(recipe, frozen_config(epochs=epochs)):
            if options.only and variant.name not in options.only:
                continue
            for seed in range(options.seeds):
                key = (variant.name, split, seed, options.side)
                if key not in done and time.monotonic() < end_s:
                    line = run(variant, split, place, seed=seed, orders=options.orders)
                    facts = {"side_px": options.side, "bf16_features": options.bf16, **circumstances()}
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps({**line, **facts}) + "\n")
                    print(variant.name, split, seed, line["map"], line["average_map"], line["train_s"], flush=True)


def _write_baselines(options: argparse.Namespace, place: Place, done: set[tuple[str, str, int, int]]) -> None:
    _, weight, bias = load_encoder(options.encoder)
    for split in ("both", "across"):
        if ("linear", split, 0, options.side) in done:
            continue
        lines = [whole_shots(split, place), untrained(split, place, weight, bias)]
        lines.append(linear(split, place, orders=options.orders))
        with options.out.open("a", encoding="utf-8") as file:
            for line in lines:
                file.write(json.dumps({**line, "side_px": options.side, **circumstances()}) + "\n")


def _done(path: Path) -> set[tuple[str, str, int, int]]:
    if not path.exists():
        return set()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {(line["variant"], line["split"], line["seed"], line["side_px"]) for line in lines}


def _detector(recipe: Recipe, path: Path) -> Detector:
    """A detector of the recipe with the encoder of a checkpoint, the rest at random."""
    detector = Detector(recipe)
    state = load_checkpoint(path).state
    learned = {name.removeprefix(ENCODER): value for name, value in state.items() if name.startswith(ENCODER)}
    detector.backbone.load_state_dict(learned)
    return detector


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.real_training", description=main.__doc__)
    parser.add_argument("--encoder", type=Path, required=True, help="checkpoint whose encoder is used")
    parser.add_argument("--work", type=Path, required=True, help="folder of videos, features and runs")
    parser.add_argument("--real", type=Path, default=REAL, help="folder of the footage")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file that gets a line for each run")
    parser.add_argument("--side", type=int, default=112, help="side of the frames that the encoder sees, in pixels")
    parser.add_argument("--orders", type=int, default=2, help="compositions of each sequence")
    parser.add_argument("--steps", type=int, default=120, help="training steps of each part of a split")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each variant")
    parser.add_argument("--only", type=lambda text: text.split(","), default=[], help="variants, with commas")
    parser.add_argument("--minutes", type=float, default=1e9, help="begin no run after so many minutes")
    parser.add_argument("--threads", type=int, default=2, help="of torch")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16")
    return parser.parse_args()


if __name__ == "__main__":
    main()
