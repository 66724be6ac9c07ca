"""`tallformer detect`: what the user can ask for. What is done about it: `detection`."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Annotated, Literal

import typer

from tallformer_infer.commands import options
from tallformer_infer.commands.file_formats import output_format, output_named

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


_SERVER = "On a server"
_ONLY_HERE = ("model", "device", "precision", "threads", "windows", "stream", "rates", "class_scores")
"""Options that a server decides itself."""


@app.command()
def detect(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    context: typer.Context,
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="VIDEO",
            show_default=False,
            help="Files, folders, patterns such as '*.mp4', http(s) URLs, or - (stdin).",
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", metavar="FILE", help="Output file; - is stdout."),
    ] = None,
    form: Annotated[
        str | None,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            parser=output_named,
            help="Output format (default: from the ending of --out, else json).",
        ),
    ] = None,
    dialect: Annotated[Literal["tallformer", "activitynet"] | None, typer.Option(hidden=True)] = None,
    model: options.Model = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    threads: options.Threads = None,
    windows: Annotated[
        str,
        typer.Option(
            metavar="LAYOUT",
            help="Window layout. shared: encode each frame once. reference: as in the paper. SECONDS: window length "
            "for models of whole videos.",
            rich_help_panel=options.RUN,
        ),
    ] = "shared",
    stream: Annotated[
        int | None,
        typer.Option(
            min=0,
            metavar="N",
            help="Video stream to analyse in files with several, from 0 (default: the main one).",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    rates: options.Rates = None,
    class_scores: options.ClassScores = None,
    threshold: options.Threshold = None,
    operating_point: options.OperatingPoint = None,
    top_k: options.TopK = None,
    classes: options.Classes = None,
    classes_file: options.ClassesFile = None,
    server: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Send the videos to a `tallformer serve`, which detects with its model.",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="TALLFORMER_TOKEN",
            show_envvar=False,
            metavar="TEXT",
            help="Token of the server (default: TALLFORMER_TOKEN).",
            rich_help_panel=_SERVER,
        ),
    ] = None,
    rows: Annotated[
        int, typer.Option(min=0, metavar="N", help="Rows to show per video.", rich_help_panel=options.PROGRESS)
    ] = 20,
    truth: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Ground truth to show next to the detections.", rich_help_panel=options.PROGRESS
        ),
    ] = None,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Detect actions in videos.

    Without --out, prints a table per video. With --out, writes the actions to
    FILE, which is replaced atomically, and prints the tables to stderr.

    A calibrated model keeps the actions of its default operating point, or
    those above --threshold. `tallformer info` lists the points.

    Formats: json (actions.json), html (report page), activitynet, csv, tsv,
    jsonl, labelstudio, via and boris hold all videos; srt, vtt, eaf (ELAN),
    otio, edl, fcp7 and ffmetadata hold one video per file, and --out is then a
    folder for several.

    Exit code: 0 success; 1 a video failed (the others are written); 2 usage
    error; 130 Ctrl-C; 143 SIGTERM.

    [bold]Examples[/bold]

      tallformer detect match.mp4
      tallformer detect *.mp4 --out actions.json --threshold 0.3
      tallformer detect match.mp4 --out match.eaf
      tallformer detect match.mp4 --rates 15,5,1.67
      tallformer detect match.mp4 --classes @sports -o - | jq .videos
      tallformer detect match.mp4 --server http://127.0.0.1:8080
    """
    from tallformer_infer.commands.inputs import (
        expand_videos,
        given_options,
        parse_rates,
        parse_windows,
        wanted_classes,
    )

    _check_server_options(context, server)
    named = expand_videos(videos)  # before the imports that take time

    from tallformer_infer.stopping import import_interruptibly

    import_interruptibly("tallformer_infer.commands.detection")

    from tallformer_infer.commands.detection import DetectOptions, LocalModel, detect_videos
    from tallformer_infer.commands.reporting import JsonReporter, Reporter, TerminalReporter
    from tallformer_infer.commands.tables import actions_table
    from tallformer_infer.commands.truth_table import KnownSegments

    known = None if truth is None else KnownSegments(truth)
    show = functools.partial(actions_table, rows=rows, known=known)
    wanted = DetectOptions(
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
        given=given_options(context, without=("out", "token")),
    )
    tables = None if out is None else show  # without --out, the table is what goes to stdout
    reporter: Reporter = JsonReporter(quiet=quiet) if json_logs else TerminalReporter(quiet=quiet, show=tables)
    if server is None:
        raise typer.Exit(detect_videos(wanted, LocalModel(wanted), reporter))

    from tallformer_infer.commands.remote import RemoteModel

    with RemoteModel(server, token, wanted) as remote:
        raise typer.Exit(detect_videos(wanted, remote, reporter))


def _check_server_options(context: typer.Context, server: str | None) -> None:
    """Refuse options of the local model beside --server, and the token without it."""
    from tallformer_infer.commands.inputs import given_options

    others = [name for name in context.params if name not in _ONLY_HERE]
    given = given_options(context, without=others)
    if server is not None and given:
        raise typer.BadParameter(f"{given[0]} does not go with --server, which decides it: `tallformer serve --help`")
    if server is None and given_options(context, without=[name for name in context.params if name != "token"]):
        raise typer.BadParameter("--token is for --server URL")
