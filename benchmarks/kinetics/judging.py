"""False alarms per hour and recall of what was found in a film."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.kinetics.contrast import Found, tious
from benchmarks.kinetics.film import ACCEPTED, Truth


@dataclass(frozen=True)
class OperatingPoint:
    """A threshold, and what it gives."""

    threshold: float
    false_alarms: int
    found: dict[str, int]
    """Truths that are found, by label."""
    truths: dict[str, int]
    """All truths, by label."""

    @property
    def recall(self) -> float:
        """Part of all truths that is found."""
        return sum(self.found.values()) / max(sum(self.truths.values()), 1)


@dataclass(frozen=True)
class Judged:
    """Each finding that counts, best first, with the truth that it finds; None is a false alarm."""

    scores: tuple[float, ...]
    finds: tuple[int | None, ...]
    truths: tuple[Truth, ...]
    """Those that count."""
    duration_s: float

    def at(self, threshold: float) -> OperatingPoint:
        """What findings from a score on give."""
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
        """The lowest threshold with at most so many false alarms per hour."""
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
    """Match findings, best first, with truths that they overlap enough and have an accepted class of.

    A truth is found once; another finding of it is a false alarm. Findings of optional truths count neither way.
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
