"""False alarms per hour and recall of the actions found in a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.kinetics.contrast import Found, tious
from benchmarks.kinetics.film import ACCEPTED, Truth


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold and its results."""

    threshold: float
    false_alarms: int
    found: dict[str, int]
    """Found ground truths, by label."""
    truths: dict[str, int]
    """All ground truths, by label."""

    @property
    def recall(self) -> float:
        """Share of ground truths that are found."""
        return sum(self.found.values()) / max(sum(self.truths.values()), 1)


@dataclass(frozen=True)
class Judged:
    """Detections that count, best first, with the ground truth that each matches; None is a false alarm."""

    scores: tuple[float, ...]
    finds: tuple[int | None, ...]
    truths: tuple[Truth, ...]
    """Ground truths that count."""
    duration_s: float

    def at(self, threshold: float) -> OperatingPoint:
        """Results of detections with at least a score."""
        finds = [find for score, find in zip(self.scores, self.finds, strict=True) if score >= threshold]
        hits = [self.truths[find].label for find in finds if find is not None]
        labels = [truth.label for truth in self.truths]
        kinds = sorted(set(labels))
        return OperatingPoint(
            threshold,
            sum(find is None for find in finds),
            {kind: hits.count(kind) for kind in kinds},
            {kind: labels.count(kind) for kind in kinds},
        )

    def best(self, *, alarms_per_hour: float) -> OperatingPoint:
        """The lowest threshold with at most `alarms_per_hour` false alarms per hour."""
        most = alarms_per_hour * self.duration_s / 3600
        alarms, threshold = 0, 2.0
        for number, (score, find) in enumerate(zip(self.scores, self.finds, strict=True)):
            alarms += find is None
            if alarms > most:
                break
            if number + 1 == len(self.scores) or self.scores[number + 1] < score:
                threshold = score
        return self.at(threshold)


def judge(
    found: Sequence[Found], truths: Sequence[Truth], classes: Sequence[str], *, duration_s: float, tiou: float = 0.3
) -> Judged:
    """Match detections, best first, with ground truths by overlap and accepted classes.

    A ground truth is matched once; another detection of it is a false alarm. Detections of optional ones do not count.
    """
    counted = [truth for truth in truths if not truth.is_optional]
    spans = np.array([(truth.start_s, truth.end_s) for truth in counted]).reshape(-1, 2)
    taken = np.zeros(len(counted), bool)
    rows: list[tuple[float, int | None]] = []
    for one in found:
        accepts = np.array([classes[one.kind] in ACCEPTED[truth.label] for truth in counted], bool)
        overlap = tious(np.array([one.start_s, one.end_s]), spans) * accepts * ~taken
        best = int(overlap.argmax()) if len(overlap) else -1
        if best >= 0 and overlap[best] >= tiou:
            taken[best] = True
            rows.append((one.score, best))
        elif not any(_touches(one, truth, classes) for truth in truths if truth.is_optional):
            rows.append((one.score, None))
    scores, finds = zip(*rows, strict=True) if rows else ((), ())
    return Judged(tuple(scores), tuple(finds), tuple(counted), duration_s)


def _touches(one: Found, truth: Truth, classes: Sequence[str]) -> bool:
    is_right = classes[one.kind] in ACCEPTED[truth.label]
    return is_right and one.start_s < truth.end_s and truth.start_s < one.end_s
