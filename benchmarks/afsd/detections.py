"""Convert the outputs of AFSD's two networks to actions: fusion, decoding, soft suppression."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from benchmarks.afsd.network import AfsdSizes
from tallformer_infer.nms import soft_nms
from tallformer_infer.structures import Candidates

_MOST = 5000

Array = NDArray[np.float32]


class Outputs(NamedTuple):
    """`AfsdOutputs` of one window, without a batch dimension."""

    distances_frames: Array
    logits: Array
    offsets: Array
    refined_logits: Array
    quality_logits: Array


def fused_candidates(rgb: Outputs, flow: Outputs, sizes: AfsdSizes) -> tuple[Array, Array]:
    """Segments (A, 2) in frames of the window and scores (A, K) of both networks together.

    On ActivityNet segments are decoded for each network and their geometric mean is taken; on THUMOS14 distances are
    averaged and decoded once. Logits are averaged on both.
    """
    logits, refined, quality = (
        (getattr(rgb, name) + getattr(flow, name)) / 2 for name in ("logits", "refined_logits", "quality_logits")
    )
    scores = (softmax(logits) + softmax(refined)) / 2 / (1 + np.exp(-quality[:, None]))
    if sizes.scales_with_stride:
        segments = np.sqrt(_decode(rgb.distances_frames, rgb.offsets, sizes) * _decode(flow[0], flow[2], sizes))
    else:
        means = ((rgb[index] + flow[index]) / 2 for index in (0, 2))
        segments = _decode(*means, sizes)
    return segments.astype(np.float32), scores.astype(np.float32)


def activitynet_actions(segments: Array, scores: Array, class_scores: Array) -> Candidates:
    """Actions of a video: every remaining segment, with the video's best class."""
    best = int(class_scores.argmax())
    action = scores[:, 1]
    kept = soft_nms(
        Candidates(segments, action, np.full(len(action), best)),
        method="gaussian",
        tiou_threshold=0,
        sigma=0.85,
        min_score=1e-18,
        max_outputs=_MOST,
    )
    return Candidates(kept.segments_frames, kept.scores * class_scores[best], kept.classes)


def thumos14_actions(segments: Array, scores: Array) -> Candidates:
    """Actions of a video from the segments (A, 2) and scores (A, 21) of all its windows."""
    rows, classes = np.nonzero(scores[:, 1:] > 0.01)
    return soft_nms(
        Candidates(segments[rows], scores[rows, classes + 1], classes.astype(np.int64)),
        method="gaussian",
        tiou_threshold=0,
        sigma=0.5,
        min_score=0.001,
        max_outputs=_MOST,
    )


def softmax(logits: Array) -> Array:
    """Softmax over the last axis."""
    grown = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return np.asarray(grown / grown.sum(axis=-1, keepdims=True), np.float32)


def _decode(distances: Array, offsets: Array, sizes: AfsdSizes) -> Array:
    """Segments (A, 2) in frames, inside the window."""
    centres = np.concatenate([(np.arange(count) + 0.5) / count * sizes.frames for count in sizes.steps])
    reach = distances + 0.5 * distances.sum(axis=1, keepdims=True) * offsets
    found = np.stack([centres - reach[:, 0], centres + reach[:, 1]], axis=1)
    return np.asarray(np.clip(found, 0, sizes.frames), np.float32)
