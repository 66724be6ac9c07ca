"""Recall and false alarms of Kinetics-400's I3D with a contrast head, on films composed of real footage.

    python -m benchmarks.kinetics film   --work FOLDER --part tuning --minutes 60
    python -m benchmarks.kinetics encode --work FOLDER --part tuning --encoder kinetics400.safetensors --height 160
    python -m benchmarks.kinetics judge  --work FOLDER --encoder kinetics400.safetensors [--out LINES]
    python -m benchmarks.kinetics detect --work FOLDER --part report --model kinetics400 [--out LINES]

`detect` runs an installed model as the command does and evaluates it at its own operating points. Computed features
are kept for `judge` and for the next run (remove them for another `--device` or `--bf16`). `encode` stores the features
of a film for each encoding, so that `judge` evaluates every setting of the head in seconds: each differs from the
chosen one in one value. A line contains recall at tIoU 0.3 at the lowest threshold with at most 12, 30 and 60 false
alarms per hour, once with all 400 classes, once with those of the film's actions (`--classes`). Only the lines are
stored in the repository.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.kinetics.contrast import Settings, detect
from benchmarks.kinetics.encoding import Encoding, encode, load_encoder
from benchmarks.kinetics.film import ACCEPTED, FILM_FPS, Placed, Truth, arrange, read_scenes, truths, write_film
from benchmarks.kinetics.judging import judge
from benchmarks.kinetics.shipped import judge_points, search, search_features
from benchmarks.measure import append_line
from tallformer_infer import Detector
from tallformer_infer.runtime import RunPrecision

REAL = Path(__file__).resolve().parents[3] / "shared" / "real"
CLASSES = Path(__file__).resolve().parents[3] / "shared" / "reference" / "kinetics400_classes.txt"
ALARMS_PER_HOUR = (12, 30, 60)
GROUPS = (
    ("side kick", "high kick", "drop kicking"),
    ("shooting basketball", "playing basketball", "dribbling basketball", "dunking basketball"),
    ("filling eyebrows", "applying cream"),
)
"""Classes with nearly the same meaning, whose probabilities are added."""
VARIATIONS: dict[str, tuple[Any, ...]] = {
    "logit_steps": (1, 5, 7),
    "smoothing_steps": (3,),
    "temperature": (0.8, 1.2, 2.0),
    "shortest_s": (1.0, 1.3, 1.6, 2.4),
    "margin_part": (0.25, 0.5, 2.0),
    "least_margin_s": (0.32, 1.28),
    "margins": ("mean",),
    "contrast_weight": (0.5, 0.75),
    "combination": ("contrast", "product", "inside"),
    "entropy_weight": (1.0,),
    "prior_weight": (0.5, 1.0),
    "is_best_class_only": (False,),
    "suppression": ("nms", "soft"),
    "tiou": (0.2, 0.5),
    "across_classes": (True,),
    "barriers": (True,),
}


def main() -> None:
    """Run one of the steps."""
    options = _options()
    torch.set_num_threads(options.threads)
    match options.step:
        case "film":
            _make_film(options)
        case "encode":
            _encode(options)
        case "detect":
            _detect(options)
        case _:
            _judge(options)


def _make_film(options: argparse.Namespace) -> None:
    placed = arrange(read_scenes(options.real, options.part), minutes=options.minutes, seed=options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    write_film(options.real, placed, options.work / f"{options.part}.mp4")
    unique = {one.shot.path: one.shot.frames for one in placed}
    facts = {
        "truths": [asdict(truth) for truth in truths(placed)],
        "cuts_s": _cuts(placed),
        "unique_s": round(sum(unique.values()) / FILM_FPS, 1),
    }
    (options.work / f"{options.part}.json").write_text(json.dumps(facts), encoding="utf-8")


def _cuts(placed: list[Placed]) -> list[float]:
    ends = np.cumsum([one.frames for one in placed])
    return [float(end) / FILM_FPS for end in ends]


def _encode(options: argparse.Namespace) -> None:
    encoding = Encoding(
        sample_fps=options.fps,
        clip_frames=options.clip,
        hop_frames=options.hop or options.clip,
        crop=options.crop,
        height_px=options.height,
    )
    encoder, _, _ = load_encoder(options.encoder)
    features = encode(options.work / f"{options.part}.mp4", encoder, encoding, bf16=options.bf16)
    np.save(options.work / f"{options.part}-{encoding.name}.npy", features)


def _detect(options: argparse.Namespace) -> None:
    precision: RunPrecision | None = "bf16" if options.bf16 else None
    detector = Detector.load(options.model, device=options.device, threads=options.threads, precision=precision)
    encoding = replace(Encoding(), height_px=detector.bundle.recipe.sampling.crop_px)
    film, kept = options.work / f"{options.part}.mp4", options.work / f"{options.part}-{encoding.name}.npy"
    if kept.exists():
        found = search_features(detector, film, np.load(kept))
    else:
        found, features = search(detector, film)
        np.save(kept, features)
    facts = options.work / f"{options.part}.json"
    how = {
        "part": options.part,
        "model": options.model,
        "unique_s": json.loads(facts.read_text(encoding="utf-8"))["unique_s"],
        "runtime": options.made_by or detector.runtime.name,
        "precision": detector.runtime.precision,
    }
    for line in judge_points(detector.bundle, found, facts):
        append_line(options.out, {**how, **line})


def _judge(options: argparse.Namespace) -> None:
    _, weight, bias = load_encoder(options.encoder)
    classes = CLASSES.read_text(encoding="utf-8").split("\n")[: len(bias)]
    for path in sorted(options.work.glob("*.npy")):
        part, fps, clip, hop, crop, height = path.stem.split("-")
        encoding = Encoding(
            sample_fps=float(fps), clip_frames=int(clip), hop_frames=int(hop), crop=crop, height_px=int(height)
        )
        logits = np.load(path).astype(np.float64) @ weight.T + bias
        facts = json.loads((options.work / f"{part}.json").read_text(encoding="utf-8"))
        groups = tuple(tuple(classes.index(name) for name in group) for group in GROUPS)
        every = list(_variations()) if encoding == Encoding() and part == "tuning" else [("chosen", Settings())]
        cases = [(name, settings, groups) for name, settings in every]
        if len(cases) > 1:
            cases.append(("no groups", Settings(), ()))
        for name, settings, joined in cases:
            line = _line(logits, encoding, settings, facts, classes, joined)
            append_line(options.out, {"part": part, "encoding": asdict(encoding), "setting": name, **line})


def _variations() -> Iterator[tuple[str, Settings]]:
    yield "chosen", Settings()
    for name, values in VARIATIONS.items():
        for value in values:
            yield f"{name}={value}", replace(Settings(), **{name: value})


def _line(
    logits: np.ndarray,
    encoding: Encoding,
    settings: Settings,
    facts: dict[str, Any],
    classes: list[str],
    groups: tuple[tuple[int, ...], ...],
) -> dict[str, Any]:
    duration_s = len(logits) * encoding.step_s
    known = [Truth(**truth) for truth in facts["truths"] if truth["end_s"] <= duration_s]
    named = np.isin(np.array(classes), [name for names in ACCEPTED.values() for name in names])
    line: dict[str, Any] = {"duration_s": round(duration_s, 1), "truths": sum(not one.is_optional for one in known)}
    for vocabulary, allowed in (("all", None), ("named", named)):
        cuts = tuple(facts["cuts_s"])
        found = detect(logits, encoding.step_s, settings, groups=groups, allowed=allowed, cuts_s=cuts)
        judged = judge(found, known, classes, duration_s=duration_s)
        for alarms in ALARMS_PER_HOUR:
            point = judged.best(alarms_per_hour=alarms)
            line[f"{vocabulary}_{alarms}"] = {
                "recall": round(point.recall, 4),
                "threshold": round(point.threshold, 3),
                "false_alarms": point.false_alarms,
                "found": point.found,
                "of": point.truths,
            }
    return line


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.kinetics", description=main.__doc__)
    parser.add_argument("step", choices=("film", "encode", "detect", "judge"))
    parser.add_argument("--work", type=Path, required=True, help="folder of films and features")
    parser.add_argument("--real", type=Path, default=REAL, help="folder of the footage")
    parser.add_argument("--part", choices=("tuning", "report"), default="tuning", help="part of the footage")
    parser.add_argument("--minutes", type=float, default=60, help="minimum length of the film")
    parser.add_argument("--seed", type=int, default=0, help="seed of the order of shots")
    parser.add_argument("--encoder", type=Path, help="checkpoint of recipe kinetics400-i3d")
    parser.add_argument("--model", default="kinetics400", help="installed model that `detect` runs")
    parser.add_argument("--device", default="cpu", help="device of `detect`: cpu or openvino")
    parser.add_argument("--made-by", help="device that computed stored features, if not this one")
    parser.add_argument("--fps", type=float, default=25.0, help="frames per second that the encoder sees")
    parser.add_argument("--clip", type=int, default=64, help="frames per clip")
    parser.add_argument("--hop", type=int, help="distance of clips in frames (default: those of a clip)")
    parser.add_argument("--crop", choices=("square", "full"), default="square", help="visible part of the picture")
    parser.add_argument("--height", type=int, default=224, help="height of the frames, in pixels")
    parser.add_argument("--bf16", action="store_true", help="encode in bfloat16 (with `detect`: on openvino)")
    parser.add_argument("--threads", type=int, default=2, help="torch threads")
    parser.add_argument("--out", type=Path, default=Path("kinetics.jsonl"), help="file to append lines to")
    return parser.parse_args()


if __name__ == "__main__":
    main()
