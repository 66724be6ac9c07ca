"""`tallformer label`: what the user can ask for. What is done about it: `labelling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tallformer_infer.devices import Device, RunPrecision

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_WHERE, _WHICH = "Where and how it runs", "Which actions are kept"
_TROUBLE, _SAY = "When something goes wrong", "What is said meanwhile (stderr)"


@app.command()
def label(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="Files, folders, patterns, lists (.txt, .csv, .jsonl) and addresses.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            show_default=False,
            help="Folder for the archive, or an address such as s3://bucket/labels.",
        ),
    ],
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the database, where --out is an address.", show_default=False),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option("--format", "-f", metavar="NAME", help="Of the result files, such as json,srt. \\[json]"),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", metavar="BUNDLE", help="Folder, .zip, or a name that `tallformer models` lists."),
    ] = None,
    device: Annotated[
        Device,
        typer.Option(
            help="auto takes CUDA where it works, else the fastest way on this processor.", rich_help_panel=_WHERE
        ),
    ] = "auto",
    precision: Annotated[
        RunPrecision | None,
        typer.Option(help="Of the encoder, on all machines; else that of the model.", rich_help_panel=_WHERE),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Processes; else by cores, memory and videos.", rich_help_panel=_WHERE),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="CPU threads of each; else its share.", rich_help_panel=_WHERE),
    ] = None,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(help="Workers on this machine, or of a Ray cluster.", rich_help_panel=_WHERE),
    ] = "processes",
    address: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Ray cluster; local starts one here.", rich_help_panel=_WHERE),
    ] = "local",
    gpu_fraction: Annotated[
        float,
        typer.Option(min=0, metavar="X", help="GPUs of each Ray worker, such as 0.25.", rich_help_panel=_WHERE),
    ] = 0.0,
    gpus: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="GPUs to use; else all.", rich_help_panel=_WHERE)
    ] = None,
    share_device: Annotated[
        bool | None,
        typer.Option(
            help="One process per device encodes for all workers; else on GPUs only.",
            show_default=False,
            rich_help_panel=_WHERE,
        ),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(min=0.1, metavar="GB", help="Memory of all; else most of what is free.", rich_help_panel=_WHERE),
    ] = None,
    store_gb: Annotated[
        float,
        typer.Option(min=0, metavar="GB", help="Disk for stored features; 0 keeps none.", rich_help_panel=_WHERE),
    ] = 20.0,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Where features are kept; else DIR/store or STATE/store.", rich_help_panel=_WHERE
        ),
    ] = None,
    windows: Annotated[
        Literal["shared", "reference"],
        typer.Option(help="shared encodes every frame once; reference does as the paper.", rich_help_panel=_WHERE),
    ] = "shared",
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
    skip_static: Annotated[
        float,
        typer.Option(
            min=0,
            max=255,
            metavar="X",
            help="Clips that differ by less, in pixel values, share features; 0: equal ones.",
            rich_help_panel=_WHERE,
        ),
    ] = 0.0,
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
    allow_protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Protocol to allow besides file, http, https, s3, gs and az, such as sftp; may be given again.",
            show_default=False,
            rich_help_panel=_TROUBLE,
        ),
    ] = None,
    max_attempts: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Tries at a video that crashes, hangs or breaks off.", rich_help_panel=_TROUBLE
        ),
    ] = 3,
    timeout_factor: Annotated[
        float,
        typer.Option(
            min=0.1, metavar="X", help="Times the expected, after which a video hangs.", rich_help_panel=_TROUBLE
        ),
    ] = 30.0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Only warnings and failures.", rich_help_panel=_SAY)
    ] = False,
    json_logs: Annotated[
        bool, typer.Option("--json-logs", help="One JSON object per line.", rich_help_panel=_SAY)
    ] = False,
) -> None:
    """Find what happens when in thousands of videos.

    DIR gets one result file per video in `results`, and `archive.db` with all
    of them, which `tallformer archive` asks and exports. The same command
    again goes on where it was stopped, however it was stopped; what is done
    already, in the same way, is not done again. With another threshold or
    model, only what depends on it is.

    Where DIR is an address, the database is in the folder --state, and a copy
    of it is there at the end. Result files that could not be written because
    the address did not answer are written by the next run.

    Exit code: 0 all done; 1 a video failed, and the others are done and
    written; 2 usage; 130 stopped by Ctrl-C; 143 stopped by SIGTERM.

    [bold]Examples[/bold]

      tallformer label videos/ --out labels
      tallformer label videos/ --out labels --threshold 0.4
      tallformer label list.csv s3://bucket/raw/ --out labels --workers 8
    """
    from tallformer_infer.commands.inputs import given_options, parse_rates, wanted_classes
    from tallformer_infer.commands.waiting import import_interruptibly

    if out == "-":
        raise typer.BadParameter("--out -: label writes a folder; `tallformer detect --out -` writes to stdout")
    import_interruptibly("tallformer_infer.commands.labelling")

    from tallformer_infer.commands.labelling import LabelOptions, label_sources

    options = LabelOptions(
        sources=tuple(sources),
        out=out,
        state=state,
        formats=tuple(formats or ["json"]),
        model=model,
        device=device,
        precision=precision,
        workers=workers,
        threads=threads,
        memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
        store_bytes=int(store_gb * 1e9),
        store=store,
        windows=windows,
        rates=parse_rates(rates),
        class_scores=class_scores,
        static_tolerance=skip_static,
        threshold=threshold,
        top_k=top_k,
        classes=wanted_classes(classes, classes_file),
        operating_point=operating_point,
        max_attempts=max_attempts,
        timeout_factor=timeout_factor,
        share_device=share_device,
        engine=engine,
        address=address,
        gpu_fraction=gpu_fraction,
        gpus=gpus,
        protocols=tuple(allow_protocol or ()),
        quiet=quiet,
        json_logs=json_logs,
        given=given_options(context, without=()),
    )
    raise typer.Exit(label_sources(options))
