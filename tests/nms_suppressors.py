"""The two forms of hard suppression and NMW under test, and the plain rule that both must follow."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Literal

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_infer.config import SuppressConfig
from tallformer_infer.nms import nms, nmw
from tallformer_infer.structures import Candidates

Method = Literal["nms", "nmw"]
Suppressor = Callable[[Candidates, Method, float, int | None], Candidates]
"""(candidates with scores above 0, method, tiou_threshold, max_outputs) to what is left."""


def with_numpy(
    candidates: Candidates, method: Method, tiou_threshold: float, max_outputs: int | None = None
) -> Candidates:
    """The NumPy functions."""
    function = nms if method == "nms" else nmw
    return function(candidates, tiou_threshold=tiou_threshold, max_outputs=max_outputs)


def with_graph(
    candidates: Candidates, method: Method, tiou_threshold: float, max_outputs: int | None = None
) -> Candidates:
    """Graph 3 in ONNX Runtime on the CPU, on one thread."""
    config = SuppressConfig(
        method=method, score_threshold=0.0, tiou_threshold=tiou_threshold, max_per_video=max_outputs or 10**6
    )
    return run_graph(candidates, config)


def run_graph(candidates: Candidates, config: SuppressConfig) -> Candidates:
    """Graph 3 for a configuration."""
    feeds = {"segments": candidates.segments_frames, "scores": candidates.scores, "classes": candidates.classes}
    return Candidates(*_session(config).run(["action_segments", "action_scores", "action_classes"], feeds))


@cache
def _session(config: SuppressConfig) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    model = build_suppress_graph(config).SerializeToString()
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


both_forms = pytest.mark.parametrize("suppressor", [with_numpy, with_graph], ids=["numpy", "graph"])
both_methods = pytest.mark.parametrize("method", ["nms", "nmw"])


def one_by_one(
    candidates: Candidates, method: Method, tiou_threshold: float, max_outputs: int | None = None
) -> Candidates:
    """The rule in its plainest form: take the best left, remove what it takes away, repeat."""
    left = np.argsort(-candidates.scores, kind="stable")
    rows, segments = [], []
    while len(left) and (max_outputs is None or len(rows) < max_outputs):
        same = left[candidates.classes[left] == candidates.classes[left[0]]]
        overlap = plain_tiou(candidates.segments_frames[left[0]], candidates.segments_frames[same])
        threshold = np.float32(tiou_threshold)
        taken = overlap > threshold if method == "nms" else overlap >= threshold
        overlap[0], taken[0] = 1, True
        weights = (candidates.scores[same] * overlap)[taken].astype(np.float64)
        mean = weights @ candidates.segments_frames[same][taken] / weights.sum()
        rows.append(left[0])
        segments.append(candidates.segments_frames[left[0]] if method == "nms" else mean)
        left = left[~np.isin(left, same[taken])]
    kept = candidates.take(np.array(rows, np.intp))
    return Candidates(np.array(segments, np.float32).reshape(-1, 2), kept.scores, kept.classes)


def plain_tiou(top: NDArray[np.float32], others: NDArray[np.float32]) -> NDArray[np.float32]:
    """Overlap of one segment with others, in float32 like the official code."""
    overlap = np.maximum(np.minimum(top[1], others[:, 1]) - np.maximum(top[0], others[:, 0]), 0)
    union = (top[1] - top[0]) + (others[:, 1] - others[:, 0]) - overlap
    return overlap / np.maximum(union, np.float32(1e-6))


def candidates_of(*rows: tuple[float, float, float, int]) -> Candidates:
    """Candidates from (start, end, score, class)."""
    table = np.array(rows, np.float64).reshape(-1, 4)
    return Candidates(table[:, :2].astype(np.float32), table[:, 2].astype(np.float32), table[:, 3].astype(np.int64))


def assert_same(actual: Candidates, expected: Candidates, *, atol_frames: float = 1e-4) -> None:
    """Same scores and classes in the same order, and segments within the goldens' tolerance and float32 rounding."""
    np.testing.assert_array_equal(actual.classes, expected.classes)
    np.testing.assert_array_equal(actual.scores, expected.scores)
    np.testing.assert_allclose(actual.segments_frames, expected.segments_frames, rtol=2e-7, atol=atol_frames)
