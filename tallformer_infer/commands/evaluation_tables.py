"""An evaluation as tables for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich import box
from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tallformer_infer.evaluation import Evaluation, OperatingPoint
from tallformer_infer.text import counted, printable

NAMES_SHOWN = 8
"""Videos that are named per list; all of them are in the JSON."""

FEW_THRESHOLDS = 5
"""Most thresholds that get a column per class."""

WHY_SKIPPED = {
    "no truth": "predicted, but not in the truth",
    "other subset": "predicted, but in another subset of the truth",
    "no annotated segment": "nothing annotated in them, which this protocol leaves out",
    "left out": "left out on request",
}


def evaluation_tables(evaluation: Evaluation, *, per_class: bool) -> list[RenderableType]:
    """Headline, scores, kinds of errors and lists of videos, from the top down."""
    parts: list[RenderableType] = [_headline(evaluation), _indented(_score_table(evaluation))]
    if per_class:
        parts.append(_indented(_class_table(evaluation)))
    parts += [_errors(evaluation), *_videos(evaluation), *_labels(evaluation)]
    parts += [Text(f"note: {printable(note)}", style="yellow") for note in evaluation.notes]
    return parts


def _headline(evaluation: Evaluation) -> Text:
    subset = "no subsets named" if evaluation.subset is None else f"subset {printable(evaluation.subset)}"
    facts = [
        subset,
        f"{counted(len(evaluation.videos.scored), 'video')} scored",
        f"{evaluation.truth_count} truths in {len(evaluation.classes)} classes",
        counted(evaluation.prediction_count, "prediction"),
    ]
    return Text.assemble((evaluation.protocol, "bold cyan"), (f"  {' · '.join(facts)}", "dim"))


def _indented(table: Table) -> Padding:
    return Padding(table, (0, 0, 1, 2), expand=False)


def _table(first: str, columns: Iterable[str], *, width: int) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, padding=0)
    table.add_column(first, overflow="fold", min_width=width)
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True, min_width=len(column))
    return table


def _score_table(evaluation: Evaluation) -> Table:
    point = evaluation.operating_point
    thresholds = [f"{threshold:.3g}" for threshold in evaluation.tiou_thresholds]
    table = _table("tIoU", [*thresholds, "average"], width=5 if point is None else 11)
    average = Text(_percent(evaluation.average, digits=2), style="bold green")
    table.add_row("mAP %", *(_percent(share, digits=2) for share in evaluation.mean_average_precision), average)
    if point is not None:
        table.add_row("precision %", *map(_percent, point.precision), "")
        table.add_row("recall %", *map(_percent, point.recall), "")
    return table


def _class_table(evaluation: Evaluation) -> Table:
    """AP per class; of ten thresholds only those that papers print, so that a row fits on a terminal."""
    count = len(evaluation.tiou_thresholds)
    columns = list(range(count)) if count <= FEW_THRESHOLDS else [0, count // 2, count - 1]
    names = [f"{evaluation.tiou_thresholds[column]:.3g}" for column in columns]
    table = _table("AP %", ["truths", "predicted", *names, "average", *_point_columns(evaluation)], width=12)
    for score in sorted(evaluation.classes, key=lambda score: -score.average):
        table.add_row(
            Text(printable(score.label), style="bold"),
            str(score.truth_count),
            str(score.prediction_count),
            *(_percent(score.average_precision[column]) for column in columns),
            _percent(score.average),
            *_point_cells(evaluation, score.operating_point),
        )
    return table


def _point_columns(evaluation: Evaluation) -> list[str]:
    """Precision and recall of each class are shown at one overlap, that of the kinds of errors."""
    if evaluation.operating_point is None:
        return []
    threshold = f"{evaluation.errors.tiou_threshold:g}"
    return [f"P@{threshold}", f"R@{threshold}"]


def _point_cells(evaluation: Evaluation, point: OperatingPoint | None) -> list[str]:
    if point is None:
        return []
    row = evaluation.tiou_thresholds.index(evaluation.errors.tiou_threshold)
    return [_percent(point.precision[row]), _percent(point.recall[row])]


def _percent(share: float | None, *, digits: int = 1) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f}"


def _errors(evaluation: Evaluation) -> Text:
    errors = evaluation.errors
    kinds = ", ".join(
        f"{number} {kind}"
        for kind, number in [
            ("right", errors.right),
            ("duplicate", errors.duplicate),
            ("confused with another class", errors.confusion),
            ("badly localized", errors.localization),
            ("on background", errors.background),
        ]
    )
    missed = f"{errors.missed} of {evaluation.truth_count} truths missed"
    return Text(f"at tIoU {errors.tiou_threshold:g}, {errors.described}: {kinds}; {missed}")


def _videos(evaluation: Evaluation) -> list[Text]:
    videos = evaluation.videos
    lines = [_names("scored", videos.scored)]
    if videos.without_prediction:
        lines.append(_names("of these without any prediction, all their truths missed", videos.without_prediction))
    lines += [_names(f"skipped: {WHY_SKIPPED[reason]}", names) for reason, names in videos.skipped.items() if names]
    return lines


def _names(what: str, names: Sequence[str]) -> Text:
    more = len(names) - NAMES_SHOWN
    tail = f" and {more} more (--json has all)" if more > 0 else ""
    listed = ", ".join(printable(name) for name in names[:NAMES_SHOWN])
    return Text(f"{counted(len(names), 'video')} {what}: {listed}{tail}")


def _labels(evaluation: Evaluation) -> list[Text]:
    if not evaluation.unknown_labels:
        return []
    dropped = sum(evaluation.unknown_labels.values())
    listed = ", ".join(printable(label) for label in list(evaluation.unknown_labels)[:NAMES_SHOWN])
    more = len(evaluation.unknown_labels) - NAMES_SHOWN
    tail = f" and {more} more (--json has all)" if more > 0 else ""
    return [
        Text(f"{counted(dropped, 'prediction')} dropped, of labels that no truth has: {listed}{tail}", style="yellow")
    ]
