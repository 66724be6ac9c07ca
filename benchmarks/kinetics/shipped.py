"""Detections of an installed model in a film at its own operating points."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.kinetics.contrast import Found
from benchmarks.kinetics.film import ACCEPTED, Truth
from benchmarks.kinetics.judging import OperatingPoint, judge
from tallformer_infer import Detector
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import NAMED_CLASSES
from tallformer_infer.media import given_video, open_video
from tallformer_infer.pipeline.encoding import EncodedClip
from tallformer_infer.pipeline.video_run import Choices, VideoCandidates, VideoRun, find_actions
from tallformer_infer.structures import Action, Layout, Selection

_LATE_S = 0.5
"""How long after the last frame an action that lasts until the end may end."""


@dataclass
class Features:
    """Collects the features of a film, to evaluate other settings of the head."""

    clips: list[EncodedClip]

    def known(self) -> Iterator[EncodedClip]:
        """No known clips: every clip is encoded."""
        return iter(())

    def keep(self, clip: EncodedClip) -> None:
        """Keep a clip."""
        self.clips.append(clip)

    def steps(self, stride_frames: int) -> np.ndarray:
        """Features of all steps of the film, shape (steps, C)."""
        parts = [clip.features[:, : -(-clip.real_frames // stride_frames)] for clip in self.clips]
        return np.concatenate(parts, axis=1).T.astype(np.float16)


def search(detector: Detector, film: Path) -> tuple[VideoCandidates, np.ndarray]:
    """Candidates of a film and its features (steps, C), as `detect` computes them."""
    recipe, features = detector.bundle.recipe, Features([])
    run = VideoRun(detector.bundle, detector.runtime, chosen_with(None, None), keeper=features)
    with open_video(given_video(film), recipe.sampling) as stream, closing(run.read(stream)) as windows:
        for _ in windows:
            pass
        return run.candidates(run.facts(stream)), features.steps(recipe.model.encoder_stride)


def search_features(detector: Detector, film: Path, features: np.ndarray) -> VideoCandidates:
    """Candidates of a film from stored features (steps, C), without decoding and encoding."""
    recipe = detector.bundle.recipe
    stride, clip_frames = recipe.model.encoder_stride, recipe.window.clip_frames
    run = VideoRun(detector.bundle, detector.runtime, chosen_with(None, None))
    clips = []
    for first in range(0, len(features), clip_frames // stride):
        steps = features[first : first + clip_frames // stride].T.astype(np.float32)
        padding = clip_frames // stride - steps.shape[1]
        clip = np.pad(steps, ((0, 0), (0, padding)), mode="edge")
        clips.append(EncodedClip(first * stride, steps.shape[1] * stride, clip))
    for _ in run.localize(clips):
        pass
    with open_video(given_video(film), recipe.sampling) as stream:
        facts = replace(run.facts(stream), frame_count=len(features) * stride)
        return run.candidates(facts)


def judge_points(bundle: Bundle, found: VideoCandidates, facts: Path) -> list[dict[str, Any]]:
    """A line per operating point: the default one with all classes, the other one with those of the film's actions."""
    calibration = bundle.calibration
    assert calibration is not None, "the installed models of Kinetics-400 have operating points"
    duration_s = found.facts.frame_count / found.facts.sample_fps
    known = [Truth(**row) for row in json.loads(facts.read_text(encoding="utf-8"))["truths"]]
    known = [truth for truth in known if truth.end_s <= duration_s + _LATE_S]
    named = tuple(sorted({name for names in ACCEPTED.values() for name in names}))
    lines, every = [], bundle.recipe.classes
    for point, classes in ((calibration.default, None), (NAMED_CLASSES, named)):
        actions = find_actions(found, bundle, chosen_with(point, classes))
        judged = judge(_found(actions, every), known, every, duration_s=duration_s)
        lines.append({"point": point, "classes": len(classes or every), **_line(judged.at(0.0), duration_s)})
    return lines


def chosen_with(point: str | None, classes: tuple[str, ...] | None) -> Choices:
    """How `detect` runs with an operating point and named classes; None: the default, all classes."""
    selection = Selection(threshold=None, top_k=None, classes=classes, operating_point=point)
    return Choices(layout=Layout("shared"), selection=selection)


def _found(actions: Sequence[Action], classes: Sequence[str]) -> list[Found]:
    """Convert actions for `judge`, best first."""
    numbers = {name: number for number, name in enumerate(classes)}
    rows = [Found(one.start_s, one.end_s, numbers[one.label], one.score) for one in actions]
    return sorted(rows, key=lambda one: -one.score)


def _line(point: OperatingPoint, duration_s: float) -> dict[str, Any]:
    return {
        "duration_s": round(duration_s, 1),
        "recall": round(point.recall, 4),
        "false_alarms": point.false_alarms,
        "false_alarms_per_h": round(point.false_alarms * 3600 / duration_s, 1),
        "found": point.found,
        "of": point.truths,
    }
