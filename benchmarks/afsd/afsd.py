"""AFSD's stages as tasks, and the ceilings of the machine."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from benchmarks.afsd import material, network, tallformer
from benchmarks.afsd.detections import activitynet_actions, fused_candidates, thumos14_actions
from benchmarks.afsd.flow import FlowPool, Pair
from benchmarks.afsd.network import AfsdSizes
from benchmarks.afsd.pipeline import AfsdPipeline, Classifier, Stream, consecutive, network_input
from benchmarks.afsd.sampling import Task, timed
from benchmarks.afsd.workload import ACTIVITYNET, ACTIVITYNET_FPS, AFSD_THUMOS14_FPS, THUMOS14
from benchmarks.ceilings import TorchProduct

MATRIX = "matrix product"
_RATES_FPS = {ACTIVITYNET: ACTIVITYNET_FPS, THUMOS14: AFSD_THUMOS14_FPS}
_SMALL_PAIRS, _LARGE_PAIRS = 32, 20
"""Pairs per round, of 112 x 112 and of 340 x 256 pixels."""


def tasks(
    pipeline: AfsdPipeline,
    work: Path,
    videos: Sequence[Path],
    *,
    threads: int,
    workloads: Sequence[str] = (ACTIVITYNET, THUMOS14),
) -> list[Task]:
    """All tasks of AFSD for these data sets."""
    at_rate = {
        workload: [material.clip_frames(video, _RATES_FPS[workload], threads=threads) for video in videos]
        for workload in workloads
    }
    shown = [snippet for video in videos for snippet in material.snippets(video, threads=threads)]
    found = []
    for workload, clips in at_rate.items():
        pairs = [pair for clip in clips for pair in consecutive([material.gray(picture) for picture in clip])]
        found.append(_flow(f"flow {workload}", pipeline.pool, pairs, _SMALL_PAIRS))
    pairs = [pair for snippet in shown for pair in consecutive(snippet.grays)]
    found.append(_flow("flow classifier", pipeline.pool, pairs, _LARGE_PAIRS))
    found += _networks(ACTIVITYNET, network.ACTIVITYNET, (pipeline.rgb, pipeline.flow), at_rate[ACTIVITYNET][0])
    if THUMOS14 in workloads:
        streams = (
            Stream(work, network.THUMOS14, 3, threads=threads),
            Stream(work, network.THUMOS14, 2, threads=threads),
        )
        found += _networks(THUMOS14, network.THUMOS14, streams, at_rate[THUMOS14][0])
    return [*found, *_classifier(pipeline.classifier, shown, pipeline)]


def decoding(videos: Sequence[Path], *, threads: int) -> list[Task]:
    """Decoding and resizing for all systems, one file per round; seconds per second of video."""
    samplings = {
        "decode afsd ActivityNet": material.afsd_sampling(ACTIVITYNET_FPS),
        "decode tallformer ActivityNet": tallformer.sampling(ACTIVITYNET),
        "decode afsd THUMOS14": material.afsd_sampling(AFSD_THUMOS14_FPS),
        "decode tallformer THUMOS14": tallformer.sampling(THUMOS14),
    }
    ways: dict[str, Callable[[Path], object]] = {
        name: lambda video, sampling=sampling: material.pictures(video, sampling, threads=threads)
        for name, sampling in samplings.items()
    }
    ways["decode classifier"] = lambda video: material.snippets(video, threads=threads)

    def task(name: str, way: Callable[[Path], object]) -> Task:
        def run(number: int) -> list[float]:
            video = videos[number % len(videos)]
            return timed(lambda: way(video), material.duration_s(video))(number)

        return Task(name, run, "mean")

    return [task(name, way) for name, way in ways.items()]


def matrix_rate() -> Task:
    """Seconds per 10^9 floating-point operations of torch's float32 matrix product."""
    product = TorchProduct()
    return Task(MATRIX, timed(product.run, product.gigaflop))


def flow_seconds(pool: FlowPool, pairs: Sequence[Pair]) -> list[float]:
    """Wall time per pair if all threads are busy."""
    _, seconds = pool.flows(pairs)
    return [own / pool.threads for own in seconds]


def _flow(name: str, pool: FlowPool, pairs: Sequence[Pair], each_round: int) -> Task:
    """A task over pairs in a fixed random order, so that every round has some of every video."""
    order = random.Random(0).sample(list(pairs), len(pairs))

    def run(number: int) -> list[float]:
        start = number * each_round
        return flow_seconds(pool, [order[index % len(order)] for index in range(start, start + each_round)])

    return Task(name, run, "mean")


def _networks(
    workload: str, sizes: AfsdSizes, streams: tuple[Stream, Stream], frames: Sequence[material.Picture]
) -> list[Task]:
    rgb, flow = streams
    many = [frames[index % len(frames)] for index in range(sizes.frames)]
    clips = (network_input(many, sizes), network_input([picture[..., :2] for picture in many], sizes))
    maps = (rgb.encode(clips[0]), flow.encode(clips[1]))

    def localize() -> tuple[np.ndarray, np.ndarray]:
        return fused_candidates(rgb.localize(maps[0]), flow.localize(maps[1]), sizes)

    segments, scores = localize()
    if workload == ACTIVITYNET:
        class_scores = np.full(200, 0.005, np.float32)
        suppress = timed(lambda: activitynet_actions(segments, scores, class_scores))
    else:
        windows = np.concatenate([segments + 128 * index for index in range(16)]), np.concatenate([scores] * 16)
        suppress = timed(lambda: thumos14_actions(*windows))
    return [
        Task(f"afsd {workload} RGB", timed(lambda: rgb.encode(clips[0]))),
        Task(f"afsd {workload} flow", timed(lambda: flow.encode(clips[1]))),
        Task(f"afsd {workload} localization", timed(localize)),
        Task(f"afsd {workload} NMS", suppress),
    ]


def _classifier(classifier: Classifier, shown: Sequence[material.Snippet], pipeline: AfsdPipeline) -> list[Task]:
    few = list(shown[:: max(len(shown) // 2, 1)][:2])
    stacks, frames = pipeline.stacks(few), [snippet.frame for snippet in few]
    return [
        Task("ResNet-200", timed(lambda: classifier.rgb(frames), len(few))),
        Task("BN-Inception", timed(lambda: classifier.flow(stacks), len(few))),
    ]
