"""`tallformer eval`: mean average precision, precision, recall and kinds of errors, as tables or JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich import box
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from tallformer_infer.errors import ConfigError
from tallformer_infer.text import counted, printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.evaluation import Evaluation, OperatingPoint


ProtocolName = Literal["thumos14", "activitynet", "hacs", "reference-voc"]  # again, so that --help loads no NumPy

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

NAMES_SHOWN = 8
"""Most videos that a list names; the JSON has all of them."""

FEW_THRESHOLDS = 5
"""Most thresholds that get a column in the table of classes."""

WHY_SKIPPED = {
    "no truth": "predicted, but not in the truth",
    "other subset": "predicted, but in another subset of the truth",
    "no annotated segment": "nothing annotated in them, which this protocol leaves out",
    "left out": "left out on request",
}


@app.command()
def eval_command(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    predictions: Annotated[
        Path, typer.Argument(metavar="PREDICTIONS", show_default=False, help="actions.json or ActivityNet results.")
    ],
    truth: Annotated[
        Path,
        typer.Argument(
            metavar="TRUTH",
            show_default=False,
            help="ActivityNet-form JSON (ActivityNet, HACS, THUMOS14), or the THUMOS14 text folder.",
        ),
    ],
    protocol: Annotated[
        ProtocolName,
        typer.Option(
            metavar="NAME",
            help="Evaluation rules: thumos14 (tIoU 0.3 to 0.7), activitynet or hacs (0.5 to 0.95), or reference-voc.",
        ),
    ] = "thumos14",
    subset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Subset to score (default: the only one, or the protocol's).", show_default=False
        ),
    ] = None,
    leave_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file of videos to skip, one name per line.", show_default=False),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(metavar="X", help="Also print precision and recall at this score threshold."),
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="Also print a row per class.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
    plot: Annotated[
        Path | None,
        typer.Option(metavar="FILE.png", help="Plot precision-recall curves and kinds of errors."),
    ] = None,
) -> None:
    """Score predictions against ground truth: mAP, precision, recall, and kinds of errors.

    Published numbers differ by which videos were scored, so it says which were
    and which were not. Videos match by name, with or without a leading v_.

    [bold]Examples[/bold]

      tallformer eval actions.json truth.json
      tallformer eval results.json activity_net.v1-3.min.json --protocol activitynet
      tallformer eval actions.json annotations/ --protocol thumos14 --per-class --threshold 0.3
    """
    options = _Options(predictions, truth, protocol, subset, leave_out, threshold, plot)
    evaluation = _evaluate(options)
    _show(evaluation, options, as_json=as_json, per_class=per_class)


@dataclass(frozen=True)
class _Options:
    predictions: Path
    truth: Path
    protocol: ProtocolName
    subset: str | None
    leave_out: Path | None
    threshold: float | None
    plot: Path | None


def _evaluate(options: _Options) -> Evaluation:
    from tallformer_infer.evaluation import (
        check_plot,
        evaluate,
        protocol_named,
        read_predictions,
        read_truth,
        require_common_videos,
        save_plot,
    )
    from tallformer_infer.labels import read_video_list

    if options.threshold is not None and not math.isfinite(options.threshold):
        raise ConfigError(f"--threshold {options.threshold}: expected the lowest score to keep, such as 0.3")
    if options.plot is not None:
        check_plot(options.plot)
    protocol = protocol_named(options.protocol)
    truth = read_truth(options.truth, subset=options.subset, defaults=protocol.subsets)
    if options.leave_out is not None:
        truth = truth.without(read_video_list(options.leave_out))
    predictions = read_predictions(options.predictions)
    require_common_videos(predictions, truth)
    evaluation = evaluate(predictions, truth, protocol, score_threshold=options.threshold)
    if options.plot is not None:
        save_plot(evaluation, options.plot)
    return evaluation


def _show(evaluation: Evaluation, options: _Options, *, as_json: bool, per_class: bool) -> None:
    if as_json:
        from tallformer_infer.evaluation import evaluation_document

        document = evaluation_document(evaluation, predictions=str(options.predictions), truth=str(options.truth))
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    console = Console(highlight=False)
    for part in evaluation_tables(evaluation, per_class=per_class):
        console.print(part, soft_wrap=isinstance(part, Text))


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
    """AP per class; of ten thresholds only the three that papers print, so that a row fits on a terminal."""
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
    """Per class, precision and recall are shown at one overlap only: the one used for the kinds of errors."""
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
