"""`tallformer calibrate`: what the user can ask for. What is done about it: `calibration`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallformer_infer.devices import Device

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_FROM, _POINTS, _SAY = "What it is made from", "Which points are made", "What is said"


@app.command()
def calibrate(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    model: Annotated[
        str,
        typer.Argument(
            metavar="BUNDLE", show_default=False, help="Folder, .zip, or a name that `tallformer models` lists."
        ),
    ],
    truth: Annotated[
        Path,
        typer.Argument(metavar="TRUTH", show_default=False, help="ActivityNet-form JSON, or the THUMOS14 text folder."),
    ],
    videos: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder of the labelled videos, to detect in.", rich_help_panel=_FROM),
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Instead: what `detect --operating-point none` wrote, or any file that `eval` reads.",
            rich_help_panel=_FROM,
        ),
    ] = None,
    subset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Subset of the truth; else the only one, or validation.", rich_help_panel=_FROM
        ),
    ] = None,
    leave_out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Text file of videos not to use, one name per line.", rich_help_panel=_FROM),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(help="Where to detect.", rich_help_panel=_FROM),
    ] = "auto",
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads; else one per core.", rich_help_panel=_FROM),
    ] = None,
    tiou: Annotated[
        float, typer.Option(metavar="X", help="Overlap from which an action is right.", rich_help_panel=_POINTS)
    ] = 0.5,
    precision: Annotated[
        list[float] | None,
        typer.Option(
            metavar="X",
            help="Make a point of this precision, beside max-f1; may be given again; else 0.9.",
            rich_help_panel=_POINTS,
        ),
    ] = None,
    default: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="What `detect` uses when not told: a point, all or none.", rich_help_panel=_POINTS
        ),
    ] = "max-f1",
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", "-o", metavar="NEW_BUNDLE", help="Folder or .zip to write; else BUNDLE itself is changed."
        ),
    ] = None,
    per_class: Annotated[bool, typer.Option("--per-class", help="A row per class, too.", rich_help_panel=_SAY)] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.", rich_help_panel=_SAY)] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only the result, warnings and failures.", rich_help_panel=_SAY)
    ] = False,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="One JSON object per line, on stderr.", rich_help_panel=_SAY)
    ] = False,
) -> None:
    """Teach a model which scores to trust, from labelled videos it was not trained on.

    It makes operating points: for each class, the score from which on actions
    are kept. max-f1 balances wrong and missed actions; precision-0.90 keeps
    as much as it can of what is right nine times in ten. They are stored in
    the bundle, and `tallformer detect` uses them. Scores then say how likely
    an action is right.

    Exit code: 0 all done; 1 nothing could be made, or a video failed and the
    others were used; 2 usage.

    [bold]Examples[/bold]

      tallformer calibrate my-model validation.json --videos validation
      tallformer calibrate my-model truth.json --predictions actions.json --precision 0.8
      tallformer detect match.mp4 --model my-model --operating-point precision-0.90
    """
    if (videos is None) == (predictions is None):
        raise typer.BadParameter("give --videos DIR to detect in, or --predictions FILE; one of them")

    from tallformer_infer.commands.waiting import import_interruptibly

    import_interruptibly("tallformer_infer.commands.calibration")

    from tallformer_infer.commands.calibration import CalibrateOptions, calibrate_bundle
    from tallformer_infer.commands.reporting import JsonReporter, Reporter, TerminalReporter

    options = CalibrateOptions(
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
    raise typer.Exit(calibrate_bundle(options, reporter))
