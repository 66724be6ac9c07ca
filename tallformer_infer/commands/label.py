"""`tallformer label`: what the user can ask for. What is done about it: `labelling`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from tallformer_infer.commands import options

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_FAILURES = "Failures"


@app.command()
def label(  # noqa: PLR0913, PLR0917 (one parameter per option of the command line)
    context: typer.Context,
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="Files, folders, patterns, lists (.txt, .csv, .jsonl) and URLs.",
        ),
    ],
    out: Annotated[
        str,
        typer.Option(
            "--out",
            "-o",
            metavar="DIR",
            show_default=False,
            help="Output folder, or a URL such as s3://bucket/labels.",
        ),
    ],
    state: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Folder for the database, if --out is a URL.", show_default=False),
    ] = None,
    formats: Annotated[
        list[str] | None,
        typer.Option(
            "--format", "-f", metavar="NAME", help="Formats of the result files, such as json,srt. \\[default: json]"
        ),
    ] = None,
    model: options.Model = None,
    device: options.Device = "auto",
    precision: options.Precision = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Worker processes (default: from cores, memory and videos).",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="N", help="CPU threads per worker (default: cores ÷ workers).", rich_help_panel=options.RUN
        ),
    ] = None,
    engine: Annotated[
        Literal["processes", "ray"],
        typer.Option(
            metavar="NAME",
            help="processes (workers on this machine) or ray (workers of a Ray cluster).",
            rich_help_panel=options.RUN,
        ),
    ] = "processes",
    address: Annotated[
        str,
        typer.Option(
            metavar="HOST:PORT", help="Ray cluster to use; local starts one here.", rich_help_panel=options.RUN
        ),
    ] = "local",
    gpu_fraction: Annotated[
        float,
        typer.Option(min=0, metavar="X", help="GPUs per Ray worker, such as 0.25.", rich_help_panel=options.RUN),
    ] = 0.0,
    gpus: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Number of GPUs to use (default: all).", rich_help_panel=options.RUN),
    ] = None,
    share_device: Annotated[
        bool | None,
        typer.Option(
            help="Let one process per device encode for all workers (default: on GPUs only).",
            show_default=False,
            rich_help_panel=options.RUN,
        ),
    ] = None,
    memory_gb: Annotated[
        float | None,
        typer.Option(
            min=0.1,
            metavar="GB",
            help="Memory limit of all workers (default: most of the free memory).",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    store_gb: Annotated[
        float,
        typer.Option(
            min=0, metavar="GB", help="Disk space for stored features; 0 stores none.", rich_help_panel=options.RUN
        ),
    ] = 20.0,
    store: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Folder for stored features (default: `store` in DIR or STATE).",
            rich_help_panel=options.RUN,
        ),
    ] = None,
    windows: Annotated[
        Literal["shared", "reference"],
        typer.Option(
            metavar="NAME",
            help="Window layout. shared: encode each frame once. reference: as in the paper.",
            rich_help_panel=options.RUN,
        ),
    ] = "shared",
    rates: options.Rates = None,
    class_scores: options.ClassScores = None,
    skip_static: Annotated[
        float,
        typer.Option(
            min=0,
            max=255,
            metavar="X",
            help="Reuse the features of the clip before if pixels differ by less than X; 0: only if equal.",
            rich_help_panel=options.RUN,
        ),
    ] = 0.0,
    threshold: options.Threshold = None,
    operating_point: options.OperatingPoint = None,
    top_k: options.TopK = None,
    classes: options.Classes = None,
    classes_file: options.ClassesFile = None,
    allow_protocol: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="Also allow this URL protocol, such as sftp (always: file, http, https, s3, gs, az). Repeatable.",
            show_default=False,
            rich_help_panel=_FAILURES,
        ),
    ] = None,
    max_attempts: Annotated[
        int,
        typer.Option(
            min=1, metavar="N", help="Attempts per video that crashes, hangs or breaks off.", rich_help_panel=_FAILURES
        ),
    ] = 3,
    timeout_factor: Annotated[
        float,
        typer.Option(
            min=0.1,
            metavar="X",
            help="Kill a video after this many times its expected duration.",
            rich_help_panel=_FAILURES,
        ),
    ] = 30.0,
    quiet: options.Quiet = False,
    json_logs: options.JsonLogs = False,
) -> None:
    """Detect actions in an archive of videos; resumable.

    Writes one result file per video to DIR/results, and all of them to
    DIR/archive.db, which `tallformer archive` queries and exports. Run the
    same command again to continue after an interruption, even a crash;
    finished videos are skipped. After a change of threshold or model, only
    what depends on it is computed again.

    If DIR is a URL, the database is kept in the folder --state and copied to
    the URL at the end. Result files that could not be uploaded are uploaded by
    the next run.

    Exit code: 0 success; 1 a video failed (the others are written); 2 usage
    error; 130 Ctrl-C; 143 SIGTERM.

    [bold]Examples[/bold]

      tallformer label videos/ --out labels
      tallformer label videos/ --out labels --threshold 0.4
      tallformer label list.csv s3://bucket/raw/ --out labels --workers 8
    """
    from tallformer_infer.commands.inputs import given_options, parse_rates, wanted_classes
    from tallformer_infer.stopping import import_interruptibly

    if out == "-":
        raise typer.BadParameter("--out -: label writes a folder; `tallformer detect --out -` writes to stdout")
    import_interruptibly("tallformer_infer.commands.labelling")

    from tallformer_infer.commands.labelling import LabelOptions, label_sources

    wanted = LabelOptions(
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
    raise typer.Exit(label_sources(wanted))
