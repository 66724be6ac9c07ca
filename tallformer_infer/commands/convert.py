"""`tallformer convert`: what the user can ask for. What is done about it: `conversion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallformer_infer.commands import options
from tallformer_infer.commands.file_formats import converted_named, readable_named

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def convert(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", show_default=False, help="Label files, of one format or several."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="Output file; - is stdout; a folder for one file per video.",
            show_default=False,
        ),
    ],
    read: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FORMAT",
            parser=readable_named,
            help="Format of FILE (default: from its ending and content).",
        ),
    ] = None,
    write: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            parser=converted_named,
            help="Output format (default: from the ending of --out, else truth).",
        ),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(metavar="VIDEO", help="Name of the video, if FILE has one video without a name."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="X", help="Frames per second, if labels count frames without stating the rate."),
    ] = None,
    tiers: Annotated[
        list[str] | None,
        typer.Option("--tier", metavar="NAME", help="ELAN tier to read; may be repeated. Default: all with times."),
    ] = None,
    subset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Subset to assign to all videos: training, validation, testing.")
    ] = None,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Convert labels between formats, such as corrected labels to ground truth.

    Reads json (ActivityNet truth and results, actions.json), csv, tsv, jsonl,
    parquet, srt, vtt, eaf (ELAN), labelstudio, via (VIA 3), boris and
    ffmetadata.

    Writes truth (ActivityNet form, for `eval`, `calibrate` and `train`),
    activitynet (results), csv, tsv, jsonl, srt, vtt, eaf, labelstudio,
    labelstudio-config, via, boris, otio, edl, fcp7 and ffmetadata.

    [bold]Examples[/bold]

      tallformer convert corrected.eaf --out truth.json
      tallformer convert *.srt --out truth.json --subset validation
      tallformer convert actions.json --to eaf --out folder
      tallformer convert export.json --fps 29.97 --out truth.json
      tallformer convert study.eaf --tier action --out truth.json
    """
    from tallformer_infer.stopping import import_interruptibly

    import_interruptibly("tallformer_infer.commands.conversion")

    from tallformer_infer.commands.conversion import ConvertOptions, convert_files
    from tallformer_infer.commands.file_formats import converted_format
    from tallformer_infer.console import speaking

    wanted = ConvertOptions(
        files=tuple(files),
        out=out,
        read=read,
        write=write or converted_format(out),
        video=video,
        fps=fps,
        subset=subset,
        tiers=tuple(tiers or ()),
    )
    with speaking(quiet=quiet, json_logs=json_logs) as speaker:
        convert_files(wanted, speaker)
