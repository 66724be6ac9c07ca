"""`tallformer eval`: mean average precision of predictions."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tallformer_infer.errors import ConfigError

if TYPE_CHECKING:
    from tallformer_infer.evaluation import Evaluation

ProtocolName = Literal["thumos14", "activitynet", "hacs", "reference-voc"]  # again, so that --help loads no NumPy

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


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
        evaluate,
        protocol_named,
        read_predictions,
        read_truth,
        require_common_videos,
    )
    from tallformer_infer.evaluation.plot import check_plot, save_plot
    from tallformer_infer.labels.names import read_video_list

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
        import json

        from tallformer_infer.evaluation.scoring import evaluation_document

        document = evaluation_document(evaluation, predictions=str(options.predictions), truth=str(options.truth))
        typer.echo(json.dumps(document, indent=2, allow_nan=False))
        return
    from rich.console import Console
    from rich.text import Text

    from tallformer_infer.commands.evaluation_tables import evaluation_tables

    console = Console(highlight=False)
    for part in evaluation_tables(evaluation, per_class=per_class):
        console.print(part, soft_wrap=isinstance(part, Text))
