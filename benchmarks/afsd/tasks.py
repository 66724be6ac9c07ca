"""The stages of AFSD and TALLFormer as tasks, timed in turn, round by round, so that other load affects all alike."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.afsd import material, network
from benchmarks.afsd.detections import activitynet_actions, fused_candidates, thumos14_actions
from benchmarks.afsd.flow import FlowPool, Pair
from benchmarks.afsd.graphs import Network, tallformer_graphs
from benchmarks.afsd.network import AfsdSizes
from benchmarks.afsd.pipeline import AfsdPipeline, Classifier, Stream, consecutive, network_input
from benchmarks.afsd.workload import ACTIVITYNET, ACTIVITYNET_FPS, AFSD_THUMOS14_FPS, MATRIX, THUMOS14, bf16_task
from benchmarks.ceilings import TorchProduct
from benchmarks.measure import say_round, take_turns
from tallformer_infer.config import Recipe, SamplingConfig, preset
from tallformer_infer.nms import suppress
from tallformer_infer.runtime import Cancellation
from tallformer_infer.runtime.onnx import CpuEncoder
from tallformer_infer.runtime.openvino import OpenVinoEncoder
from tallformer_infer.structures import Candidates

_RATES_FPS = {ACTIVITYNET: ACTIVITYNET_FPS, THUMOS14: AFSD_THUMOS14_FPS}
_SMALL_PAIRS, _LARGE_PAIRS = 32, 20
"""Pairs per round, of 112 x 112 and of 340 x 256 pixels."""
_RECIPES = {ACTIVITYNET: "anet-swin", THUMOS14: "thumos14-swin"}
_WINDOW_STEP = 352


@dataclass
class Task:
    """A task that is timed repeatedly."""

    name: str
    run: Callable[[int], list[float]]
    """Runs the task once; takes the number of the round, returns seconds of wall time per unit."""
    centre: Literal["mean", "median"] = "median"
    """Statistic to multiply: the mean if units differ, the median if only the machine's load does."""
    samples_s: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    """Mean number of busy processors in each round; below the number of threads under other load."""


def timed(work: Callable[[], object], units: float = 1) -> Callable[[int], list[float]]:
    """For `Task.run`: work of `units` units."""

    def run(_: int) -> list[float]:
        started = time.perf_counter()
        work()
        return [(time.perf_counter() - started) / units]

    return run


def sample(tasks: Sequence[Task], rounds: int) -> None:
    """Run all tasks once as warm-up, then `rounds` times."""
    given = take_turns(
        {task.name: partial(_run, task) for task in tasks},
        rounds=rounds,
        on_round=partial(say_round, "measuring", rounds),
    )
    for task in tasks:
        task.samples_s += [each for seconds, _ in given[task.name] for each in seconds]
        task.busy += [busy for _, busy in given[task.name]]


def _run(task: Task, number: int) -> tuple[list[float], float]:
    """Seconds per unit, and number of busy processors."""
    wall, cpu = time.perf_counter(), time.process_time()
    seconds = task.run(number)
    return seconds, (time.process_time() - cpu) / (time.perf_counter() - wall)


def afsd_tasks(
    pipeline: AfsdPipeline,
    work: Path,
    videos: Sequence[Path],
    *,
    threads: int,
    workloads: Sequence[str] = (ACTIVITYNET, THUMOS14),
    with_bf16: bool = False,
) -> list[Task]:
    """All tasks of AFSD for these data sets; with bf16, those of the networks in bfloat16, too."""
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
        streams = _streams(work, network.THUMOS14, threads=threads)
        found += _networks(THUMOS14, network.THUMOS14, streams, at_rate[THUMOS14][0])
    found += _classifier(pipeline.classifier, shown, pipeline)
    if with_bf16:
        for workload, clips in at_rate.items():
            sizes = network.ACTIVITYNET if workload == ACTIVITYNET else network.THUMOS14
            streams = _streams(work, sizes, threads=threads, precision="bf16")
            found += _in_bf16(_networks(workload, sizes, streams, clips[0]))
        classifier = Classifier(work, threads=threads, precision="bf16")
        found += _in_bf16(_classifier(classifier, shown, pipeline))
    return found


def _in_bf16(tasks: Sequence[Task]) -> list[Task]:
    """The tasks of networks, named accordingly."""
    return [replace(task, name=bf16_task(task.name)) for task in tasks if not task.name.endswith("NMS")]


def _streams(work: Path, sizes: AfsdSizes, *, threads: int, precision: str = "fp32") -> tuple[Stream, Stream]:
    """RGB and flow."""
    rgb, flow = (Stream(work, sizes, channels, threads=threads, precision=precision) for channels in (3, 2))
    return rgb, flow


def decoding(videos: Sequence[Path], *, threads: int) -> list[Task]:
    """Decoding and resizing for all systems, one file per round; seconds per second of video."""
    samplings = {
        "decode afsd ActivityNet": material.afsd_sampling(ACTIVITYNET_FPS),
        "decode tallformer ActivityNet": tallformer_sampling(ACTIVITYNET),
        "decode afsd THUMOS14": material.afsd_sampling(AFSD_THUMOS14_FPS),
        "decode tallformer THUMOS14": tallformer_sampling(THUMOS14),
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
        suppression = timed(lambda: activitynet_actions(segments, scores, class_scores))
    else:
        windows = np.concatenate([segments + 128 * index for index in range(16)]), np.concatenate([scores] * 16)
        suppression = timed(lambda: thumos14_actions(*windows))
    return [
        Task(f"afsd {workload} RGB", timed(lambda: rgb.encode(clips[0]))),
        Task(f"afsd {workload} flow", timed(lambda: flow.encode(clips[1]))),
        Task(f"afsd {workload} localization", timed(localize)),
        Task(f"afsd {workload} NMS", suppression),
    ]


def _classifier(classifier: Classifier, shown: Sequence[material.Snippet], pipeline: AfsdPipeline) -> list[Task]:
    few = list(shown[:: max(len(shown) // 2, 1)][:2])
    stacks, frames = pipeline.stacks(few), [snippet.frame for snippet in few]
    return [
        Task("ResNet-200", timed(lambda: classifier.rgb(frames), len(few))),
        Task("BN-Inception", timed(lambda: classifier.flow(stacks), len(few))),
    ]


def tallformer_tasks(
    work: Path,
    videos: Sequence[Path],
    *,
    threads: int,
    workloads: Sequence[str] = (ACTIVITYNET, THUMOS14),
    precisions: Sequence[str] = ("fp32", "int8"),
) -> list[Task]:
    """All tasks of TALLFormer for both backbones. The encoder is the same for both data sets; bf16 needs fp32, too."""
    found: list[Task] = []
    frames = np.stack(material.pictures(videos[0], tallformer_sampling(ACTIVITYNET), threads=threads)[:32])
    for backbone in ("Swin-B", "Swin-T"):
        letter = backbone[-1].lower()
        graphs = tallformer_graphs(work, f"anet-swin-{letter}", precisions)
        for precision in precisions:
            encoder: CpuEncoder | OpenVinoEncoder
            if precision == "bf16":
                encoder = OpenVinoEncoder(graphs["fp32"], precision="bf16", threads=threads)
            else:
                encoder = CpuEncoder(graphs[precision], threads=threads)
            found.append(_encoder_task(f"encode {backbone} {precision}", encoder, frames))
        for workload in workloads:
            recipe = preset(f"{_RECIPES[workload]}-{letter}")
            content = tallformer_graphs(work, recipe.name, precisions if workload == ACTIVITYNET else ())
            localizer = Network(content["localizer"], threads=threads)
            found += _localizer_tasks(backbone, workload, recipe, localizer)
    return found


def tallformer_sampling(workload: str) -> SamplingConfig:
    """Sampling of the recipe for a data set, at the rate of the workload's video."""
    shipped = preset(f"{_RECIPES[workload]}-b").sampling
    return replace(shipped, sample_fps=ACTIVITYNET_FPS, most_frames=None) if workload == ACTIVITYNET else shipped


def _encoder_task(name: str, encoder: CpuEncoder | OpenVinoEncoder, frames: NDArray[np.uint8]) -> Task:
    count = encoder.clips_at_once
    clips, real_frames = np.stack([frames] * count), np.full(count, len(frames))
    return Task(name, timed(lambda: encoder.run(clips, real_frames, Cancellation()), count))


def _localizer_tasks(backbone: str, workload: str, recipe: Recipe, localizer: Network) -> list[Task]:
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
