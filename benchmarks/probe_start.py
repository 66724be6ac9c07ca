"""Do random encoders see motion? A linear probe of their features. `python -m benchmarks.probe_start`.

For several ways to draw an encoder's weights, without any training: features of random clips of generated videos, a
ridge regression from them to "some action goes on", and its average precision on videos of other looks. One JSON line
each; `chance` is the part of steps with an action.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import preset
from tallformer_training.augmentation import apply_change, middle_crop, normalise
from tallformer_training.datasets import DatasetRequest, FrameCache, LabelledVideo, read_video_set
from tallformer_training.model import Detector
from tallformer_training.model.clips import encode_clips
from tallformer_training.synthetic import SetSpec, make_dataset
from tallformer_training.training.first_weights import see_motion, standardise_features
from tallformer_training.training.step_classifier import step_labels

BATCH = 16
TINY = preset("tiny")
RECIPE = replace(
    TINY,
    model=replace(
        TINY.model,
        backbone=replace(
            TINY.model.backbone, embed_channels=32, depths=(1, 2, 4), heads=(1, 2, 4), patch=(2, 8, 8), window=(8, 4, 4)
        ),
    ),
    sampling=replace(TINY.sampling, resize_px=64, crop_px=64),
)


def main(videos: int = 24, clips: int = 640) -> None:
    """Probe the encoder with Swin's usual random weights, and with those that see motion, for three seeds each."""
    torch.set_num_threads(1)
    with TemporaryDirectory() as name:
        folder = Path(name)
        cache = FrameCache(folder / "cache", RECIPE.sampling)
        sets = [
            _videos(folder / subset, subset, count)
            for subset, count in (("training", videos), ("validation", videos // 3))
        ]
        for start in ("swin", "motion"):
            for seed in range(3):
                torch.manual_seed(seed)
                encoder = Detector(RECIPE).backbone.eval()
                if start == "motion":
                    see_motion(encoder, seed=seed)
                    standardise_features(encoder, (batch for batch, _ in _batches(sets[0], cache, 128, seed=9)))
                learned, asked = (
                    _features(encoder, found, cache, count, seed)
                    for found, count in zip(sets, (clips, clips // 2), strict=True)
                )
                precision = _probe(*learned, *asked)
                line = {"name": "probe_start", "start": start, "seed": seed, "average_precision": round(precision, 4)}
                sys.stdout.write(json.dumps({**line, "chance": round(float(asked[1].mean()), 4)}) + "\n")
                sys.stdout.flush()


def _videos(folder: Path, subset: str, count: int) -> Sequence[LabelledVideo]:
    truth = make_dataset(SetSpec(subset=subset, videos=count, seed=1, minutes=2.0), folder)  # type: ignore[arg-type]
    return read_video_set(DatasetRequest(annotations=truth, videos=folder), RECIPE.classes).videos


def _batches(
    videos: Sequence[LabelledVideo], cache: FrameCache, clips: int, *, seed: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Random clips (N, 3, F, H, W), and what goes on in their steps (N, steps, K)."""
    generator, sampling, length = np.random.default_rng(seed), RECIPE.sampling, RECIPE.window.clip_frames
    for _ in range(clips // BATCH):
        pixels, marks = [], []
        for video in (videos[row] for row in generator.integers(len(videos), size=BATCH)):
            frames = cache.add(video.path)
            start = int(generator.integers(frames - length))
            part = torch.from_numpy(cache.read_clips(video.path, [start], length))
            pixels.append(apply_change(part, middle_crop(), crop_px=sampling.crop_px))
            marks.append(
                step_labels(
                    video.segments_frames(sampling.sample_fps, frames),
                    video.labels,
                    first_frames=np.array([start]),
                    steps=RECIPE.clip_steps,
                    stride=RECIPE.model.encoder_stride,
                    classes=len(RECIPE.classes),
                )
            )
        whole = torch.full((BATCH,), length)
        yield normalise(torch.cat(pixels), whole, mean=sampling.mean, std=sampling.std), torch.cat(marks)


@torch.no_grad()
def _features(
    encoder: torch.nn.Module, videos: Sequence[LabelledVideo], cache: FrameCache, clips: int, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Features of all steps (N, C), and whether some action goes on there (N,)."""
    features, acts = [], []
    for batch, marks in _batches(videos, cache, clips, seed=seed):
        features.append(encode_clips(encoder, batch).transpose(1, 2).flatten(0, 1))  # type: ignore[arg-type]
        acts.append(marks.amax(dim=2).flatten())
    return torch.cat(features).double().numpy(), torch.cat(acts).double().numpy()


def _probe(
    features: NDArray[np.float64], acts: NDArray[np.float64], others: NDArray[np.float64], truth: NDArray[np.float64]
) -> float:
    mean, deviation = features.mean(axis=0), features.std(axis=0) + 1e-8
    known, asked = (features - mean) / deviation, (others - mean) / deviation
    weights = np.linalg.solve(known.T @ known + 100 * np.eye(known.shape[1]), known.T @ (acts - acts.mean()))
    order = np.argsort(-(asked @ weights), kind="stable")
    right = truth[order] > 0
    return float((np.cumsum(right) / np.arange(1, len(right) + 1))[right].mean())


if __name__ == "__main__":
    main()
