"""AFSD's stages, and the whole pipeline for one video."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.afsd import workload
from benchmarks.afsd.classifier import BnInception, ResNet200, ten_crops, video_scores
from benchmarks.afsd.detections import Outputs, activitynet_actions, fused_candidates
from benchmarks.afsd.flow import FlowPool, Gray, Pair
from benchmarks.afsd.graphs import Array, graph, network_in
from benchmarks.afsd.material import Snippet, clip_frames, gray, snippets
from benchmarks.afsd.network import ACTIVITYNET, SIDE_PX, AfsdBackbone, AfsdLocalizer, AfsdSizes
from tallformer_infer.structures import Candidates


class Stream:
    """One of the two networks, RGB or flow, in `fp32` or `bf16`."""

    def __init__(self, work: Path, sizes: AfsdSizes, channels: int, *, threads: int, precision: str = "fp32") -> None:
        clip = torch.zeros(1, channels, sizes.frames, SIDE_PX, SIDE_PX).uniform_(-1, 1)
        name = f"afsd-{sizes.frames}-{channels}"
        backbone = graph(work, name, lambda: AfsdBackbone(sizes, channels), [clip])
        self._backbone = network_in(precision)(backbone, threads=threads)
        steps, side = sizes.frames // 8, SIDE_PX // 32
        maps = [torch.rand(1, 1024, steps, side, side)]
        if sizes.has_fine_level:
            maps.insert(0, torch.rand(1, 832, 2 * steps, 2 * side, 2 * side))
        localizer = graph(work, f"afsd-{sizes.frames}-localizer", lambda: AfsdLocalizer(sizes), maps)
        self._localizer = network_in(precision)(localizer, threads=threads)

    def encode(self, clip: Array) -> list[Array]:
        """Maps of a clip (C, F, 96, 96) in [-1, 1]."""
        return self._backbone.run(clip[None])

    def localize(self, maps: Sequence[Array]) -> Outputs:
        """Outputs of the head."""
        return Outputs(*(output[0] for output in self._localizer.run(*maps)))


class Classifier:
    """The external classifier: two snippets in parallel, each on half of the threads."""

    def __init__(self, work: Path, *, threads: int, precision: str = "fp32") -> None:
        frame, stacks = torch.rand(1, 3, 256, 340), torch.rand(10, 10, 224, 224)
        at_once = min(threads, 2)
        network = network_in(precision)
        self._rgb = network(graph(work, "resnet200", ResNet200, [frame]), threads=threads, at_once=at_once)
        self._flow = network(graph(work, "bn-inception", BnInception, [stacks]), threads=threads, at_once=at_once)

    def rgb(self, frames: Sequence[NDArray[np.uint8]]) -> Array:
        """Scores (S, 200) of frames (256, 340, 3)."""
        inputs = [np.ascontiguousarray(frame.transpose(2, 0, 1)[None], np.float32) / 255 for frame in frames]
        return np.concatenate([scores for (scores,) in self._rgb.run_all(inputs)])

    def flow(self, stacks: Sequence[Array]) -> Array:
        """Scores (S, 200) of stacks (10, 256, 340), the best of ten crops."""
        outputs = self._flow.run_all([ten_crops(stack) for stack in stacks])
        return np.stack([scores.max(axis=0) for (scores,) in outputs])


@dataclass
class StageClock:
    """Seconds of each stage of one video."""

    seconds: dict[str, float] = field(default_factory=dict)
    _mark: float = field(default_factory=time.perf_counter)

    def lap(self, stage: str) -> None:
        """Add the time since the last lap to a stage."""
        now = time.perf_counter()
        self.seconds[stage] = self.seconds.get(stage, 0.0) + now - self._mark
        self._mark = now


class AfsdPipeline:
    """AFSD's pipeline for one ActivityNet video, stage by stage."""

    def __init__(self, work: Path, *, threads: int) -> None:
        self.rgb = Stream(work, ACTIVITYNET, 3, threads=threads)
        self.flow = Stream(work, ACTIVITYNET, 2, threads=threads)
        self.classifier = Classifier(work, threads=threads)
        self.pool = FlowPool(threads)
        self._threads = threads

    def detect(self, video: Path, sample_fps: float) -> tuple[Candidates, dict[str, float]]:
        """Actions of a video, and the seconds of each stage, named as the rows of the table."""
        clock = StageClock()
        frames = clip_frames(video, sample_fps, threads=self._threads)
        clock.lap(workload.DECODE)
        flows, _ = self.pool.flows(consecutive([gray(frame) for frame in frames]))
        clock.lap(workload.FLOW)
        maps = [self.rgb.encode(network_input(frames, ACTIVITYNET))]
        clock.lap(workload.RGB)
        maps.append(self.flow.encode(network_input([*flows, flows[-1]], ACTIVITYNET)))
        clock.lap(workload.FLOW_NET)
        segments, scores = fused_candidates(self.rgb.localize(maps[0]), self.flow.localize(maps[1]), ACTIVITYNET)
        clock.lap(workload.LOCALIZE)
        shown = snippets(video, threads=self._threads)
        clock.lap(workload.CLS_DECODE)
        stacks = self.stacks(shown)
        clock.lap(workload.CLS_FLOW)
        of_frames = self.classifier.rgb([snippet.frame for snippet in shown])
        clock.lap(workload.CLS_RGB)
        class_scores = video_scores(of_frames, self.classifier.flow(stacks))
        clock.lap(workload.CLS_FLOW_NET)
        actions = activitynet_actions(segments, scores, class_scores)
        clock.lap(workload.NMS)
        return actions, clock.seconds

    def stacks(self, shown: Sequence[Snippet]) -> list[Array]:
        """Flow of snippets, stacked for the network: each (10, 256, 340)."""
        pairs = [pair for snippet in shown for pair in consecutive(snippet.grays)]
        flows, _ = self.pool.flows(pairs)
        each = len(flows) // len(shown)
        parts = [flows[start : start + each] for start in range(0, len(flows), each)]
        return [np.concatenate(part, axis=2).transpose(2, 0, 1).astype(np.float32) - 127.5 for part in parts]


def consecutive(grays: Sequence[Gray]) -> list[Pair]:
    """Each frame with the next one."""
    return list(pairwise(grays))


def network_input(pictures: Sequence[NDArray[np.uint8]], sizes: AfsdSizes) -> Array:
    """Pictures (H, W, C) to a clip (C, F, 96, 96) in [-1, 1]: the centre, and gray after the last picture."""
    channels = pictures[0].shape[2]
    clip = np.full((sizes.frames, SIDE_PX, SIDE_PX, channels), 127.5, np.float32)
    margin = (pictures[0].shape[0] - SIDE_PX) // 2
    for index, picture in enumerate(pictures[: sizes.frames]):
        clip[index] = picture[margin : margin + SIDE_PX, margin : margin + SIDE_PX]
    return np.ascontiguousarray((clip / 127.5 - 1).transpose(3, 0, 1, 2))
