"""How many long actions does `detect --rates` find, and what does it cost?

    python -m benchmarks.bench_rates --out runs/rates >> benchmarks/results/rates.jsonl

Generates videos with actions of 0.5 to 2.5 minutes, encodes them once with the bundled model, and detects actions at
one rate and at several; and in videos without long actions. One JSON line per choice of rates and kind of video, with
the processor time of localizing and of encoding a clip. Videos and features are kept: repeat the command to continue.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, get_args

import numpy as np

from benchmarks.measure import measure, write_line
from tallformer_infer import Detector
from tallformer_infer.evaluation import Predictions, Protocol, Truth, align, curve, protocol_named, rank
from tallformer_infer.media import open_video
from tallformer_infer.pipeline import (
    Choices,
    ClipEncoder,
    EncodedClip,
    VideoFacts,
    VideoRun,
    at_point,
    choose_layout,
    choose_point,
    find_actions,
)
from tallformer_infer.structures import Action, Selection, VideoInfo
from tallformer_infer.timeline import cut_clips
from tallformer_training.synthetic import VideoSpec, truth_of, write_script, write_video
from tallformer_training.synthetic.long_actions import lengthen
from tallformer_training.synthetic.script import Subset

CHOICES: tuple[tuple[float, ...], ...] = ((15.0,), (15.0, 5.0), (15.0, 5.0, 1.67))
LENGTHS_S = ((0.0, 8.0), (8.0, 30.0), (30.0, 60.0), (60.0, 150.0))
"""Ranges of lengths of actions in seconds, [from, to)."""
PROTOCOL: Protocol = protocol_named("thumos14")


Labelled = tuple[float, float, str]
"""Start and end of an action in seconds, and its name."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Print a JSON line for each choice of rates and kind of video."""
    options = _options(arguments)
    detector = Detector.load("demo", device="cpu", threads=1)
    for is_long, videos, seed in ((True, options.long, options.long_seed), (False, options.plain, options.plain_seed)):
        folder = options.out / f"{'long' if is_long else 'plain'}-{options.subset}-{seed}"
        made = dict(make_videos(folder, subset=options.subset, videos=videos, seed=seed, with_long_actions=is_long))
        for rates in CHOICES:
            line = {
                **_measured(detector, made, rates),
                "long_actions": is_long,
                "inputs": {"subset": options.subset, "videos": videos, "seed": seed},
                "clip_cpu_s": _clip_cpu_s(detector),
            }
            write_line(line)


def make_videos(
    folder: Path, *, subset: Subset, videos: int, seed: int, with_long_actions: bool
) -> Iterator[tuple[Path, list[Labelled]]]:
    """Generate videos of a subset, unless they exist; yields each with its ground truth."""
    folder.mkdir(parents=True, exist_ok=True)
    for index in range(videos):
        script = write_script(VideoSpec(subset=subset, seed=seed, index=index))
        script = lengthen(script) if with_long_actions else script
        path, note = (folder / f"{script.spec.video_id}{suffix}" for suffix in (".mp4", ".json"))
        truth = truth_of(script)
        if not note.exists() or json.loads(note.read_text(encoding="utf-8")) != truth:
            write_video(script, path)
            note.write_text(json.dumps(truth), encoding="utf-8")
        yield path, [(*row["segment"], row["label"]) for row in truth["annotations"]]


def score(
    found: Mapping[str, Sequence[Action]], shown: Mapping[str, Sequence[Action]], truth: Truth
) -> list[dict[str, Any]]:
    """Scores for each range of lengths; the last entry is for all lengths.

    A prediction counts for the length of the ground truth that it matches, or its own length if it matches none.

    Args:
        found: All actions, by video.
        shown: Actions that the operating point keeps, by video.
        truth: Ground truth of the same videos.
    """
    lengths = np.diff(truth.segments_s, axis=1)[:, 0]
    rows = [_score(found, shown, truth, lengths, span) for span in LENGTHS_S]
    return [*rows, _score(found, shown, truth, lengths, (0.0, np.inf))]


def _measured(detector: Detector, videos: dict[Path, list[Labelled]], rates: tuple[float, ...]) -> dict[str, Any]:
    clips = {path: list(_encoded(detector, path)) for path in videos}
    before_s = time.process_time()
    found = {path.stem: _find(detector, of_video, rates) for path, of_video in clips.items()}
    localize_cpu_s = time.process_time() - before_s
    point = choose_point(detector.bundle, None)
    shown = {name: at_point(actions, detector.bundle, point) for name, actions in found.items()}
    frames = sum(clip.real_frames for of_video in clips.values() for clip in of_video)
    return {
        "name": "rates",
        "rates": list(rates),
        "point": point,
        "minutes": round(frames / detector.bundle.recipe.sampling.sample_fps / 60, 1),
        "clips": sum(len(of_video) for of_video in clips.values()),
        "localize_cpu_s": float(f"{localize_cpu_s:.3g}"),
        "lengths": score(found, shown, Truth.of({path.stem: rows for path, rows in videos.items()})),
    }


def _encoded(detector: Detector, path: Path) -> Iterator[EncodedClip]:
    """Encoded clips of a video, from a file if it was encoded before."""
    kept, recipe = path.with_suffix(".npz"), detector.bundle.recipe
    if not kept.exists():
        encoder = ClipEncoder(detector.runtime, recipe)
        with open_video(path, recipe.sampling, threads=1) as stream:
            clips = list(encoder.encode(cut_clips(stream, recipe.window, "shared")))
        columns = {name: np.stack([getattr(clip, name) for clip in clips]) for name in _COLUMNS}
        np.savez(kept, **columns)  # type: ignore[arg-type]  # numpy's stub accepts no mapping
    with np.load(kept) as columns:
        for start_frame, real_frames, features in zip(*(columns[name] for name in _COLUMNS), strict=True):
            yield EncodedClip(int(start_frame), int(real_frames), features)


_COLUMNS = tuple(field.name for field in dataclasses.fields(EncodedClip))


def _find(detector: Detector, clips: list[EncodedClip], rates: tuple[float, ...]) -> tuple[Action, ...]:
    """Actions of `detect` from encoded clips: localization and suppression."""
    recipe = detector.bundle.recipe
    layout = choose_layout(recipe, "shared", rates)
    choices = Choices(layout=layout, selection=Selection())
    run = VideoRun(detector.bundle, detector.runtime, choices)
    for _ in run.localize(clips):
        pass
    facts = VideoFacts(
        video=VideoInfo(path="", width_px=1, height_px=1, codec="", source_fps=None, start_s=0.0, duration_s=None),
        sample_fps=recipe.sampling.sample_fps,
        frame_count=run.frames,
        decode_errors=0,
        missing_s=0.0,
        runtime=detector.runtime.name,
        device=detector.device,
        clips=len(clips),
        clips_reused=0,
    )
    return find_actions(run.candidates(facts), detector.bundle, choices)


def _score(
    found: Mapping[str, Sequence[Action]],
    shown: Mapping[str, Sequence[Action]],
    truth: Truth,
    lengths: np.ndarray,
    span: tuple[float, float],
) -> dict[str, Any]:
    is_there = (lengths >= span[0]) & (lengths < span[1])
    counts = np.bincount(truth.class_indices[is_there], minlength=len(truth.labels))
    ranked = rank(align(Predictions.of(found), truth, empty_videos_count=True), truth, PROTOCOL)
    own = np.diff(ranked.segments, axis=1)[:, 0]
    precisions: list[float] = []
    for matched in ranked.found:
        judged = np.where(matched >= 0, lengths[matched], own)
        kept = (judged >= span[0]) & (judged < span[1])
        for kind in np.flatnonzero(counts):
            rows = kept & (ranked.classes == kind)
            found_it = curve(matched[rows] >= 0, ranked.scores[rows], truth_count=int(counts[kind]))
            precisions.append(found_it.average_precision)
    hits, wrong = _hits(shown, truth, is_there, span)
    return {
        "from_s": span[0],
        "to_s": None if np.isinf(span[1]) else span[1],
        "truth": int(is_there.sum()),
        "map": fmean(precisions) if precisions else 0.0,
        "found": hits,
        "wrong": wrong,
    }


def _hits(
    shown: Mapping[str, Sequence[Action]], truth: Truth, is_there: np.ndarray, span: tuple[float, float]
) -> tuple[int, int]:
    """Numbers of matched ground truths in a range of lengths at an overlap of 0.5, and of actions that match none."""
    ranked = rank(align(Predictions.of(shown), truth, empty_videos_count=True), truth, PROTOCOL)
    matched = ranked.found[PROTOCOL.tiou_thresholds.index(0.5)]
    own = np.diff(ranked.segments, axis=1)[:, 0]
    wrong = (matched < 0) & (own >= span[0]) & (own < span[1])
    return int(is_there[matched[matched >= 0]].sum()), int(wrong.sum())


def _clip_cpu_s(detector: Detector) -> float:
    """Processor time of encoding a clip of noise, in seconds."""
    recipe = detector.bundle.recipe
    shape = (1, recipe.window.clip_frames, recipe.sampling.crop_px, recipe.sampling.crop_px, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    real_frames = np.full(1, recipe.window.clip_frames)
    return float(f"{np.median(measure(lambda: detector.runtime.encode(pixels, real_frames)).cpu_s):.3g}")


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_rates", description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder of the videos")
    parser.add_argument("--subset", choices=get_args(Subset), default="testing", help="subset of looks and backgrounds")
    parser.add_argument("--long", type=int, default=6, help="videos with long actions, of about nine minutes each")
    parser.add_argument("--plain", type=int, default=6, help="videos without, of two minutes each")
    parser.add_argument("--long-seed", type=int, default=23, help="seed of the videos with long actions")
    parser.add_argument("--plain-seed", type=int, default=24, help="seed of the other videos")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
