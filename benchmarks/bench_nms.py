"""How long does suppression of 10,000 candidates x 20 classes take on one core?

Two interpretations of that size: 10,000 segments with a score in every class (200,000 pairs), and 10,000 pairs. Each
with the official limit of 1200 actions and without one, for the NumPy functions and for graph 3 on ONNX Runtime.

The lower bound is to read every pair once and sort by score: 200,000 pairs are 4 MB (start, end, score in float32,
class in int64), 0.4 ms at 10 GB/s; a sort of 200,000 integers takes about 1 ms with NumPy's vector sort. Both are timed
as `suppress_floor`. The baseline is the rule as published, one pass over the remaining pairs per action
(`one_by_one`), and results are checked against it.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_nms
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnxruntime

from benchmarks.measure import measure, report
from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_infer.config import SuppressConfig
from tallformer_infer.nms import suppress
from tallformer_infer.structures import Candidates

SEGMENTS = 10_000
CLASSES = 20
UNLIMITED = 10**9


def main() -> None:
    """Check every case against the published rule, then time it."""
    for every_class in (True, False):
        candidates = make_candidates(every_class=every_class)
        facts: dict[str, Any] = {"pairs": len(candidates), "classes": CLASSES}
        report("suppress_floor", measure(partial(read_and_sort, candidates)), **facts)
        for limit in (1200, UNLIMITED):
            config = SuppressConfig(max_per_video=limit)
            begin = time.perf_counter()
            expected = one_by_one(candidates, config)
            facts |= {
                "limit": None if limit == UNLIMITED else limit,
                "actions": len(expected),
                "one_by_one_s": round(time.perf_counter() - begin, 3),
            }
            ways: dict[str, Callable[[Candidates], Candidates]] = {"numpy": partial(suppress, config=config)}
            if limit != UNLIMITED:  # the node takes time proportional to pairs x actions
                ways["graph_cpu"] = graph(config)
            for name, way in ways.items():
                _check(way(candidates), expected)
                report(f"suppress_nmw_{name}", measure(partial(way, candidates)), **facts)


def read_and_sort(candidates: Candidates) -> object:
    """Lower bound of the work: read every pair, and sort by score."""
    totals = candidates.segments_frames.sum(), candidates.classes.sum()
    return totals, np.sort(candidates.scores.view(np.int32).astype(np.int64))


def make_candidates(*, every_class: bool, seed: int = 0) -> Candidates:
    """Candidates as from 17 overlapping windows of 585 anchors: 16 to 512 frames long, short ones more often.

    Args:
        every_class: Whether each segment has a score in every class, or in one drawn at random.
        seed: Seed of the random numbers.
    """
    random = np.random.default_rng(seed)
    video_frames = SEGMENTS / 585 * 360
    lengths = 16 * 2 ** (5 * random.random(SEGMENTS) ** 2)
    centres = random.random(SEGMENTS) * video_frames
    segments = np.stack([centres - lengths / 2, centres + lengths / 2], axis=1).clip(0, video_frames)
    classes = random.integers(0, CLASSES, SEGMENTS)
    if every_class:
        segments = np.repeat(segments, CLASSES, axis=0)
        classes = np.tile(np.arange(CLASSES), SEGMENTS)
    scores = 0.006 + 0.99 * random.random(len(segments)) ** 3
    return Candidates(segments.astype(np.float32), scores.astype(np.float32), classes)


def graph(config: SuppressConfig) -> Callable[[Candidates], Candidates]:
    """Graph 3 on ONNX Runtime's CPU provider, on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = build_suppress_graph(config).SerializeToString()
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(candidates: Candidates) -> Candidates:
        feeds = {"segments": candidates.segments_frames, "scores": candidates.scores, "classes": candidates.classes}
        return Candidates(*session.run(None, feeds))

    return run


def one_by_one(candidates: Candidates, config: SuppressConfig) -> Candidates:
    """The rule as published: select the best remaining candidate, average and remove its cluster, repeat."""
    left = np.argsort(-candidates.scores, kind="stable")
    rows: list[np.intp] = []
    segments = []
    while len(left) and len(rows) < config.max_per_video:
        best = left[0]
        starts, ends = candidates.segments_frames[left].T
        overlap = np.maximum(np.minimum(ends, ends[0]) - np.maximum(starts, starts[0]), 0)
        overlap /= np.maximum((ends - starts) + (ends[0] - starts[0]) - overlap, np.float32(1e-6))
        overlap[candidates.classes[left] != candidates.classes[best]] = 0
        overlap[0] = 1
        cluster = overlap >= np.float32(config.tiou_threshold)
        weights = (candidates.scores[left[cluster]] * overlap[cluster]).astype(np.float64)
        rows.append(best)
        segments.append(weights @ candidates.segments_frames[left[cluster]] / weights.sum())
        left = left[~cluster]
    kept = candidates.take(np.array(rows, np.intp))
    return Candidates(np.array(segments, np.float32), kept.scores, kept.classes)


def _check(result: Candidates, expected: Candidates) -> None:
    np.testing.assert_array_equal(result.classes, expected.classes)
    np.testing.assert_array_equal(result.scores, expected.scores)
    np.testing.assert_allclose(result.segments_frames, expected.segments_frames, rtol=2e-7, atol=1e-4)


if __name__ == "__main__":
    main()
