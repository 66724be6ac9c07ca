"""mAP on validation videos, with the actions that `tallformer detect` would find; all processes share the work."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import Recipe
from tallformer_infer.evaluation import Evaluation, Predictions, Protocol, Truth, evaluate, protocol_named
from tallformer_infer.nms import pairs_above, suppress
from tallformer_infer.structures import Action, Candidates
from tallformer_infer.timeline import FeatureWindow, Timeline, step_frames
from tallformer_training.augmentation import apply_change, middle_crop, normalise
from tallformer_training.datasets import FrameSource, TrainingVideo
from tallformer_training.loop.forward import encode_empty
from tallformer_training.loop.job import Material
from tallformer_training.loop.processes import Processes
from tallformer_training.model import Detector

_CLIPS_AT_ONCE, _FRAMES_AT_ONCE = 8, 512


@dataclass(frozen=True, eq=False)
class EncodedClips:
    """Some clips of a video."""

    start_frames: tuple[int, ...]
    """First frame of each of K clips."""
    real_frames: NDArray[np.int64]
    """Frames of each clip that belong to the video, shape (K,)."""
    features: torch.Tensor
    """Features, shape (K, C, clip steps), on the detector's device."""


@torch.no_grad()
def encode_video(
    detector: Detector,
    source: FrameSource,
    path: Path,
    frames: int,
    *,
    is_mirrored: bool = False,
    starts: Sequence[int] | None = None,
) -> Iterator[EncodedClips]:
    """Encode clips of a video with a centre crop, as at test time.

    Args:
        detector: Detector in evaluation mode.
        source: Source of frames.
        path: The video.
        frames: Length of the video.
        is_mirrored: Whether to mirror frames.
        starts: First frames of the clips; None for every clip once, from frame 0.
    """
    recipe, device = detector.recipe, next(detector.parameters()).device
    clip_frames, sampling = recipe.window.clip_frames, recipe.sampling
    if starts is None:
        starts = range(0, frames, clip_frames)
    at_once = min(_CLIPS_AT_ONCE, max(_FRAMES_AT_ONCE // clip_frames, 1))
    for first in range(0, len(starts), at_once):
        batch = list(starts[first : first + at_once])
        pixels = torch.from_numpy(source.read_clips(path, batch, clip_frames)).to(device)
        clips = apply_change(pixels, middle_crop(is_mirrored=is_mirrored), crop_px=sampling.crop_px)
        real_frames = np.clip(frames - np.array(batch, np.int64), 0, clip_frames)
        clips = normalise(clips, torch.from_numpy(real_frames), sampling)
        yield EncodedClips(tuple(batch), real_frames, detector.encode(clips))


@torch.no_grad()
def detect_actions(detector: Detector, source: FrameSource, video: TrainingVideo, frames: int) -> list[Action]:
    """Actions of one video.

    Args:
        detector: Detector in evaluation mode.
        source: Source of frames.
        video: The video.
        frames: Length of the video.
    """
    recipe = detector.recipe
    device = next(detector.parameters()).device
    timeline = Timeline(recipe.window, step_frames(recipe.window, "shared"))
    parts: list[Candidates] = []
    for encoded in encode_video(detector, source, video.path, frames, starts=_clip_starts(recipe, frames)):
        clips = zip(encoded.start_frames, encoded.real_frames.tolist(), encoded.features.float().cpu(), strict=True)
        for start, real_frames, features in clips:
            parts += [localize(detector, window) for window in timeline.add(start, real_frames, features.numpy())]
    empty = encode_empty(detector, device).float().cpu().numpy()
    parts += [localize(detector, window) for window in timeline.finish(lambda: empty)]
    kept = suppress(Candidates.concatenate(parts), recipe.suppress)
    seconds = kept.segments_frames.astype(np.float64) / video.rate_fps(recipe.sampling) + video.start_s
    return [
        Action(start_s=start, end_s=end, label=recipe.classes[kind], score=score)
        for (start, end), kind, score in zip(seconds.tolist(), kept.classes.tolist(), kept.scores.tolist(), strict=True)
        if end > start
    ]


def _clip_starts(recipe: Recipe, frames: int) -> range:
    """First frames of the clips of all windows; if windows are single clips, these overlap."""
    window = recipe.window
    if window.clips > 1:
        return range(0, frames, window.clip_frames)
    step = step_frames(window, "shared")
    return range(0, max(frames - window.window_frames + step, 1), step)


@torch.no_grad()
def localize(detector: Detector, window: FeatureWindow) -> Candidates:
    """Candidates of one window, in frames of the whole video."""
    recipe, device = detector.recipe, next(detector.parameters()).device
    starts, real = (torch.tensor([number], device=device) for number in (window.start_frame, window.real_frames))
    outputs = detector.localize(torch.from_numpy(window.features[None]).to(device), real)
    decoded = detector.decode(outputs, starts, real)
    segments, scores = decoded.segments_frames[0].float().cpu().numpy(), decoded.scores[0].float().cpu().numpy()
    pairs = pairs_above(segments, scores, score_threshold=recipe.suppress.score_threshold)
    return _best(pairs, recipe)


def score(actions: dict[str, list[Action]], videos: Sequence[TrainingVideo], recipe: Recipe) -> Evaluation:
    """Evaluate actions against the annotations, with the rules of `protocol_of`."""
    truth = Truth.of(
        {
            video.name: [
                (float(start), float(end), recipe.classes[label])
                for (start, end), label in zip(video.segments_s, video.labels.tolist(), strict=True)
            ]
            for video in videos
        },
        source="validation",
    )
    return evaluate(Predictions.of(actions), truth, protocol_of(recipe))


def protocol_of(recipe: Recipe) -> Protocol:
    """ActivityNet's rules (tIoU 0.5 to 0.95) for models of whole videos, THUMOS14's (0.3 to 0.7) for others."""
    return protocol_named("thumos14" if recipe.sampling.most_frames is None else "activitynet")


def _best(pairs: Candidates, recipe: Recipe) -> Candidates:
    limit = recipe.candidates.per_window
    if limit is None or len(pairs) <= limit:
        return pairs
    best = np.sort(np.argsort(-pairs.scores, kind="stable")[:limit])
    return pairs.take(best)


def measure(recipe: Recipe, weights: Mapping[str, Tensor], measured: Material, processes: Processes) -> dict[str, Any]:
    """mAP of some weights on all validation videos, as JSON values; processes share the videos."""
    detector = Detector(recipe).to(processes.device).eval()
    detector.load_state_dict(weights)
    started_s, processor_s = time.perf_counter(), time.process_time()
    own = {
        video.name: detect_actions(detector, measured.source, video, measured.frames[video.name])
        for video in measured.videos[processes.rank :: processes.count]
    }
    found = {name: actions for part in processes.gather(own) for name, actions in part.items()}
    ordered = {video.name: found[video.name] for video in measured.videos}
    evaluation = score(ordered, measured.videos, recipe)
    return {
        "average_map": evaluation.average,
        "map_per_tiou": list(evaluation.mean_average_precision),
        "average_precision_per_class": {row.label: row.average for row in evaluation.classes},
        "predictions": evaluation.prediction_count,
        "truth": evaluation.truth_count,
        "seconds": time.perf_counter() - started_s,
        "processor_s": time.process_time() - processor_s,
    }
