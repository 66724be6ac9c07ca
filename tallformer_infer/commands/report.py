"""`tallformer report`: what the user can ask for. What is done about it: `reports`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def report(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="ACTIONS", show_default=False, help="actions.json, labels that `convert` reads, or a folder."
        ),
    ],
    videos: Annotated[
        list[str] | None,
        typer.Argument(metavar="VIDEO", show_default=False, help="Its videos, where they are not where it says."),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE.html",
            show_default=False,
            help="Page to write; - is stdout; else ACTIONS with the ending .html, or index.html in the folder.",
        ),
    ] = None,
    truth: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Labels of the videos, to be shown beside what was found.")
    ] = None,
    embed: Annotated[
        bool, typer.Option("--embed", help="Put the videos into the page, so that it can go anywhere alone.")
    ] = False,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Heading; else the name of the video.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and failures.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object per line.")] = False,
) -> None:
    """Make a page to look at what was found: video, timeline, list, filters.

    The page is one file, and needs no network and no server. It finds the
    video where it lies, seen from the page, unless --embed puts it in.

    Of a folder it makes an index: every actions.json below, what was found in
    all of them, what failed, and a search. Rows lead to the page beside the
    file, where there is one.

    [bold]Examples[/bold]

      tallformer report actions.json match.mp4 --out match.html
      tallformer report actions.json --truth truth.json --embed
      tallformer report results/
    """
    from tallformer_infer.commands.waiting import import_interruptibly

    import_interruptibly("tallformer_infer.commands.reports")

    from tallformer_infer.commands.reports import ReportOptions, write_index, write_report
    from tallformer_infer.commands.saying import speaking

    options = ReportOptions(source=source, videos=tuple(videos or ()), out=out, truth=truth, embed=embed, title=title)
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        if source.is_dir():
            write_index(options, speaker)
        else:
            write_report(options, speaker)
