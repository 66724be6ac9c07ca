"""Torch in the place of the exported graphs, each of which is run beside it on the same inputs."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray

from tallformer_export.graphs import PROPOSAL_OUTPUTS, EncoderGraph, LocalizerGraph
from tallformer_export.proposal_parity import candidates_of, sure_proposals
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import Difference
from tallformer_infer.errors import ExportError
from tallformer_infer.nms import suppress as suppress_in_numpy
from tallformer_infer.runtime import Cancellation, Runtime
from tallformer_infer.structures import Candidates
from tallformer_training.model import Detector

_FRAMES_PER_SCORE = 100.0
"""When the nearest candidate is looked for, this many frames count as much as a score of 1."""

Rows = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""Segments (N, 2), scores (N,) and classes (N,)."""


class Spread:
    """Worst and mean of absolute differences that come piece by piece."""

    def __init__(self) -> None:
        self.largest = 0.0
        """Largest value of torch's."""
        self._worst = 0.0
        self._total = 0.0
        self._count = 0

    def add(self, here: NDArray[Any], there: NDArray[Any]) -> None:
        """Compare arrays of torch's and the bundle's values, which cannot be compared if their shapes differ."""
        if here.shape != there.shape:
            self._worst = float("nan")
            return
        if here.size:
            self.largest = max(self.largest, float(np.abs(here).max()))
            errors = np.abs(np.asarray(here, np.float64) - np.asarray(there, np.float64))
            self._worst = float(np.maximum(self._worst, errors.max()))  # keeps what is not a number
            self._total += float(errors.sum())
            self._count += errors.size

    def add_one(self, difference: float) -> None:
        """Take a difference that was found elsewhere."""
        self.add(np.zeros(1), np.array([difference]))

    def difference(self, *, limit: float, unit: str, scale: float = 1.0) -> Difference:
        """What was found, divided by `scale`, to three digits: the others are chance."""
        found = (self._worst / scale, self._total / max(self._count, 1) / scale)
        is_told = bool(np.isfinite(found).all())
        worst, mean = (float(f"{value:.3g}") if is_told else None for value in found)
        return Difference(worst=worst, mean=mean, limit=limit, unit=unit)


class ComparedRuntime:
    """Runs a detector in torch, in float32 on the CPU, and notes how far the graphs of a bundle are from it.

    Whatever it is given, each graph is given too, so every graph is compared on inputs that come from torch.
    """

    def __init__(self, detector: Detector, bundle: Bundle, runtime: Runtime) -> None:
        """Prepare both.

        Args:
            detector: In eval mode.
            bundle: Its graphs.
            runtime: What runs them, for the encoder. The other two are run as they are, for all that they give, and
                so is the encoder for the first clip, see `_compare_portable`.
        """
        self.spreads: defaultdict[str, Spread] = defaultdict(Spread)
        """Differences by `graph.output`."""
        self.unsure_proposals = 0
        """Proposals that were left out, see `proposal_parity`."""
        self._recipe = detector.recipe
        self._runtime = runtime
        self._torch_encoder = EncoderGraph(detector).eval()
        self._torch_localizer = LocalizerGraph(detector).eval()
        self._torch_localizer.per_window = None
        self._localizer = _session(bundle.read_graph("localizer"))
        self._portable = None if bundle.graphs["encoder"].precision == "bf16" else bundle.read_graph("encoder")
        self._suppress = _session(bundle.read_graph("suppress")) if "suppress" in bundle.graphs else None

    @property
    def name(self) -> str:
        """See `Runtime`."""
        return f"torch {torch.__version__}"

    @property
    def device(self) -> Literal["cpu", "cuda"]:
        """See `Runtime`."""
        return "cpu"

    @property
    def precision(self) -> str:
        """See `Runtime`."""
        return "fp32"

    @property
    def device_reason(self) -> str:
        """See `Runtime`."""
        return "torch is compared with here"

    @property
    def clips_at_once(self) -> int:
        """See `Runtime`."""
        return 1

    @property
    def clips_per_call(self) -> int:
        """See `Runtime`."""
        return 1

    def encode(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation | None = None
    ) -> NDArray[np.float32]:
        """See `Runtime.encode`."""
        if self._portable is not None:
            self._compare_portable(self._portable, clips, real_frames)
            self._portable = None
        here = np.asarray(_in_torch(self._torch_encoder, clips, real_frames)[0], np.float32)
        _require_finite(features=here)
        self.spreads["encoder.features"].add(here, self._runtime.encode(clips, real_frames, cancellation))
        return here

    def localize(
        self, features: NDArray[np.float32], start_frames: NDArray[np.int64], real_frames: NDArray[np.int64]
    ) -> Candidates:
        """See `Runtime.localize`. The window is compared once more as a later one in which the video ends."""
        window = self._recipe.window
        twice = np.concatenate([features, features])
        starts = np.concatenate([start_frames, start_frames + window.shared_step_frames])
        lengths = np.concatenate([real_frames, (real_frames + 1) // 2])
        here = _in_torch(self._torch_localizer, twice, starts, lengths)
        _require_finite(segments=here[0], scores=here[1])
        there = self._localizer.run(None, {"features": twice, "start_frames": starts, "real_frames": lengths})
        everything = here if len(there) == 3 else self._compare_proposals(twice, here[3:], there[3:])
        for row in range(len(twice)):
            self._compare_candidates(_rows(everything, row), _rows(there, row))
        segments, scores, classes = self._best(_rows(here, 0))
        above = scores > self._recipe.suppress.score_threshold
        found = Candidates(segments[above], scores[above], classes[above])
        self.suppress(found)  # for graph 3, which nothing on the way runs
        return found

    def suppress(self, candidates: Candidates) -> Candidates:
        """See `Runtime.suppress`."""
        here = suppress_in_numpy(candidates, self._recipe.suppress)
        if self._suppress is not None:
            inputs = {
                "segments": candidates.segments_frames,
                "scores": candidates.scores,
                "classes": candidates.classes,
            }
            segments, scores, classes = self._suppress.run(None, inputs)
            self.spreads["suppress.action_segments"].add(here.segments_frames, segments)
            self.spreads["suppress.action_scores"].add(here.scores, scores)
            self.spreads["suppress.action_classes"].add_one(_share_other(here.classes, classes))
        return here

    def _compare_portable(self, content: bytes, clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> None:
        """Run the encoder's graph as the bundle has it, which is what CUDA and TensorRT load, on a batch.

        `runtime` may run another one that is made of it for the CPU, one clip at a time. Once is enough, with a clip in
        which the video ends. The CPU has no kernels for bf16; what runs there is this graph with casts.
        """
        if self._recipe.window.clips > 1:  # clips of a whole window are too large for two at once
            clips = np.concatenate([clips, clips])
        lengths = np.concatenate([real_frames, (real_frames + 1) // 2])[-len(clips) :]
        (here,) = _in_torch(self._torch_encoder, clips, lengths)
        (there,) = _session(content).run(None, {"clips": clips, "real_frames": lengths})
        self.spreads["encoder.portable_features"].add(here.astype(np.float32), there.astype(np.float32))

    def _compare_proposals(
        self, features: NDArray[np.float32], here: list[NDArray[Any]], there: list[NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Those of a refined head; what torch makes of the graph's, see `proposal_parity`."""
        sure = sure_proposals(self._torch_localizer.detector, features)
        self.unsure_proposals += int((~sure).sum())
        for name, own, other in zip(PROPOSAL_OUTPUTS, here, there, strict=True):
            rows = ... if name == "class_scores" else sure
            self.spreads[f"localizer.{name}"].add(own[rows], other[rows])
        return candidates_of(self._torch_localizer.detector, there)

    def _best(self, rows: Rows) -> Rows:
        """Those that the graph gives, in its order."""
        segments, scores, classes = rows
        limit = self._recipe.candidates.per_window
        if limit is None or limit >= len(scores):
            return rows
        best = np.argsort(-scores, kind="stable")[:limit]
        return segments[best], scores[best], classes[best]

    def _compare_candidates(self, everything: Rows, there: Rows) -> None:
        best = self._best(everything)
        share = _share_other(best[2], there[2])
        if len(best[1]) < len(everything[1]):
            # Near ties decide by the last bit which are the best, and in which order.
            self.spreads["localizer.scores"].add(best[1], -np.sort(-there[1]))
            share = _share_more(best[2], there[2])
            best = _nearest(everything, there)
        self.spreads["localizer.segments"].add(best[0], there[0])
        self.spreads["localizer.scores"].add(best[1], there[1])
        self.spreads["localizer.classes"].add_one(share)


def _rows(outputs: Sequence[NDArray[Any]], window: int) -> Rows:
    segments, scores, classes = (output[window] for output in outputs[:3])
    return segments, scores, classes


def _nearest(everything: Rows, there: Rows) -> Rows:
    """For each candidate of the graph the one of torch's that is most like it, of its class.

    Candidates that are further off than half the way to a neighbour are taken for the neighbour, so differences are
    exact while they are small, and never too large.
    """
    found = np.zeros(len(there[1]), np.intp)
    for kind in np.intersect1d(everything[2], there[2]):
        rows, own = np.flatnonzero(there[2] == kind), np.flatnonzero(everything[2] == kind)
        apart_frames = np.abs(there[0][rows][:, None] - everything[0][own][None]).max(axis=2)  # (rows, own)
        apart = apart_frames / _FRAMES_PER_SCORE + np.abs(there[1][rows][:, None] - everything[1][own][None])
        found[rows] = own[apart.argmin(axis=1)]
    return everything[0][found], everything[1][found], everything[2][found]


def _share_other(here: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    """Part of the rows in which the classes differ; not a number where there are more rows in one."""
    if here.shape != there.shape:
        return float("nan")
    return float((here != there).mean()) if len(here) else 0.0


def _share_more(here: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    """Part of the rows of `there` by which its classes are more often there than in `here`, whatever their order."""
    kinds, counts = np.unique(there, return_counts=True)
    more = counts - (here[None] == kinds[:, None]).sum(axis=1)
    return float(np.maximum(more, 0).sum() / max(len(there), 1))


def _in_torch(graph: torch.nn.Module, *inputs: NDArray[Any]) -> list[NDArray[Any]]:
    with torch.no_grad():
        outputs = graph(*(torch.from_numpy(value) for value in inputs))
    return [value.numpy() for value in (outputs if isinstance(outputs, tuple) else (outputs,))]


def _require_finite(**outputs: NDArray[np.float32]) -> None:
    for name, values in outputs.items():
        if not np.isfinite(values).all():
            raise ExportError(
                f"the model gives {name} that are no numbers, in torch already: its weights are damaged, or training "
                "went wrong; export another checkpoint"
            )


def _session(content: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])
