"""Actions of a video next to what is known to happen in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from tallformer_infer.commands.text import clock, counted, printable
from tallformer_infer.evaluation import Truth, read_truth
from tallformer_infer.evaluation.overlap import tiou_of_pairs
from tallformer_infer.evaluation.video_names import bare_name_of, composed, match_video
from tallformer_infer.structures import Action

SAME_TIOU = 0.5
"""Overlap from which an action and a true segment of its class are the same."""


@dataclass(frozen=True)
class Known:
    """One segment that is known to be there."""

    start_s: float
    end_s: float
    label: str


@dataclass(frozen=True)
class Pair:
    """A found action and the true segment that it is; one of both is None where there is no other."""

    action: Action | None
    known: Known | None
    tiou: float = 0.0
    """Their overlap in [0, 1]."""

    @property
    def start_s(self) -> float:
        """Where it begins, as found, or as known."""
        either = self.action or self.known
        assert either is not None
        return either.start_s


class KnownSegments:
    """The true segments of some videos, from a file."""

    def __init__(self, path: Path) -> None:
        """Read a truth file.

        Raises:
            AnnotationError: It cannot be read, or is wrong; or it has several subsets, none of them for tests.
        """
        self.path = path
        self._truth: Truth = read_truth(path, subset=None, defaults=("testing", "validation"))

    def of(self, video: str) -> tuple[Known, ...] | None:
        """Segments of a video file in order of time; None where the truth does not have it."""
        return self.named(bare_name_of(video))

    def named(self, video: str) -> tuple[Known, ...] | None:
        """Segments of a video by its name without folder and ending; None where the truth does not have it."""
        truth = self._truth
        name = match_video(video, truth.videos)
        if name is None:
            return None
        rows = np.flatnonzero(truth.video_indices == truth.videos.index(name)).tolist()
        spans = truth.segments_s.tolist()
        found = [Known(spans[row][0], spans[row][1], truth.labels[truth.class_indices[row]]) for row in rows]
        return tuple(sorted(found, key=lambda known: (known.start_s, known.end_s)))


def pair_up(actions: Sequence[Action], known: Sequence[Known]) -> list[Pair]:
    """Pair actions with true segments: surest action first, each with the segment of its class that it overlaps most.

    Returns:
        A pair for every action and every segment, in order of time; those that overlap by less than `SAME_TIOU` stand
        alone.
    """
    left = list(known)
    pairs = []
    for action in sorted(actions, key=lambda action: -action.score):
        same = [other for other in left if other.label == composed(action.label)]
        overlaps = _overlaps(action, same)
        best = int(overlaps.argmax()) if same else 0
        if same and overlaps[best] >= SAME_TIOU:
            left.remove(same[best])
            pairs.append(Pair(action, same[best], float(overlaps[best])))
        else:
            pairs.append(Pair(action, None))
    pairs += [Pair(None, other) for other in left]
    return sorted(pairs, key=lambda pair: pair.start_s)


def truth_table(pairs: Sequence[Pair]) -> Table:
    """Each action with the true segment next to it, and the segments that were missed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("start", "end"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("action", overflow="fold")
    table.add_column("score", no_wrap=True)
    table.add_column("truth", no_wrap=True)
    table.add_column("overlap", justify="right", no_wrap=True)
    for pair in pairs:
        table.add_row(*_found_cells(pair), *_known_cells(pair))
    return table


def summary(pairs: Sequence[Pair]) -> str:
    """How many are right, too many, and missed."""
    right = sum(pair.action is not None and pair.known is not None for pair in pairs)
    known = sum(pair.known is not None for pair in pairs)
    extra = sum(pair.known is None for pair in pairs)
    return f"{right} of {counted(known, 'true action')} found, {extra} too many (right from overlap {SAME_TIOU:g} on)"


def _found_cells(pair: Pair) -> tuple[str | Text, ...]:
    action = pair.action
    if action is None:
        assert pair.known is not None
        return "", "", Text(printable(pair.known.label), style="dim"), Text("missed", style="red")
    return (
        clock(action.start_s),
        clock(action.end_s),
        Text(printable(action.label), style="bold"),
        f"{action.score:.3f}",
    )


def _known_cells(pair: Pair) -> tuple[str | Text, ...]:
    if pair.known is None:
        return Text("none", style="yellow"), ""
    span = f"{clock(pair.known.start_s)} - {clock(pair.known.end_s)}"
    return span, Text(f"{pair.tiou:.2f}", style="green") if pair.action is not None else ""


def _overlaps(action: Action, known: Sequence[Known]) -> np.ndarray:
    segments = np.array([(other.start_s, other.end_s) for other in known], np.float64).reshape(-1, 2)
    return tiou_of_pairs(np.tile([action.start_s, action.end_s], (len(known), 1)), segments)
