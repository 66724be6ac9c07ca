"""`tallformer detect`: what the user can ask for. What is done about it: `detection`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import typer

from tallformer_infer.commands.file_formats import OutputFormat, output_format
from tallformer_infer.devices import Device, RunPrecision

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_WHERE, _WHICH, _SAY = "Where and how it runs", "Which actions are kept", "What is said meanwhile (stderr)"


@app.command()
def detect(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    context: typer.Context,
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            show_default=False,
            help="Files, folders, patterns such as '*.mp4', http(s) addresses, or - (stdin).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="File to write; - is stdout."),
    ] = None,
    form: Annotated[
        OutputFormat | None,
        typer.Option("--format", "-f", metavar="FORMAT", help="What to write; else by the ending of --out, or json."),
    ] = None,
    dialect: Annotated[Literal["tallformer", "activitynet"] | None, typer.Option(hidden=True)] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="BUNDLE", help="Folder, .zip, or a name that `tallformer models` lists."),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(
            help="auto takes CUDA where it works, else the fastest way on this processor; tensorrt needs `tallformer "
            "engine build`.",
            rich_help_panel=_WHERE,
        ),
    ] = "auto",
    precision: Annotated[
        RunPrecision | None,
        typer.Option(
            help="Of the encoder, for auto and openvino; else bf16 only where the processor has it and the model's "
            "actions stay the same.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads; else one per core.", rich_help_panel=_WHERE),
    ] = None,
    windows: Annotated[
        str,
        typer.Option(
            metavar="shared|reference|SECONDS",
            help="shared encodes every frame once; reference does as the paper; SECONDS cuts a long file for a model "
            "that else sees whole videos.",
            rich_help_panel=_WHERE,
        ),
    ] = "shared",
    stream: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Video stream of files that hold several, from 0 (default: the main one).",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    rates: Annotated[
        str | None,
        typer.Option(
            metavar="R,R",
            help="Frames per second at which actions are looked for, such as 15,5,1.67: the recipe's, and that "
            "over whole numbers. Lower ones find longer actions; nothing is encoded again.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    class_scores: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="What whole videos show, instead of what the model says: a score file (CUHK form), or labels.",
            rich_help_panel=_WHERE,
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(min=0, max=1, metavar="X", help="Lowest score to keep.", rich_help_panel=_WHICH),
    ] = None,
    operating_point: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="Point of a calibrated model; all: every action; none: every action, uncalibrated.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    top_k: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Most actions to keep per video, best first.", rich_help_panel=_WHICH),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option(
            metavar="A,B",
            help="Actions to keep: names, or groups such as @sports (`tallformer info` lists them); repeatable.",
            rich_help_panel=_WHICH,
        ),
    ] = None,
    classes_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Text file of actions to keep, one name or @group per line.", rich_help_panel=_WHICH
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=0, metavar="N", help="Most rows to show per video.", rich_help_panel=_SAY)
    ] = 20,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Labels of the videos, to be shown next to what is found.", rich_help_panel=_SAY
        ),
    ] = None,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only warnings and failures.", rich_help_panel=_SAY)
    ] = False,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="One JSON object per line.", rich_help_panel=_SAY)
    ] = False,
) -> None:
    """Find what happens when in videos.

    Without --out it shows a table per video. With it, the table goes to stderr
    and the actions to FILE, which is replaced whole or not at all.

    A model that was calibrated keeps what its default operating point keeps, or
    what --threshold says; `tallformer info` lists its points.

    Formats: json (actions.json), html (a page to look at), activitynet, csv,
    tsv, jsonl, labelstudio, via and boris hold all videos; srt, vtt, eaf (ELAN),
    otio, edl, fcp7 and ffmetadata hold one, and several need a folder as --out.

    Exit code: 0 all done; 1 a video failed, and the others are done and
    written; 2 usage; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.

    [bold]Examples[/bold]

      tallformer detect match.mp4
      tallformer detect *.mp4 --out actions.json --threshold 0.3
      tallformer detect match.mp4 --out match.eaf
      tallformer detect match.mp4 --rates 15,5,1.67
      tallformer detect a.mp4 --classes "spin left,zigzag" -o - | jq .videos
    """
    from tallformer_infer.commands.inputs import (
        expand_videos,
        given_options,
        parse_rates,
        parse_windows,
        wanted_classes,
    )

    named = expand_videos(videos)  # before the imports that take time

    from tallformer_infer.commands.waiting import import_interruptibly

    import_interruptibly("tallformer_infer.commands.detection")

    from tallformer_infer.commands.detection import DetectOptions, detect_videos
    from tallformer_infer.commands.reporting import JsonReporter, Reporter, TerminalReporter
    from tallformer_infer.commands.tables import actions_table
    from tallformer_infer.commands.truth_table import KnownSegments

    known = None if truth is None else KnownSegments(truth)
    show = functools.partial(actions_table, rows=rows, known=known)
    options = DetectOptions(
        videos=named,
        out=out,
        model=model,
        device=device,
        precision=precision,
        threads=threads,
        windows=parse_windows(windows),
        rates=parse_rates(rates),
        class_scores=class_scores,
        threshold=threshold,
        top_k=top_k,
        classes=wanted_classes(classes, classes_file),
        operating_point=operating_point,
        form=form or ("activitynet" if dialect == "activitynet" else output_format(out)),
        known=known,
        video_stream=stream,
        show=show,
        given=given_options(context, without=("out",)),
    )
    tables = None if out is None else show  # without --out, the table is what goes to stdout
    reporter: Reporter = JsonReporter(quiet=quiet) if json_logs else TerminalReporter(quiet=quiet, show=tables)
    raise typer.Exit(detect_videos(options, reporter))
