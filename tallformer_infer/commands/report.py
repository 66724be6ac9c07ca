"""`tallformer report`: what the user can ask for. What is done about it: `reports`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallformer_infer.commands import options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="ACTIONS",
            show_default=False,
            help="actions.json, labels that `convert` reads, or a folder of results.",
        ),
    ],
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="VIDEO", show_default=False, help="The videos, if they have moved."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.html",
            show_default=False,
            help="Output page; - is stdout (default: ACTIONS with the ending .html, or index.html in the folder).",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Ground truth to show next to the detections.")
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Embed the videos, so that the page can be shared alone.")
    ] = False,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Title (default: the name of the video).")] = None,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Write an HTML page to review results: video, timeline, list and filters.

    The page is one file without network access or server. It plays the video
    from its path relative to the page, unless --embed puts the video into it.

    For a folder, writes an index of every actions.json in it and below, with
    counts, failures and a search; rows link to the page next to each file.

    [bold]Examples[/bold]

      tallformer report actions.json match.mp4 --out match.html
      tallformer report actions.json --truth truth.json --embed
      tallformer report results/
    """
    from tallformer_infer.stopping import import_interruptibly

    import_interruptibly("tallformer_infer.commands.reports")

    from tallformer_infer.commands.reports import ReportOptions, write_index, write_report
    from tallformer_infer.console import speaking

    wanted = ReportOptions(source=source, videos=tuple(videos or ()), out=out, truth=truth, embed=embed, title=title)
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        if source.is_dir():
            write_index(wanted, speaker)
        else:
            write_report(wanted, speaker)
