"""Tables and lines for people: the actions of a video, alone or next to the ground truth, and operating points."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tallformer_infer.config import ALL_ACTIONS, Calibration
from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation import SAME_TIOU, Pair, Truth, pair_up, read_truth
from tallformer_infer.labels import Segment, bare_name_of, match_video
from tallformer_infer.results import display_floor, select_actions
from tallformer_infer.structures import Result
from tallformer_infer.text import clock, counted, describe_losses, printable, times

_BAR_CELLS = 10
UNTRAINED = "untrained model: its weights are random and these actions mean nothing"


def actions_table(result: Result, *, rows: int, known: KnownSegments | None = None) -> RenderableType:
    """Headline, actions and remarks of one video.

    Args:
        result: Of the video.
        rows: Show at most this many actions, the best, in order of time; see also `display_floor`.
        known: Ground truth; shown next to the actions if it has the video.
    """
    parts: list[RenderableType] = [_headline(result)]
    floor = display_floor(result)
    shown = select_actions(result.actions, threshold=floor, top_k=rows) if rows else ()
    truth = None if known is None else known.of(result.video.path)
    if truth is not None:
        pairs = pair_up(result.actions, truth)
        near = [pair for pair in pairs if pair.known is not None or pair.action in shown]
        parts += [Padding(truth_table(near), (0, 0, 0, 2), expand=False), Text(f"  {summary(pairs)}", style="dim")]
    elif shown:
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
        for name in ("start", "end", "length"):
            table.add_column(name, justify="right", no_wrap=True)
        table.add_column("action", overflow="fold")
        table.add_column("score", no_wrap=True)
        for action in shown:
            table.add_row(
                clock(action.start_s),
                clock(action.end_s),
                f"{action.end_s - action.start_s:.2f} s",
                Text(printable(action.label), style="bold"),
                _score(action.score),
            )
        parts.append(Padding(table, (0, 0, 0, 2), expand=False))
    if known is not None and truth is None:
        parts.append(Text(f"  {printable(str(known.path))} does not have this video", style="yellow"))
    parts += [Text(f"  {line}", style=style) for line, style in _remarks(result, len(shown), floor)]
    return Group(*parts, Text())


def outside_domain(result: Result, footage: str | None) -> str:
    """A warning if a model of generated videos is used on other footage; else empty.

    Args:
        result: Of a video.
        footage: What the model was trained on, as its bundle says.
    """
    if footage != "generated" or result.video.is_generated:
        return ""
    return (
        f"{result.provenance.model_name} is a sample model for generated videos and does not work on real footage: "
        "its actions mean nothing here; `tallformer models` lists other models"
    )


def losses(result: Result) -> str:
    """What is missing from a damaged video, and other notes on it; empty if there is nothing to say."""
    lost = describe_losses(result.video.duration_s, result.missing_s, result.decode_errors)
    return "; ".join([*([lost] if lost else []), *result.notes])


def _headline(result: Result) -> Text:
    video = result.video
    facts = [clock(result.duration_s, digits=1), f"{video.width_px}×{video.height_px} {printable(video.codec)}"]
    facts.append(f"{counted(result.frame_count, 'frame')} at {result.sample_fps:g} fps")
    if result.timings.total_s > 0:
        facts.append(f"{result.timings.total_s:.1f} s, {times(result.duration_s / result.timings.total_s)} real time")
    return Text.assemble((printable(video.path), "bold cyan"), (f"\n  {' · '.join(facts)}", "dim"))


def _score(score: float) -> Text:
    cells = round(max(0.0, min(score, 1.0)) * _BAR_CELLS)
    return Text.assemble(f"{score:.3f} ", ("━" * cells, "green"))


def _remarks(result: Result, shown: int, floor: float) -> list[tuple[str, str]]:
    remarks: list[tuple[str, str]] = []
    found = len(result.actions)
    above = sum(action.score >= floor for action in result.actions)
    if not found:
        remarks.append(("no action found", "dim"))
    elif above < found:
        which = f"{shown} of {counted(found, 'action')}, with scores from {floor:.2f} on"
        lead = which if above else f"none of {counted(found, 'action')} has a score from {floor:.2f} on"
        remarks.append(
            (
                f"{lead}; the model is not calibrated: --threshold 0 shows all, "
                "`tallformer calibrate` finds a threshold",
                "dim",
            )
        )
    elif shown < found:
        lead = f"the best {shown} of {counted(found, 'action')}" if shown else counted(found, "action")
        remarks.append((f"{lead}; --rows {found} shows all, --threshold X only the surer", "dim"))
    if lost := losses(result):
        remarks.append((lost, "yellow"))
    if not result.provenance.model_trained:
        remarks.append((UNTRAINED, "yellow"))
    return remarks


class KnownSegments:
    """Ground truth segments of some videos, from a file."""

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
        """Segments of a video file in order of time; None if the truth does not have the video."""
        return self.named(bare_name_of(video))

    def named(self, video: str) -> tuple[Segment, ...] | None:
        """Segments of a video by its name without folder and ending; None if the truth does not have it."""
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
    """Counts of right, superfluous and missed actions."""
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


NAMES_SHOWN = 8
"""Most classes that a list names; the JSON has all of them."""


def describe_point(calibration: Calibration, point: str | None) -> str:
    """One line on an operating point: its precision and recall.

    Args:
        calibration: Of the model.
        point: One of its points, `all`, or None for the model's own scores.
    """
    if point is None:
        return "none: every action, with the model's own scores"
    if point == ALL_ACTIONS:
        return "all: every action, with calibrated scores"
    summary = calibration.points[point]
    precision, recall, how = summary.precision, summary.recall, "the data it was chosen on"
    if summary.held_out_recall is not None:
        precision, recall, how = summary.held_out_precision, summary.held_out_recall, "cross-validated"
    where = f"{measured_on(calibration)}, {how}"
    if precision is None:
        return f"{point}: kept nothing on {where}"
    return f"{point}: precision {_percent(precision)} %, recall {_percent(recall)} % on {where}"


def measured_on(calibration: Calibration) -> str:
    """The data that precision and recall were measured on, as far as the bundle says: `257 actions in 16 videos`."""
    made_from = calibration.made_from
    parts = [counted(sum(found.truths for found in calibration.classes.values()), "action")]
    if isinstance(videos := made_from.get("videos"), int):
        parts.append(f"in {counted(videos, 'video')}")
    if isinstance(truth := made_from.get("truth"), str):
        subset = made_from.get("subset")
        parts.append(f"of {printable(truth)}" + (f" ({printable(subset)})" if isinstance(subset, str) else ""))
    return " ".join(parts)


def describe_calibration(calibration: Calibration) -> str:
    """One line on the data a model was calibrated with, as far as the bundle says."""
    truths = sum(found.truths for found in calibration.classes.values())
    videos = calibration.made_from.get("videos")
    where = f" in {counted(videos, 'video')}" if isinstance(videos, int) else ""
    return f"with {counted(truths, 'truth')}{where}, right from tIoU {calibration.tiou_threshold:g} on"


def calibration_tables(calibration: Calibration, *, per_class: bool) -> list[RenderableType]:
    """The points, the classes if `per_class`, and a line per point that keeps nothing of some class."""
    parts: list[RenderableType] = [_indented(_point_table(calibration))]
    if per_class:
        parts += [_indented(_class_table(calibration, point)) for point in calibration.points]
    for point in calibration.points:
        if nothing := calibration.keeps_nothing_of(point):
            why = "no score is precise enough" if calibration.points[point].wanted_precision else "nothing is right"
            parts.append(Text(f"{point} keeps nothing of: {_listed(nothing)} ({why})", style="yellow"))
    return parts


def _point_table(calibration: Calibration) -> Table:
    table = _table("operating point", "precision %", "recall %", "held-out precision %", "held-out recall %")
    for name, point in calibration.points.items():
        table.add_row(
            Text(f"{name} (default)" if name == calibration.default else name, style="bold"),
            *map(_percent, (point.precision, point.recall, point.held_out_precision, point.held_out_recall)),
        )
    return table


def _class_table(calibration: Calibration, point: str) -> Table:
    """Thresholds are shown as the scores that `detect` shows."""
    table = _table(point, "truths", "score from", "precision %", "recall %")
    for label, found in calibration.classes.items():
        cut = found.cuts[point]
        lowest = None if cut.threshold is None else found.curve.share_right(cut.threshold)
        table.add_row(
            Text(f"{printable(label)}{' (pooled)' if found.pooled else ''}", style="bold"),
            str(found.truths),
            "-" if lowest is None else f"{lowest:.3f}",
            _percent(cut.precision),
            _percent(cut.recall),
        )
    return table


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.add_column(first, overflow="fold", min_width=12)
    for column in columns:
        table.add_column(column, justify="right")
    return table


def _indented(table: Table) -> Padding:
    return Padding(table, (0, 0, 1, 2), expand=False)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _listed(names: tuple[str, ...]) -> str:
    more = len(names) - NAMES_SHOWN
    tail = f" and {more} more (--json has all)" if more > 0 else ""
    return ", ".join(printable(name) for name in names[:NAMES_SHOWN]) + tail
