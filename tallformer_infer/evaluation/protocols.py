"""How a benchmark counts: its thresholds, its subset, and its rules where implementations differ.

# Note [two metrics]
The field uses two evaluators that look alike and differ in four rules. Both rank the predictions of a class by score
and give each, in turn, the best-overlapping truth that is still free.

1. Videos of the subset that have no annotated segment: the ActivityNet toolkit as this field uses it leaves predictions
   on them out, the VOC-style metric of the THUMOS14 test tool counts each as a false positive.
2. Equal scores, and equal overlaps: the toolkit takes the last in the file first, the VOC-style metric the first.
   (Both sort unstably; these are the rules of the same code with a stable sort.)
3. Two segments without length overlap by 0/0. The toolkit's comparison with "not a number" lets the prediction have the
   truth, wherever both are; ActivityNet-1.3 has three such truths in its validation subset. The VOC-style metric counts
   such truths as missed.
4. Arithmetic: float64 against float32, where a prediction within 1e-7 of a threshold can fall on either side.

# Note [lists of videos]
Published numbers differ by the videos that were scored. THUMOS14 test: 213 annotated videos in the official files, 211
where 0000270 and 0001292 are dropped, 210 where 0001496 is dropped too. ActivityNet-1.3 validation: 4,728 where the
videos that have left the web are ignored. Spans that THUMOS14 marks `Ambiguous` are no class: a prediction there is a
false positive. Every CliffDiving of THUMOS14 is annotated as Diving too.

Source: the ActivityNet evaluation toolkit (MIT) and the mean-average-precision module of vedatad (Apache-2.0), by their
published behaviour; re-implemented.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, assert_never

import numpy as np

ProtocolName = Literal["thumos14", "activitynet", "hacs", "reference-voc"]


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """Rules of one benchmark. See Note [two metrics]."""

    name: ProtocolName
    """Name on the command line."""
    tiou_thresholds: tuple[float, ...]
    """Overlaps in (0, 1] from which a prediction counts as right; the average mAP is the mean over them."""
    subsets: tuple[str, ...]
    """Subset that is scored unless another is asked for: the first of these that the truth has. Folded names."""
    empty_videos_count: bool
    """True where predictions on videos without annotated segments are false positives."""
    ties: Literal["first", "last"]
    """Which of several equal scores, or equally good truths, comes first: the first or the last in the file."""
    matches_nothing: bool
    """True where a prediction without length finds a truth without length."""
    single_precision: bool
    """True where scores and overlaps are rounded to float32 before they are compared."""

    def __post_init__(self) -> None:
        if not self.tiou_thresholds or not all(0 < threshold <= 1 for threshold in self.tiou_thresholds):
            raise ValueError(f"expected tIoU thresholds in (0, 1], got {self.tiou_thresholds = }")


def protocol_named(name: ProtocolName) -> Protocol:
    """The rules of the benchmark `name`."""
    match name:
        case "thumos14":
            return _toolkit(name, (0.3, 0.4, 0.5, 0.6, 0.7), ("testing", "validation"))
        case "activitynet" | "hacs":
            # The official thresholds are this linspace, whose ninth is 0.8999999999999999.
            return _toolkit(name, tuple(np.linspace(0.5, 0.95, 10).tolist()), ("validation", "testing"))
        case "reference-voc":
            return Protocol(
                name=name,
                tiou_thresholds=(0.3, 0.4, 0.5, 0.6, 0.7),
                subsets=("testing", "validation"),
                empty_videos_count=True,
                ties="first",
                matches_nothing=False,
                single_precision=True,
            )
    assert_never(name)


def _toolkit(name: ProtocolName, tiou_thresholds: tuple[float, ...], subsets: tuple[str, ...]) -> Protocol:
    return Protocol(
        name=name,
        tiou_thresholds=tiou_thresholds,
        subsets=subsets,
        empty_videos_count=False,
        ties="last",
        matches_nothing=True,
        single_precision=False,
    )
