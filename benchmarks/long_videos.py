"""Generated videos with long actions, and how many actions of each length are found in them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from tallformer_infer.evaluation import Predictions, Protocol, Truth, align, curve, protocol_named, rank
from tallformer_infer.structures import Action
from tallformer_training.synthetic import VideoSpec, truth_of, write_script, write_video
from tallformer_training.synthetic.long_actions import lengthen
from tallformer_training.synthetic.script import Subset

LENGTHS_S = ((0.0, 8.0), (8.0, 30.0), (30.0, 60.0), (60.0, 150.0))
"""Lengths of actions, from and to (exclusive)."""
PROTOCOL: Protocol = protocol_named("thumos14")


Labelled = tuple[float, float, str]
"""Start and end of an action in seconds, and its name."""


def make_videos(
    folder: Path, *, subset: Subset, videos: int, seed: int, with_long_actions: bool
) -> Iterator[tuple[Path, list[Labelled]]]:
    """Videos of a subset's looks, unless they are there, each with its truth."""
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
    """What was found of each length, the last entry of all lengths.

    Predictions count for the length of the truth that they found, those that found none for their own.

    Args:
        found: All actions, by video.
        shown: Those that the operating point keeps.
        truth: Of the same videos.
    """
    lengths = np.diff(truth.segments_s, axis=1)[:, 0]
    rows = [_score(found, shown, truth, lengths, span) for span in LENGTHS_S]
    return [*rows, _score(found, shown, truth, lengths, (0.0, np.inf))]


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
    """How many truths of a length are found at an overlap of 0.5, and how many actions of it find none."""
    ranked = rank(align(Predictions.of(shown), truth, empty_videos_count=True), truth, PROTOCOL)
    matched = ranked.found[PROTOCOL.tiou_thresholds.index(0.5)]
    own = np.diff(ranked.segments, axis=1)[:, 0]
    wrong = (matched < 0) & (own >= span[0]) & (own < span[1])
    return int(is_there[matched[matched >= 0]].sum()), int(wrong.sum())
