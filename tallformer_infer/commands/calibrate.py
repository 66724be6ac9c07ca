"""`tallformer calibrate`: what the user can ask for. What is done about it: `calibration`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallformer_infer.commands import options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_FROM, _POINTS, _SAY = "Labelled data", "Operating points", "Output"


@app.command()
def calibrate(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    model: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", show_default=False, help="Folder, .zip, or a name listed by `tallformer models`."
        ),
    ],
    truth: Annotated[
        Path,
        typer.Argument(metavar="TRUTH", show_default=False, help="ActivityNet-form JSON, or the THUMOS14 text folder."),
    ],
    videos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the labelled videos, to run detection on.", rich_help_panel=_FROM),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Use these predictions: output of `detect --operating-point none`, or a file that `eval` reads.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Subset of the ground truth (default: the only one, or validation).",
            rich_help_panel=_FROM,
        ),
    ] = None,
    leave_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file of videos to skip, one name per line.", rich_help_panel=_FROM),
    ] = None,
    device: options.Device = "auto",
    threads: options.Threads = None,
    tiou: Annotated[
        float, typer.Option(metavar="X", help="Least overlap (tIoU) of a right action.", rich_help_panel=_POINTS)
    ] = 0.5,
    precision: Annotated[
        list[float] | None,
        typer.Option(
            metavar="X",
            help="Create a point of this precision, besides max-f1. Repeatable. \\[default: 0.9]",
            rich_help_panel=_POINTS,
        ),
    ] = None,
    default: Annotated[
        str,
        typer.Option(metavar="NAME", help="Default of `detect`: a point, all or none.", rich_help_panel=_POINTS),
    ] = "max-f1",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="NEW_BUNDLE",
            help="Output bundle: a folder or .zip (default: change BUNDLE in place).",
        ),
    ] = None,
    per_class: Annotated[
        bool, typer.Option("--per-class", help="Also print a row per class.", rich_help_panel=_SAY)
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.", rich_help_panel=_SAY)] = False,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Calibrate score thresholds on labelled videos that the model was not trained on.

    Creates operating points: score thresholds per class. max-f1 balances wrong
    and missed actions; precision-0.90 keeps as many actions as possible at
    90 % precision. They are stored in the bundle and used by `tallformer
    detect`. Scores become the probability that an action is right.

    Exit code: 0 success; 1 nothing could be calibrated, or a video failed (the
    others were used); 2 usage error.

    [bold]Examples[/bold]

      tallformer calibrate my-model validation.json --videos validation
      tallformer calibrate my-model truth.json --predictions actions.json --precision 0.8
      tallformer detect match.mp4 --model my-model --operating-point precision-0.90
    """
    if (videos is None) == (predictions is None):
        raise typer.BadParameter("give --videos DIR to detect in, or --predictions FILE; one of them")

    from tallformer_infer.stopping import import_interruptibly

    import_interruptibly("tallformer_infer.commands.calibration")

    from tallformer_infer.commands.calibration import CalibrateOptions, calibrate_bundle
    from tallformer_infer.commands.reporting import JsonReporter, Reporter, TerminalReporter

    wanted = CalibrateOptions(
        model=model,
        truth=truth,
        videos=videos,
        predictions=predictions,
        subset=subset,
        leave_out=leave_out,
        device=device,
        threads=threads,
        tiou_threshold=tiou,
        precisions=tuple(precision or (0.9,)),
        default=default,
        out=out,
        per_class=per_class,
        as_json=as_json,
    )
    reporter: Reporter = JsonReporter(quiet=quiet) if json_logs else TerminalReporter(quiet=quiet, show=None)
    raise typer.Exit(calibrate_bundle(wanted, reporter))
