"""TALLFormer's stages as shipped, with random weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.afsd.graphs import Network, tallformer_graphs
from benchmarks.afsd.material import pictures
from benchmarks.afsd.sampling import Task, timed
from benchmarks.afsd.workload import ACTIVITYNET, ACTIVITYNET_FPS, THUMOS14
from tallformer_infer.config import Recipe, SamplingConfig, preset
from tallformer_infer.nms import suppress
from tallformer_infer.runtime import Cancellation
from tallformer_infer.runtime.onnx import CpuEncoder
from tallformer_infer.structures import Candidates

_RECIPES = {ACTIVITYNET: "anet-swin", THUMOS14: "thumos14-swin"}
_WINDOW_STEP = 352


def tasks(
    work: Path,
    videos: Sequence[Path],
    *,
    threads: int,
    workloads: Sequence[str] = (ACTIVITYNET, THUMOS14),
    precisions: Sequence[str] = ("fp32", "int8"),
) -> list[Task]:
    """All tasks of TALLFormer for both backbones. The encoder is the same for both data sets."""
    found: list[Task] = []
    frames = np.stack(pictures(videos[0], sampling(ACTIVITYNET), threads=threads)[:32])
    for backbone in ("Swin-B", "Swin-T"):
        letter = backbone[-1].lower()
        graphs = tallformer_graphs(work, f"anet-swin-{letter}", precisions)
        for precision in precisions:
            encoder = CpuEncoder(graphs[precision], threads=threads)
            found.append(_encode(f"encode {backbone} {precision}", encoder, frames))
        for workload in workloads:
            recipe = preset(f"{_RECIPES[workload]}-{letter}")
            content = tallformer_graphs(work, recipe.name, precisions if workload == ACTIVITYNET else ())
            localizer = Network(content["localizer"], threads=threads)
            found += _localize(backbone, workload, recipe, localizer)
    return found


def sampling(workload: str) -> SamplingConfig:
    """Sampling of the recipe for a data set, at the rate of the workload's video."""
    shipped = preset(f"{_RECIPES[workload]}-b").sampling
    return replace(shipped, sample_fps=ACTIVITYNET_FPS, most_frames=None) if workload == ACTIVITYNET else shipped


def _encode(name: str, encoder: CpuEncoder, frames: NDArray[np.uint8]) -> Task:
    count = encoder.clips_at_once
    clips, real_frames = np.stack([frames] * count), np.full(count, len(frames))
    return Task(name, timed(lambda: encoder.run(clips, real_frames, Cancellation()), count))


def _localize(backbone: str, workload: str, recipe: Recipe, localizer: Network) -> list[Task]:
    channels = recipe.model.backbone.out_channels
    features = np.random.default_rng(0).standard_normal((1, channels, recipe.window_steps), np.float32)
    length = np.array([recipe.window.window_frames])

    def localize(start_frame: int = 0) -> Candidates:
        segments, scores, classes, *_ = localizer.run(features, np.array([start_frame]), length)
        return Candidates(segments[0], scores[0], classes[0].astype(np.int64))

    found = [Task(f"localize {backbone} {workload}", timed(localize))]
    if backbone == "Swin-B":
        windows = [localize(_WINDOW_STEP * index) for index in range(1 if workload == ACTIVITYNET else 9)]
        together = Candidates(
            np.concatenate([window.segments_frames for window in windows]),
            np.concatenate([window.scores for window in windows]),
            np.concatenate([window.classes for window in windows]),
        )
        found.append(Task(f"suppress {workload}", timed(lambda: suppress(together, recipe.suppress))))
    return found
