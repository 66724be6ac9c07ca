"""`tallformer convert`: what the user can ask for. What is done about it: `conversion`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tallformer_infer.commands.file_formats import ConvertedFormat, ReadFormat

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")


@app.command()
def convert(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE", show_default=False, help="Labels: of one kind, or each of its own."),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            "-o",
            metavar="FILE",
            help="File to write; - is stdout; a folder for a file per video.",
            show_default=False,
        ),
    ],
    read: Annotated[
        ReadFormat | None,
        typer.Option("--from", metavar="FORMAT", help="What FILE is; else by its ending and content."),
    ] = None,
    write: Annotated[
        ConvertedFormat | None,
        typer.Option("--to", metavar="FORMAT", help="What to write; else by the ending of --out, or truth."),
    ] = None,
    video: Annotated[
        str | None,
        typer.Option(metavar="VIDEO", help="The video that FILE is about, where there is one and it is not named."),
    ] = None,
    fps: Annotated[
        float | None,
        typer.Option(metavar="X", help="Frames per second, where labels count frames and do not say it."),
    ] = None,
    tiers: Annotated[
        list[str] | None,
        typer.Option("--tier", metavar="NAME", help="ELAN tier to read; may be repeated. Default: all with times."),
    ] = None,
    subset: Annotated[
        str | None, typer.Option(metavar="NAME", help="Subset to put all videos into: training, validation, testing.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Only warnings and failures.")] = False,
    json_logs: Annotated[bool, typer.Option("--json-logs", help="One JSON object per line.")] = False,
) -> None:
    """Turn labels of one tool into those of another, such as hand-corrected ones into truth.

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
    from tallformer_infer.commands.waiting import import_interruptibly

    import_interruptibly("tallformer_infer.commands.conversion")

    from tallformer_infer.commands.conversion import ConvertOptions, convert_files
    from tallformer_infer.commands.file_formats import converted_format
    from tallformer_infer.commands.saying import speaking

    options = ConvertOptions(
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
        convert_files(options, speaker)
