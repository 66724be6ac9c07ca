"""Operating points as lines and tables for people."""

from __future__ import annotations

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tallformer_infer.config import ALL_ACTIONS, Calibration
from tallformer_infer.text import counted, printable

NAMES_SHOWN = 8
"""Classes that are named per list; all of them are in the JSON."""


def describe_point(calibration: Calibration, point: str | None) -> str:
    """What a point does, in a line.

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
    """What a model was calibrated with, in a line; whoever wrote the bundle may have said less of it."""
    truths = sum(found.truths for found in calibration.classes.values())
    videos = calibration.made_from.get("videos")
    where = f" in {counted(videos, 'video')}" if isinstance(videos, int) else ""
    return f"with {counted(truths, 'truth')}{where}, right from tIoU {calibration.tiou_threshold:g} on"


def calibration_tables(calibration: Calibration, *, per_class: bool) -> list[RenderableType]:
    """Points and, if asked for, classes; then what is to be known of single classes."""
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
