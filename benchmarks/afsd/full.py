"""One short video from file to actions, with every stage in full, compared with the sum of sampled stages."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.afsd import material
from benchmarks.afsd.flow import Pair
from benchmarks.afsd.material import Picture, gray
from benchmarks.afsd.network import ACTIVITYNET
from benchmarks.afsd.pipeline import AfsdPipeline, consecutive, network_input
from benchmarks.afsd.tasks import flow_seconds
from benchmarks.afsd.workload import (
    CLS_DECODE,
    CLS_FLOW,
    CLS_FLOW_NET,
    CLS_RGB,
    DECODE,
    FLOW,
    FLOW_NET,
    LOCALIZE,
    RGB,
)
from tallformer_export.exporting import ExportOptions, export_random
from tallformer_infer.config import preset
from tallformer_infer.media import probe
from tallformer_infer.pipeline import Detector

RECIPE, PRECISION = "anet-swin-t", "int8"
_EVERY = 8
"""One in this many pairs of frames is sampled."""


def afsd_in_full(pipeline: AfsdPipeline, video: Path, *, threads: int) -> dict[str, Any]:
    """Time a sample, then everything; a result line without its circumstances."""
    sample_fps = probe(video).source_fps or 30.0
    sampled_s, counts = _sampled(pipeline, video, sample_fps, threads)
    started = time.perf_counter()
    actions, stages_s = pipeline.detect(video, sample_fps)
    wall_s = time.perf_counter() - started
    return {
        "name": "afsd_full",
        "inputs": {"system": "AFSD", "video": video.name, "threads": threads, **counts, "actions": len(actions)},
        "whole_s": round(wall_s, 3),
        "sampled_s": round(sum(sampled_s.values()), 3),
        "stages_s": {name: round(seconds, 4) for name, seconds in stages_s.items()},
        "sampled_stages_s": {name: round(seconds, 4) for name, seconds in sampled_s.items()},
    }


def tallformer_in_full(work: Path, video: Path, *, threads: int) -> dict[str, Any]:
    """`detect` as shipped; a result line without its circumstances."""
    detector = Detector.load(bundle(work), device="cpu", threads=threads)
    detector.detect(video)
    runs = []
    for _ in range(3):
        started = time.perf_counter()
        result = detector.detect(video)
        runs.append(time.perf_counter() - started)
    return {
        "name": "afsd_full",
        "inputs": {
            "system": f"{RECIPE} {PRECISION}",
            "video": video.name,
            "threads": threads,
            "frames": result.frame_count,
            "actions": len(result.actions),
        },
        "whole_s": round(float(np.median(runs)), 3),
        "runs_s": [round(seconds, 3) for seconds in runs],
    }


def bundle(work: Path) -> Path:
    """A bundle with random weights, exported once."""
    made = work / f"{RECIPE}-{PRECISION}"
    if not made.is_dir():
        export_random(
            preset(RECIPE), made, options=ExportOptions(precision=PRECISION, accept_parity=True), on_step=lambda _: None
        )
    return made


def _sampled(
    pipeline: AfsdPipeline, video: Path, sample_fps: float, threads: int
) -> tuple[dict[str, float], dict[str, int]]:
    """Seconds of each stage from some of its units, and the number of units."""
    seconds: dict[str, float] = {}
    seconds[DECODE], frames = _seconds(lambda: material.clip_frames(video, sample_fps, threads=threads))
    seconds[CLS_DECODE], shown = _seconds(lambda: material.snippets(video, threads=threads))
    pairs = consecutive([gray(frame) for frame in frames])
    large = [pair for snippet in shown for pair in consecutive(snippet.grays)]
    seconds[FLOW] = _multiplied(pipeline, pairs)
    seconds[CLS_FLOW] = _multiplied(pipeline, large)
    seconds.update(_networks(pipeline, frames))
    few = [shown[0], shown[-1]]
    stacks = [np.zeros((10, 256, 340), np.float32)] * len(few)
    each_rgb, _ = _seconds(lambda: pipeline.classifier.rgb([snippet.frame for snippet in few]))
    each_flow, _ = _seconds(lambda: pipeline.classifier.flow(stacks))
    seconds[CLS_RGB], seconds[CLS_FLOW_NET] = (each / len(few) * len(shown) for each in (each_rgb, each_flow))
    counts = {"frames": len(frames), "pairs": len(pairs), "snippets": len(shown), "classifier_pairs": len(large)}
    return seconds, counts


def _multiplied(pipeline: AfsdPipeline, pairs: Sequence[Pair]) -> float:
    taken = pairs[_EVERY // 2 :: _EVERY] if len(pairs) > 4 * _EVERY else pairs[::4]
    return float(np.mean(flow_seconds(pipeline.pool, taken))) * len(pairs)


def _networks(pipeline: AfsdPipeline, frames: Sequence[Picture]) -> dict[str, float]:
    seconds = {}
    clips = (network_input(frames, ACTIVITYNET), network_input([frame[..., :2] for frame in frames], ACTIVITYNET))
    streams = (pipeline.rgb, pipeline.flow)
    maps = [stream.encode(clip) for stream, clip in zip(streams, clips, strict=True)]  # warm-up
    for row, stream, clip in zip((RGB, FLOW_NET), streams, clips, strict=True):
        seconds[row], _ = _seconds(lambda stream=stream, clip=clip: stream.encode(clip))
    each = [
        _seconds(lambda stream=stream, kept=kept: stream.localize(kept))[0]
        for stream, kept in zip(streams, maps, strict=True)
    ]
    seconds[LOCALIZE] = sum(each)
    return seconds


def _seconds(work: Any) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result
