"""Compare a bundle with torch in float32: every output of every graph, and the final actions.

Note [limits]
    Exported graphs compute in another order, so their last bits differ. In float32 the features of this project's
    models differ by 1e-6 of the largest; the limits are far above that and far below the effect of a wrong weight, mask
    or constant. Other precisions have their own limits.

Note [regions with ambiguous rounding]
    A refined head rounds the ends of the regions that it pools. If an end is halfway between two steps, the last bit of
    a distance determines the step, and thereby the refined proposal; even in torch on another machine. Such proposals
    say nothing about a graph, so they are left out. The graph's candidates are compared with those that torch computes
    from the graph's own proposals.

Note [contrast heads in bfloat16]
    Candidates of a contrast head are on a grid of lengths and overlap. If neighbours have similar scores, rounding
    determines which one is kept. So final actions with a score of at least 0.5 are compared, which count as the same if
    they overlap by half. On the tuning film of Kinetics-400 (docs/kinetics.md) all 79 actions of `kinetics400-fast`
    with at least 0.55 were found again, 78 of them at tIoU 0.95, with scores that differ by 0.02 at most.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import onnxruntime as ort
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_export.graphs import PROPOSAL_OUTPUTS, EncoderGraph, LocalizerGraph
from tallformer_export.sample import Sample
from tallformer_infer.bundle import Bundle, Precision
from tallformer_infer.config import RAW_SCORES, Difference, MatchedActions, ParityReport, RefinedHeadConfig
from tallformer_infer.errors import ExportError
from tallformer_infer.evaluation import by_falling_score, match_greedily, overlapping_pairs
from tallformer_infer.nms import suppress as suppress_in_numpy
from tallformer_infer.pipeline import Detector as Pipeline
from tallformer_infer.runtime import Cancellation, OnnxRuntime, OpenVinoRuntime, Runtime, WindowBatch
from tallformer_infer.runtime.openvino import has_bf16
from tallformer_infer.structures import Action, Candidates
from tallformer_training.model import Detector, Proposals, RefinedOutputs
from tallformer_training.model.refined_head import level_steps, proposal_edges, with_classes

TIOU_THRESHOLD = 0.95
"""Overlap from which two actions count as the same."""
_UNSURE_SCORES = 0.05
"""Limit of the scores of final actions if proposals with ambiguous rounding were left out, as these may differ."""

_FRAMES_PER_SCORE = 100.0
"""In the search for the nearest candidate, this many frames count as much as a score of 1."""

Rows = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int64]]
"""Segments (N, 2), scores (N,) and classes (N,)."""

_MARGIN_FRAMES, _MARGIN_PART = 1e-3, 1e-5
"""Ends this close to the middle between two steps are ambiguous: absolute, and per frame of distance."""

_SEEN_SCORE, _SEEN_TIOU_THRESHOLD = 0.5, 0.5
"""See Note [contrast heads in bfloat16]."""


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """Largest accepted differences, see Note [limits]."""

    features: float
    """Of a feature, relative to the largest feature."""
    segments_frames: float
    """Of the start or end of a candidate, in frames."""
    scores: float
    """Of a score of a graph."""
    action_scores: float
    """Of the score of a final action, which depends on differences of features, too."""
    other_class: float
    """Share of a window's candidates with other classes, due to near ties at the limit of candidates."""
    unmatched: float
    """Share of final actions without counterpart, due to ties between neighbours."""
    unmatched_score: float
    """Largest score of an action without counterpart."""


FP32_LIMITS = ParityLimits(
    features=1e-4,
    segments_frames=1e-2,
    scores=1e-4,
    action_scores=1e-4,
    other_class=0.01,
    unmatched=0.1,
    unmatched_score=0.05,
)
"""Measured: 1e-6, 8e-5 frames, 3e-6, 0.002; all actions of a trained model were matched; with random weights 0 to 3.3 %
were not, as nearly all their scores tie at 0.01."""


LIMITS: Mapping[Precision, ParityLimits] = {
    "fp32": FP32_LIMITS,
    "fp16": replace(FP32_LIMITS, features=1e-2, action_scores=0.005),
    "bf16": replace(FP32_LIMITS, features=5e-2, action_scores=0.02, unmatched_score=0.1),
    "int8": replace(FP32_LIMITS, features=1e-1, action_scores=0.02, unmatched_score=0.2),
    "int8-static": replace(FP32_LIMITS, features=2e-1, action_scores=0.05, unmatched=0.2, unmatched_score=0.2),
}
"""Limits by precision of the encoder."""


def measure_parity(detector: Detector, bundle: Bundle, sample: Sample, limits: ParityLimits) -> ParityReport:
    """Detect the actions of a video in torch and with the graphs, and compare all intermediate results.

    Args:
        detector: In eval mode, on the CPU.
        bundle: Its exported bundle.
        sample: The video.
        limits: Limits for the bundle's precision.

    Raises:
        BundleError: A graph cannot be run.
        ExportError: The detector gives values that are not finite.
    """
    runtime = OnnxRuntime(bundle, device="cpu")
    compared = ComparedRuntime(detector, bundle, runtime)
    here, there = (
        Pipeline(bundle, one).detect(sample.path, operating_point=RAW_SCORES).actions for one in (compared, runtime)
    )
    of_actions_limits = (
        replace(limits, action_scores=max(limits.action_scores, _UNSURE_SCORES))
        if compared.unsure_proposals
        else limits
    )
    matched, of_actions = compare_actions(here, there, of_actions_limits)
    differences = {name: _of_output(name, spread, limits) for name, spread in sorted(compared.spreads.items())}
    return ParityReport(
        sample=sample.told,
        differences={**differences, **of_actions},
        actions=matched,
        at_run_time=measure_at_run_time(bundle, sample, here),
    )


def measure_at_run_time(bundle: Bundle, sample: Sample, wanted: Sequence[Action]) -> dict[str, dict[str, Difference]]:
    """Differences of the final actions if a float32 encoder runs in bfloat16.

    Args:
        bundle: Bundle with a float32 encoder; others are not measured.
        sample: The video.
        wanted: Its actions in float32, before any operating point.

    Returns:
        Differences by precision; empty if OpenVINO is missing or the processor has no bfloat16.
    """
    is_installed = find_spec("openvino") is not None
    if bundle.graphs["encoder"].precision != "fp32" or not is_installed or not has_bf16():
        return {}
    reduced = Pipeline(bundle, OpenVinoRuntime(bundle, precision="bf16"))
    found = reduced.detect(sample.path, operating_point=RAW_SCORES).actions
    return {"bf16": compare_reduced(bundle, wanted, found)[1]}


def compare_reduced(
    bundle: Bundle, wanted: Sequence[Action], found: Sequence[Action]
) -> tuple[MatchedActions, dict[str, Difference]]:
    """Match actions in float32 (`wanted`) and in bfloat16, see Note [contrast heads in bfloat16]."""
    if bundle.recipe.model.head.kind != "contrast":
        return compare_actions(wanted, found, LIMITS["bf16"])
    here, there = ([action for action in actions if action.score >= _SEEN_SCORE] for actions in (wanted, found))
    matched, differences = compare_actions(here, there, LIMITS["bf16"], tiou_threshold=_SEEN_TIOU_THRESHOLD)
    del differences["actions.unmatched_score"]  # at least 0.5 for all of them
    return matched, differences


def compare_actions(
    here: Sequence[Action],
    there: Sequence[Action],
    limits: ParityLimits,
    *,
    tiou_threshold: float = TIOU_THRESHOLD,
) -> tuple[MatchedActions, dict[str, Difference]]:
    """Match the actions of torch (`here`) and of the bundle (`there`) one to one.

    Returns:
        Number of matched actions, and their differences.
    """
    labels = sorted({action.label for action in (*here, *there)})
    (kinds, segments, scores), (own_kinds, own_segments, own_scores) = (
        _columns(actions, labels) for actions in (there, here)
    )
    pairs = overlapping_pairs(kinds, segments, own_kinds, own_segments, at_least=tiou_threshold)
    order = by_falling_score(scores, np.zeros(len(there), np.int64), ties="first")
    (found,) = match_greedily(pairs, order, truth_count=len(here), tiou_thresholds=(tiou_threshold,), ties="first")
    rows = np.flatnonzero(found >= 0)
    alone = np.concatenate([scores[found < 0], np.delete(own_scores, found[rows])])
    unmatched, of_alone, of_scores = Spread(), Spread(), Spread()
    unmatched.add_one(len(alone) / max(len(here) + len(there), 1))
    of_alone.add(np.zeros_like(alone), alone)
    of_scores.add(own_scores[found[rows]], scores[rows])
    matched = MatchedActions(in_torch=len(here), in_bundle=len(there), matched=len(rows), tiou_threshold=tiou_threshold)
    return matched, {
        "actions.unmatched": unmatched.difference(limit=limits.unmatched, unit="part of all actions"),
        "actions.unmatched_score": of_alone.difference(limit=limits.unmatched_score, unit="score"),
        "actions.scores": of_scores.difference(limit=limits.action_scores, unit="score"),
    }


def check_parity(report: ParityReport, *, accept: bool) -> ParityReport:
    """Refuse differences above their limits, or record that they were accepted.

    Raises:
        ExportError: Some exceed their limits, and `accept` is False; the message names them.
    """
    if not report.beyond:
        return report
    if accept:
        return replace(report, accepted=report.beyond)
    lines = ", ".join(f"{name} {_shown(report.differences[name])}" for name in report.beyond)
    raise ExportError(
        f"parity: differences from torch exceed their limits: {lines}; nothing was written. "
        "To write the bundle anyway, and record that in it, use --accept-parity"
    )


def _of_output(name: str, spread: Spread, limits: ParityLimits) -> Difference:
    kind = name.rpartition("_")[2].rpartition(".")[2]
    match kind:
        case "features":
            return spread.difference(limit=limits.features, unit="part of the largest", scale=spread.largest or 1.0)
        case "segments":
            return spread.difference(limit=limits.segments_frames, unit="frames")
        case "scores":
            return spread.difference(limit=limits.scores, unit="score")
        case "classes":
            return spread.difference(limit=limits.other_class, unit="part of the candidates")
        case _:
            raise ValueError(f"output {name}: expected features, segments, scores or classes")


def _columns(
    actions: Sequence[Action], labels: Sequence[str]
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    kinds = np.array([labels.index(action.label) for action in actions], np.int64)
    segments = np.array([(action.start_s, action.end_s) for action in actions], np.float64).reshape(-1, 2)
    return kinds, segments, np.array([action.score for action in actions], np.float64)


def _shown(difference: Difference) -> str:
    if difference.worst is None:
        return "(values that are not finite, or different counts)"
    return f"by {difference.worst:.2g} ({difference.unit}; limit {difference.limit:g})"


class Spread:
    """Largest and mean absolute difference of values added in parts."""

    def __init__(self) -> None:
        self.largest = 0.0
        """Largest absolute value of torch."""
        self._worst = 0.0
        self._total = 0.0
        self._count = 0

    def add(self, here: NDArray[Any], there: NDArray[Any]) -> None:
        """Add arrays of values of torch and the bundle; different shapes count as not comparable."""
        if here.shape != there.shape:
            self._worst = float("nan")
            return
        if here.size:
            self.largest = max(self.largest, float(np.abs(here).max()))
            errors = np.abs(np.asarray(here, np.float64) - np.asarray(there, np.float64))
            self._worst = float(np.maximum(self._worst, errors.max()))  # propagates NaN
            self._total += float(errors.sum())
            self._count += errors.size

    def add_one(self, difference: float) -> None:
        """Add one difference."""
        self.add(np.zeros(1), np.array([difference]))

    def difference(self, *, limit: float, unit: str, scale: float = 1.0) -> Difference:
        """The result, divided by `scale`, to three digits; further digits are random."""
        found = (self._worst / scale, self._total / max(self._count, 1) / scale)
        is_told = bool(np.isfinite(found).all())
        worst, mean = (float(f"{value:.3g}") if is_told else None for value in found)
        return Difference(worst=worst, mean=mean, limit=limit, unit=unit)


class ComparedRuntime:
    """Runs a detector in torch, in float32 on the CPU, and records the differences of a bundle's graphs.

    Each graph gets the inputs that torch gets, so all graphs are compared on inputs computed by torch.
    """

    def __init__(self, detector: Detector, bundle: Bundle, runtime: Runtime) -> None:
        """Prepare both.

        Args:
            detector: Detector in eval mode.
            bundle: Bundle with its graphs.
            runtime: Runs the encoder. The other two graphs are run unchanged, to get all of their outputs, and so is
                the encoder for the first clip, see `_compare_portable`.
        """
        self.spreads: defaultdict[str, Spread] = defaultdict(Spread)
        """Differences by `graph.output`."""
        self.unsure_proposals = 0
        """Number of proposals left out, see `sure_proposals`."""
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
        return "the comparison with torch runs on it"

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

    def localize(self, windows: WindowBatch) -> Candidates:
        """See `Runtime.localize`. The window is compared a second time as a later one in which the video ends."""
        features, start_frames, real_frames = windows
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
        if self._suppress is not None:
            self._compare_suppression(self._suppress, found)
        return found

    def _compare_suppression(self, graph: ort.InferenceSession, candidates: Candidates) -> None:
        """Run graph 3, which no command runs, and suppression in NumPy."""
        here = suppress_in_numpy(candidates, self._recipe.suppress)
        inputs = {"segments": candidates.segments_frames, "scores": candidates.scores, "classes": candidates.classes}
        segments, scores, classes = graph.run(None, inputs)
        self.spreads["suppress.action_segments"].add(here.segments_frames, segments)
        self.spreads["suppress.action_scores"].add(here.scores, scores)
        self.spreads["suppress.action_classes"].add_one(_share_other(here.classes, classes))

    def _compare_portable(self, content: bytes, clips: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> None:
        """Run the unchanged encoder graph of the bundle, which CUDA and TensorRT load, on a batch.

        `runtime` may run a graph optimised for the CPU, one clip at a time. One comparison is enough, with a clip in
        which the video ends. The CPU has no kernels for bf16; there this graph runs with casts.
        """
        if self._recipe.window.clips > 1:  # clips of a whole window are too large for a batch of two
            clips = np.concatenate([clips, clips])
        lengths = np.concatenate([real_frames, (real_frames + 1) // 2])[-len(clips) :]
        (here,) = _in_torch(self._torch_encoder, clips, lengths)
        (there,) = _session(content).run(None, {"clips": clips, "real_frames": lengths})
        self.spreads["encoder.portable_features"].add(here.astype(np.float32), there.astype(np.float32))

    def _compare_proposals(
        self, features: NDArray[np.float32], here: list[NDArray[Any]], there: list[NDArray[Any]]
    ) -> list[NDArray[Any]]:
        """Compare proposals of a refined head, and candidates that torch computes from the graph's proposals."""
        sure = sure_proposals(self._torch_localizer.detector, features)
        self.unsure_proposals += int((~sure).sum())
        for name, own, other in zip(PROPOSAL_OUTPUTS, here, there, strict=True):
            rows = ... if name == "class_scores" else sure
            self.spreads[f"localizer.{name}"].add(own[rows], other[rows])
        return candidates_of(self._torch_localizer.detector, there)

    def _best(self, rows: Rows) -> Rows:
        """The candidates that the graph outputs, in its order."""
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
            # With near ties, the last bit determines which are the best, and their order.
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
    """For each candidate of the graph, torch's most similar candidate of the same class.

    A candidate closer to a neighbour is matched with the neighbour, so differences are exact if small, and never
    overestimated.
    """
    found = np.zeros(len(there[1]), np.intp)
    for kind in np.intersect1d(everything[2], there[2]):
        rows, own = np.flatnonzero(there[2] == kind), np.flatnonzero(everything[2] == kind)
        apart_frames = np.abs(there[0][rows][:, None] - everything[0][own][None]).max(axis=2)  # (rows, own)
        apart = apart_frames / _FRAMES_PER_SCORE + np.abs(there[1][rows][:, None] - everything[1][own][None])
        found[rows] = own[apart.argmin(axis=1)]
    return everything[0][found], everything[1][found], everything[2][found]


def _share_other(here: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    """Share of rows whose classes differ; NaN if the numbers of rows differ."""
    if here.shape != there.shape:
        return float("nan")
    return float((here != there).mean()) if len(here) else 0.0


def _share_more(here: NDArray[np.int64], there: NDArray[np.int64]) -> float:
    """Share of rows of `there` whose classes are missing in `here`, independent of the order."""
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
                f"the model gives {name} that are not finite, in torch already: its weights are damaged, or training "
                "diverged; export another checkpoint"
            )


def _session(content: bytes) -> ort.InferenceSession:
    return ort.InferenceSession(content, providers=["CPUExecutionProvider"])


@torch.no_grad()
def sure_proposals(detector: Detector, features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Proposals whose regions are rounded unambiguously, shape (B, A); see Note [regions with ambiguous rounding].

    Args:
        detector: Detector with a refined head, in eval mode.
        features: Features of windows, shape (B, C, S).
    """
    outputs = detector.localize(torch.from_numpy(features))
    assert isinstance(outputs, RefinedOutputs), "proposals of a refined head"
    frames = outputs.frame_features.shape[-1]
    counts = level_steps(frames, detector.recipe.model.level_strides)
    levels = torch.split(outputs.distances_frames.transpose(1, 2), counts, dim=-1)
    sure = [_is_sure(level, count, frames) for level, count in zip(levels, counts, strict=True)]
    found: NDArray[np.bool_] = torch.cat(sure, dim=1).numpy()
    return found


def candidates_of(detector: Detector, proposals: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """All candidates that torch computes from proposals of a graph: segments, scores and classes."""
    head = detector.recipe.model.head
    assert isinstance(head, RefinedHeadConfig), "proposals of a refined head"
    given = Proposals(*(torch.from_numpy(value) for value in proposals))
    decoded = with_classes(given, classes_per_proposal=head.classes_per_proposal)
    windows, count, kinds = decoded.scores.shape
    segments = decoded.segments_frames.repeat_interleave(kinds, dim=1)
    classes = torch.arange(kinds).repeat(count).expand(windows, -1)
    return [segments.numpy(), decoded.scores.flatten(1).numpy(), classes.numpy()]


def _is_sure(distances: Tensor, steps: int, frames: int) -> Tensor:
    """Whether the regions of a level's proposals are unambiguous: distances (B, 2, S) to (B, S)."""
    edges = torch.cat(proposal_edges(distances, steps=steps, frames=frames), dim=-1)  # (B, S, 8)
    from_middle = (edges - edges.floor() - 0.5).abs().amin(dim=-1)
    return from_middle > _MARGIN_FRAMES + _MARGIN_PART * distances.amax(dim=1)
