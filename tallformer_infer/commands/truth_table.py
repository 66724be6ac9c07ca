"""Actions of a video next to what is known to happen in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table
from rich.text import Text

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation import Truth, read_truth
from tallformer_infer.evaluation.matching import SAME_TIOU, Pair
from tallformer_infer.labels.names import bare_name_of, match_video
from tallformer_infer.labels.segments import Segment
from tallformer_infer.text import clock, counted, printable


class KnownSegments:
    """The true segments of some videos, from a file."""

    def __init__(self, path: Path) -> None:
        """Read a truth file.

        Raises:
            AnnotationError: It cannot be read, or is wrong; or it has several subsets, none of them for tests.
        """
        self.path = path
        try:
            self._truth: Truth = read_truth(path, subset=None, defaults=("testing", "validation"))
        except AnnotationError as error:  # the commands that show truth have no option --subset
            hint = "`tallformer convert --subset testing` puts all videos into one"
            raise AnnotationError(str(error).replace("choose one with --subset", hint)) from error

    def of(self, video: str) -> tuple[Segment, ...] | None:
        """Segments of a video file in order of time; None where the truth does not have it."""
        return self.named(bare_name_of(video))

    def named(self, video: str) -> tuple[Segment, ...] | None:
        """Segments of a video by its name without folder and ending; None where the truth does not have it."""
        truth = self._truth
        name = match_video(video, truth.videos)
        if name is None:
            return None
        rows = np.flatnonzero(truth.video_indices == truth.videos.index(name)).tolist()
        spans = truth.segments_s.tolist()
        labels = [truth.labels[row] for row in truth.class_indices.tolist()]
        found = [Segment(start_s=spans[row][0], end_s=spans[row][1], label=labels[row]) for row in rows]
        return tuple(sorted(found, key=lambda known: (known.start_s, known.end_s)))


def truth_table(pairs: Sequence[Pair]) -> Table:
    """Each action with the true segment next to it, and the segments that were missed."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for name in ("start", "end"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("action", overflow="fold", min_width=8)
    table.add_column("score", no_wrap=True)
    table.add_column("truth")  # breaks between start and end where the terminal is narrow
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
