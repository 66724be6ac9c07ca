"""Exported graphs against torch on the same inputs."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import onnx
import onnxruntime as ort
import torch

from tallformer_export.graphs import EncoderGraph, LocalizerGraph
from tallformer_infer.errors import ExportError
from tallformer_training.model import Detector

FEATURE_TOLERANCE = 1e-3
"""Relative to the largest feature. Measured on float32: below 1e-5."""
SEGMENT_TOLERANCE_FRAMES = 1e-2
SCORE_TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class Parity:
    """Largest differences between torch and ONNX Runtime on the CPU."""

    features: float
    """Of a feature, relative to the largest feature."""
    segments_frames: float
    """Of a segment's ends, in frames."""
    scores: float
    """Of a score."""

    def check(self) -> None:
        """Refuse an export that differs by more than the tolerances.

        Raises:
            ExportError: It does.
        """
        limits = {
            "features": FEATURE_TOLERANCE,
            "segments_frames": SEGMENT_TOLERANCE_FRAMES,
            "scores": SCORE_TOLERANCE,
        }
        for name, found in asdict(self).items():
            if not found <= limits[name]:  # NaN is refused too
                raise ExportError(
                    f"parity: {name} differ by {found:.2g} from torch, at most {limits[name]:g} is allowed"
                )


def measure_parity(
    detector: Detector, encoder: onnx.ModelProto, localizer: onnx.ModelProto, *, seed: int = 0
) -> Parity:
    """Compare exported graphs with torch on random pixels, a partly empty clip and a window beyond the end included.

    Args:
        detector: In eval mode.
        encoder: Graph 1.
        localizer: Graph 2.
        seed: Of the random inputs.
    """
    recipe = detector.recipe
    random = np.random.default_rng(seed)
    frames, side = recipe.window.clip_frames, recipe.sampling.crop_px
    clips = random.integers(0, 256, (2, frames, side, side, 3), dtype=np.uint8)
    real_frames = np.array([frames, frames // 2], np.int64)
    features_here = _torch(EncoderGraph(detector), clips, real_frames)[0]
    features_there = _onnx(encoder, clips=clips, real_frames=real_frames)[0]
    features = features_here.repeat(recipe.window.clips, axis=0)[: 2 * recipe.window.clips]
    windows = features.reshape(2, recipe.window.clips, *features_here.shape[1:]).transpose(0, 2, 1, 3)
    windows = np.ascontiguousarray(windows.reshape(2, features_here.shape[1], -1))
    starts = np.array([0, recipe.window.shared_step_frames], np.int64)
    lengths = np.array([recipe.window.window_frames, recipe.window.window_frames // 3], np.int64)
    graph = LocalizerGraph(detector)
    graph.per_window = None
    here = _torch(graph, windows, starts, lengths)
    there = _onnx(localizer, features=windows, start_frames=starts, real_frames=lengths)
    differences = [_nearest(here, there, window, len(recipe.classes)) for window in range(len(windows))]
    return Parity(
        features=_largest(features_here, features_there) / max(float(np.abs(features_here).max()), 1e-12),
        segments_frames=max(segments for segments, _ in differences),
        scores=max(scores for _, scores in differences),
    )


def _nearest(here: list[np.ndarray], there: list[np.ndarray], window: int, kinds: int) -> tuple[float, float]:
    """Largest differences of segments and scores between each exported candidate and the one nearest to it in torch.

    Near ties make the order of the best candidates depend on the last bit, so rows cannot be compared one by one.
    """
    count = there[1].shape[1]
    best = np.sort(here[1][window])[::-1][:count]
    worst_segment, worst_score = 0.0, _largest(best, np.sort(there[1][window])[::-1])
    for kind in range(kinds):
        mine = slice(kind, None, kinds)
        rows = there[2][window] == kind
        segments = np.abs(there[0][window][rows][:, None] - here[0][window][mine][None]).max(axis=2)  # (rows, A)
        scores = np.abs(there[1][window][rows][:, None] - here[1][window][mine][None])
        if not rows.any():
            continue
        nearest = (segments / SEGMENT_TOLERANCE_FRAMES + scores / SCORE_TOLERANCE).argmin(axis=1)[:, None]
        worst_segment = max(worst_segment, float(np.take_along_axis(segments, nearest, 1).max()))
        worst_score = max(worst_score, float(np.take_along_axis(scores, nearest, 1).max()))
    return worst_segment, worst_score


def _torch(graph: torch.nn.Module, *inputs: np.ndarray) -> list[np.ndarray]:
    with torch.no_grad():
        outputs = graph.eval()(*(torch.from_numpy(value) for value in inputs))
    return [value.numpy() for value in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _onnx(model: onnx.ModelProto, **inputs: np.ndarray) -> list[np.ndarray]:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    outputs: list[np.ndarray] = session.run(None, inputs)
    return outputs


def _largest(here: np.ndarray, there: np.ndarray) -> float:
    return float(np.abs(here.astype(np.float64) - there).max())
