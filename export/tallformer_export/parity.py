"""A bundle against torch in float32: every output of every graph, and what becomes of the final actions.

Note [limits]
    Exported graphs compute in another order, so their last bits differ. On float32 the features of the models of this
    project differ by 1e-6 of the largest; the limits are far above that and far below what a wrong weight,
    mask or constant does. Other precisions have limits of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from tallformer_export.compared_runtime import ComparedRuntime, Spread
from tallformer_export.sample import Sample
from tallformer_infer.bundle import Bundle, Precision
from tallformer_infer.config import RAW_SCORES, Difference, MatchedActions, ParityReport
from tallformer_infer.errors import ExportError
from tallformer_infer.evaluation import by_falling_score, match_greedily, overlapping_pairs
from tallformer_infer.pipeline import Detector as Pipeline
from tallformer_infer.runtime import OnnxRuntime, OpenVinoRuntime
from tallformer_infer.runtime.openvino import has_bf16
from tallformer_infer.structures import Action
from tallformer_training.model import Detector

TIOU_THRESHOLD = 0.95
"""Overlap from which two actions are the same one."""


@dataclass(frozen=True, kw_only=True)
class ParityLimits:
    """Largest differences that count as the same, see Note [limits]."""

    features: float
    """Of a feature, as a part of the largest feature."""
    segments_frames: float
    """Of the start or end of a candidate, in frames."""
    scores: float
    """Of a score of a graph."""
    action_scores: float
    """Of the score of a final action, which the features' differences reach too."""
    other_class: float
    """Part of a window's candidates that are of other classes: near ties let some in and others out."""
    unmatched: float
    """Part of the final actions that have no counterpart: where neighbours tie, chance decides which one stays."""
    unmatched_score: float
    """Score of an action without counterpart: those that anyone looks at must have one."""


FP32_LIMITS = ParityLimits(
    features=1e-4,
    segments_frames=1e-2,
    scores=1e-4,
    action_scores=1e-4,
    other_class=0.01,
    unmatched=0.1,
    unmatched_score=0.05,
)
"""Measured: 1e-6, 8e-5 frames, 3e-6, 0.002; actions of a trained model all matched, of random weights 0 to 3.3 % not,
as nearly all their scores tie at 0.01."""

LIMITS: Mapping[Precision, ParityLimits] = {
    "fp32": FP32_LIMITS,
    "fp16": replace(FP32_LIMITS, features=1e-2, action_scores=0.005),
    "bf16": replace(FP32_LIMITS, features=5e-2, action_scores=0.02, unmatched_score=0.1),
    "int8": replace(FP32_LIMITS, features=1e-1, action_scores=0.02, unmatched_score=0.2),
    "int8-static": replace(FP32_LIMITS, features=2e-1, action_scores=0.05, unmatched=0.2, unmatched_score=0.2),
}
"""By the encoder's precision."""
_UNSURE_SCORES = 0.05
"""Of the final actions' scores, where proposals were left out whose regions round either way: they may be others."""


def measure_parity(detector: Detector, bundle: Bundle, sample: Sample, limits: ParityLimits) -> ParityReport:
    """Find the actions of a video twice, in torch and with the graphs, and compare all that is computed on the way.

    Args:
        detector: In eval mode, on the CPU.
        bundle: What was made of it.
        sample: The video.
        limits: Those of the bundle's precision.

    Raises:
        BundleError: A graph cannot be run.
        ExportError: The detector gives what is no number.
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
    """What becomes of the final actions where a float32 encoder is run in bfloat16.

    Args:
        bundle: With a float32 encoder; of others nothing is measured.
        sample: The video.
        wanted: Its actions in float32, before any operating point.

    Returns:
        Differences by precision; none where OpenVINO is missing, or the processor has no bfloat16.
    """
    is_installed = find_spec("openvino") is not None
    if bundle.graphs["encoder"].precision != "fp32" or not is_installed or not has_bf16():
        return {}
    reduced = Pipeline(bundle, OpenVinoRuntime(bundle, precision="bf16"))
    found = reduced.detect(sample.path, operating_point=RAW_SCORES).actions
    return {"bf16": compare_actions(wanted, found, LIMITS["bf16"])[1]}


def compare_actions(
    here: Sequence[Action], there: Sequence[Action], limits: ParityLimits
) -> tuple[MatchedActions, dict[str, Difference]]:
    """Match the actions that torch gives (`here`) and the bundle gives (`there`) one to one.

    Returns:
        How many were matched, and their differences.
    """
    labels = sorted({action.label for action in (*here, *there)})
    (kinds, segments, scores), (own_kinds, own_segments, own_scores) = (
        _columns(actions, labels) for actions in (there, here)
    )
    pairs = overlapping_pairs(kinds, segments, own_kinds, own_segments, at_least=TIOU_THRESHOLD)
    order = by_falling_score(scores, np.zeros(len(there), np.int64), ties="first")
    (found,) = match_greedily(pairs, order, truth_count=len(here), tiou_thresholds=(TIOU_THRESHOLD,), ties="first")
    rows = np.flatnonzero(found >= 0)
    alone = np.concatenate([scores[found < 0], np.delete(own_scores, found[rows])])
    unmatched, of_alone, of_scores = Spread(), Spread(), Spread()
    unmatched.add_one(len(alone) / max(len(here) + len(there), 1))
    of_alone.add(np.zeros_like(alone), alone)
    of_scores.add(own_scores[found[rows]], scores[rows])
    matched = MatchedActions(in_torch=len(here), in_bundle=len(there), matched=len(rows), tiou_threshold=TIOU_THRESHOLD)
    return matched, {
        "actions.unmatched": unmatched.difference(limit=limits.unmatched, unit="part of all actions"),
        "actions.unmatched_score": of_alone.difference(limit=limits.unmatched_score, unit="score"),
        "actions.scores": of_scores.difference(limit=limits.action_scores, unit="score"),
    }


def check_parity(report: ParityReport, *, accept: bool) -> ParityReport:
    """Refuse differences above their limits, or note that they were accepted.

    Raises:
        ExportError: There are some, and `accept` is False; the message names them.
    """
    if not report.beyond:
        return report
    if accept:
        return replace(report, accepted=report.beyond)
    lines = ", ".join(f"{name} {_shown(report.differences[name])}" for name in report.beyond)
    raise ExportError(
        f"parity: the graphs differ from torch more than they may: {lines}; nothing was written. "
        "If that is what you want, --accept-parity writes the bundle and records it there"
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
        return "(values that are no numbers, or more of them in one)"
    return f"by {difference.worst:.2g} ({difference.unit}; limit {difference.limit:g})"
