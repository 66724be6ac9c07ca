"""The contrast head in NumPy with more settings, used to choose those of the product."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating]
Combination = Literal["contrast", "geometric", "product", "inside"]
_NEVER = 1e-9


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of the head. Defaults are the chosen ones."""

    logit_steps: int = 3
    """Steps over which the classifier's outputs are averaged, odd."""
    smoothing_steps: int = 1
    """Steps over which probabilities are averaged, odd."""
    temperature: float = 1.0
    shortest_s: float = 2.0
    longest_s: float = 40.0
    ratio: float = 1.25
    """Ratio of successive lengths."""
    stride_part: float = 0.25
    """Distance of starts, relative to the length."""
    margin_part: float = 1.0
    """Margin on either side, relative to the length."""
    least_margin_s: float = 0.64
    margins: Literal["mean", "larger"] = "larger"
    contrast_weight: float = 1.0
    combination: Combination = "geometric"
    """`geometric`: square root of inside x contrast."""
    entropy_weight: float = 0.0
    """Background rule: score x (1 - weight x entropy inside / its largest)."""
    prior_weight: float = 0.0
    """Factor of the log of the class's mean probability in the film, which is subtracted from the logits."""
    is_best_class_only: bool = True
    """Keep only the best class of a segment."""
    suppression: Literal["nmw", "nms", "soft"] = "nmw"
    tiou: float = 0.3
    across_classes: bool = False
    """Suppress candidates of other classes, too."""
    barriers: bool = False
    """Skip segments with a cut of the film inside, more than a step from their ends."""


@dataclass(frozen=True)
class Found:
    """A detected action."""

    start_s: float
    end_s: float
    kind: int
    score: float


def detect(
    logits: Array,
    step_s: float,
    settings: Settings,
    *,
    groups: tuple[tuple[int, ...], ...] = (),
    allowed: NDArray[np.bool_] | None = None,
    cuts_s: tuple[float, ...] = (),
    least_score: float = 0.1,
) -> list[Found]:
    """Actions of a film, best first.

    Args:
        logits: Logits of each class at each step, shape (S, K).
        step_s: Length of a step.
        settings: Settings of the head.
        groups: Classes whose probabilities are added and count as the first one.
        allowed: Mask of allowed classes, shape (K,); None allows all.
        cuts_s: Ends of shots, for `barriers`.
        least_score: Candidates below are dropped.
    """
    probabilities = _probabilities(logits, settings)
    if allowed is not None:
        probabilities = probabilities * allowed
    for group in groups:
        probabilities[:, group[0]] = probabilities[:, list(group)].sum(axis=1)
        probabilities[:, list(group[1:])] = 0
    segments = _grid(len(logits), step_s, settings)
    if settings.barriers:
        segments = segments[~_cross_cuts(segments, np.array(cuts_s) / step_s)]
    scores = _scores(probabilities, segments, step_s, settings)
    rows, kinds = np.nonzero(scores > least_score)
    spans: Array = segments[rows] * np.float64(step_s)
    return _suppressed(spans, kinds, scores[rows, kinds], settings, least_score)


def _probabilities(logits: Array, settings: Settings) -> Array:
    if settings.prior_weight:
        logits = logits - settings.prior_weight * np.log(_softmax(logits).mean(axis=0) + _NEVER)
    averaged = _averaged(logits, settings.logit_steps) / settings.temperature
    return _averaged(_softmax(averaged), settings.smoothing_steps)


def _softmax(values: Array) -> Array:
    powers = np.exp(values - values.max(axis=-1, keepdims=True))
    result: Array = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _averaged(values: Array, width: int) -> Array:
    if width == 1:
        return values
    padded = np.pad(values, ((width // 2, width // 2), (0, 0)), mode="edge")
    sums = _running(padded)
    result: Array = (sums[width:] - sums[:-width]) / width
    return result


def _running(values: Array) -> Array:
    return np.concatenate([np.zeros((1, values.shape[1])), np.cumsum(values, axis=0)])


def _grid(steps: int, step_s: float, settings: Settings) -> NDArray[np.int64]:
    """Segments in steps, shape (A, 2)."""
    lengths: list[int] = []
    length_s = settings.shortest_s
    while length_s <= settings.longest_s:
        length = max(1, round(length_s / step_s))
        if length not in lengths:
            lengths.append(length)
        length_s *= settings.ratio
    rows = []
    for length in lengths:
        starts = np.arange(0, max(1, steps - length + 1), max(1, int(length * settings.stride_part)))
        rows.append(np.stack([starts, np.minimum(starts + length, steps)], axis=1))
    return np.concatenate(rows)


def _cross_cuts(segments: NDArray[np.int64], cuts: Array) -> NDArray[np.bool_]:
    first = np.searchsorted(cuts, segments[:, 0] + 1, side="right")
    last = np.searchsorted(cuts, segments[:, 1] - 1, side="left")
    result: NDArray[np.bool_] = last > first
    return result


def _scores(probabilities: Array, segments: NDArray[np.int64], step_s: float, settings: Settings) -> Array:
    sums, steps = _running(probabilities), len(probabilities)
    start, end = segments.T
    length = end - start
    least = max(1, round(settings.least_margin_s / step_s))
    margin = np.maximum(least, np.round(length * settings.margin_part).astype(int))
    front, back = np.maximum(start - margin, 0), np.minimum(end + margin, steps)
    inside = (sums[end] - sums[start]) / length[:, None]
    before, after = sums[start] - sums[front], sums[back] - sums[end]
    if settings.margins == "larger":
        sides = before / np.maximum(start - front, 1)[:, None], after / np.maximum(back - end, 1)[:, None]
        outside = np.maximum(*sides)
    else:
        outside = (before + after) / np.maximum(start - front + back - end, 1)[:, None]
    scores = _combined(inside, np.maximum(inside - settings.contrast_weight * outside, 0), settings.combination)
    if settings.entropy_weight:
        entropy = -(inside * np.log(np.maximum(inside, _NEVER))).sum(axis=1) / np.log(inside.shape[1])
        scores = scores * (1 - settings.entropy_weight * entropy[:, None])
    if settings.is_best_class_only:
        scores = np.where(scores >= scores.max(axis=1, keepdims=True), scores, 0)
    return scores


def _combined(inside: Array, contrast: Array, combination: Combination) -> Array:
    match combination:
        case "contrast":
            return contrast
        case "geometric":
            return np.sqrt(inside * contrast)
        case "product":
            return inside * contrast
        case "inside":
            return inside


def _suppressed(
    segments_s: Array, kinds: NDArray[np.int64], scores: Array, settings: Settings, least: float
) -> list[Found]:
    found: list[Found] = []
    groups = [np.arange(len(kinds))] if settings.across_classes else [np.flatnonzero(kinds == k) for k in set(kinds)]
    for group in groups:
        found += _suppressed_group(segments_s[group], kinds[group], scores[group].copy(), settings, least)
    return sorted(found, key=lambda one: -one.score)


def _suppressed_group(
    segments_s: Array, kinds: NDArray[np.int64], scores: Array, settings: Settings, least: float
) -> list[Found]:
    found = []
    while len(scores) and scores.max() > least:
        best = int(scores.argmax())
        overlap = tious(segments_s[best], segments_s)
        start_s, end_s = segments_s[best]
        if settings.suppression == "nmw":
            weights = scores * overlap * (overlap >= settings.tiou) * (kinds == kinds[best])
            start_s, end_s = weights @ segments_s / weights.sum()
        found.append(Found(float(start_s), float(end_s), int(kinds[best]), float(scores[best])))
        if settings.suppression == "soft":
            scores = scores * np.exp(-(overlap**2) / settings.tiou)
            scores[best] = 0
        else:
            scores = np.where(overlap >= settings.tiou, 0, scores)
    return found


def tious(segment: Array, others: Array) -> Array:
    """Temporal intersection over union of a segment with others, shape (A,)."""
    inside = np.maximum(np.minimum(segment[1], others[:, 1]) - np.maximum(segment[0], others[:, 0]), 0)
    result: Array = inside / (segment[1] - segment[0] + others[:, 1] - others[:, 0] - inside)
    return result
