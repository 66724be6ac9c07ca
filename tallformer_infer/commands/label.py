"""`tallformer label`: detect in an archive of videos, with workers, a database, and result files in a folder or URL."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from tallformer_infer.commands import options
from tallformer_infer.commands.options import DetectorOptions, as_arguments, given_options, parse_rates, wanted_classes
from tallformer_infer.errors import ConfigError, StoppedError
from tallformer_infer.stopping import import_interruptibly, run_interruptibly
from tallformer_infer.text import printable

if TYPE_CHECKING:  # heavy imports would slow --help down
    from tallformer_infer.archive.places import ResultPlace
    from tallformer_infer.archive.processes import Engine
    from tallformer_infer.archive.run import Plan, Run, RunParts
    from tallformer_infer.archive.sources import FoundSource
    from tallformer_infer.archive.tasks import LabelSettings, ScoreFile
    from tallformer_infer.bundle import Bundle
    from tallformer_infer.commands.progress import LabelWatcher
    from tallformer_infer.evaluation import ClassScores
    from tallformer_infer.structures import Layout


app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich")

_FAILURES = "Failures"
"""Heading of `--help`."""
_STORE = "store"
"""Folder of stored features, in that of the database."""
_ONLY_WITH: dict[str, tuple[str, ...]] = {
    "processes": ("--memory-gb", "--gpus", "--share-device", "--no-share-device"),
    "ray": ("--address", "--gpu-fraction"),
}
"""Options that have an effect only with this `--engine`."""


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
            "--format",
            "-f",
            metavar="NAME",
            help="Formats of the result files, such as json,html,srt. \\[default: json]",
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
    hwaccel: options.Hwaccel = "none",
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
    if out == "-":
        raise typer.BadParameter("--out -: label writes a folder; `tallformer detect --out -` writes to stdout")
    import_interruptibly("tallformer_infer.commands.progress")
    import_interruptibly("tallformer_infer.archive.run")

    wanted = LabelOptions(
        sources=tuple(sources),
        out=out,
        state=state,
        formats=tuple(formats or ["json"]),
        detector=DetectorOptions(
            model=model,
            device=device,
            precision=precision,
            threads=threads,
            hwaccel=hwaccel,
            windows=windows,
            rates=parse_rates(rates),
            class_scores=class_scores,
            threshold=threshold,
            top_k=top_k,
            classes=wanted_classes(classes, classes_file),
            operating_point=operating_point,
        ),
        workers=workers,
        memory_bytes=None if memory_gb is None else int(memory_gb * 1e9),
        store_bytes=int(store_gb * 1e9),
        store=store,
        static_tolerance=skip_static,
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """What the user asked for."""

    sources: tuple[str, ...]
    """Files, folders, patterns, lists and URLs."""
    out: str
    """Folder of the archive, or URL for its result files."""
    state: Path | None
    """Folder of the database, if `out` is a URL."""
    formats: tuple[str, ...]
    """Formats of the result files, as typed: one or several with commas."""
    detector: DetectorOptions
    """Model, device, and which actions to keep; the threads are those of a worker."""
    workers: int | None
    """Worker processes; None: from cores, memory and videos."""
    memory_bytes: int | None
    """Memory limit of all workers; None: most of the free memory."""
    store_bytes: int
    """Disk space for stored features; 0 stores none."""
    store: Path | None
    """Folder for stored features; None: `store`, next to the database."""
    static_tolerance: float
    """A clip that differs by less from the one before reuses its features."""
    max_attempts: int
    """Attempts per video that crashes, hangs or breaks off."""
    timeout_factor: float
    """A video is killed after this many times its expected duration."""
    protocols: tuple[str, ...]
    """URL protocols to allow besides the usual ones."""
    quiet: bool
    """Only warnings and errors."""
    json_logs: bool
    """Log as JSON lines."""
    share_device: bool | None
    """One process per device encodes for all workers; None: on GPUs only."""
    gpus: int | None
    """Number of GPUs to use; None: all."""
    engine: Literal["processes", "ray"]
    """Workers: processes of this machine, or of a Ray cluster."""
    address: str
    """Address of the Ray cluster; `local` starts one here."""
    gpu_fraction: float
    """GPUs per Ray worker."""
    given: tuple[str, ...]
    """Options as the user gave them."""


def label_sources(options: LabelOptions) -> int:
    """Label every video of the sources, and show a summary.

    Returns:
        Exit code: 0 all done; 1 a video failed.

    Raises:
        StoppedError: The run was stopped, and has printed how to resume.
        TallformerError: The run cannot start or continue.
        typer.BadParameter: An option does not fit.
    """
    from tallformer_infer.archive.database import ArchiveDatabase
    from tallformer_infer.archive.places import begin_copy
    from tallformer_infer.archive.processes import choose_workers
    from tallformer_infer.archive.run import RunParts, plan
    from tallformer_infer.archive.sources import find_sources
    from tallformer_infer.bundle import load_bundle
    from tallformer_infer.commands.progress import JsonWatcher, TerminalWatcher

    _refuse_ignored(options)
    formats = _formats(options.formats)
    bundle = load_bundle(options.detector.model)
    settings, class_scores = _settings(options, bundle)
    quiet, protocols, written = options.quiet, settings.protocols, _written_folders(options)
    watcher: LabelWatcher = JsonWatcher(quiet=quiet) if options.json_logs else TerminalWatcher(quiet=quiet)
    found = run_interruptibly(lambda: find_sources(options.sources, without=written, protocols=protocols))
    folder, place = _open_places(options.out, options.state, protocols)
    with ArchiveDatabase(folder, writes=True) as database:
        watcher.loaded(bundle)
        _say_decoder(options, watcher)
        begin_copy(database, place)
        # Of all videos: a run that resumes has as many workers and threads, and so the same last digits.
        count = len(found)
        workers = choose_workers(bundle, videos=count, memory_bytes=options.memory_bytes, workers=options.workers)
        parts = RunParts(
            database=database,
            bundle=bundle,
            settings=_settings_for(found, settings, options, workers),
            place=place,
            formats=formats,
            watcher=watcher,
            max_attempts=options.max_attempts,
            store_bytes=options.store_bytes,
            class_scores=class_scores,
        )
        return _run(parts, plan(parts, found), watcher, options, workers=workers)


def _say_decoder(options: LabelOptions, watcher: LabelWatcher) -> None:
    """Report what decodes, if something was asked for; workers of a Ray cluster choose on their own machines.

    Raises:
        DeviceError: A kind of device was named that cannot be had.
    """
    from tallformer_infer.media import choose_hardware

    if options.detector.hwaccel != "none" and options.engine == "processes":
        hardware = run_interruptibly(lambda: choose_hardware(options.detector.hwaccel))
        watcher.say("decoder", f"decoding: {printable(hardware.reason)}", hwaccel=hardware.kind)


def _run(parts: RunParts, planned: Plan, watcher: LabelWatcher, options: LabelOptions, *, workers: int) -> int:
    from tallformer_infer.archive.places import end_copy
    from tallformer_infer.archive.run import Run

    run = Run(parts, planned)
    with contextlib.ExitStack() as ending:
        try:
            watcher.planned(planned, run.totals, workers=workers if options.engine == "processes" else None)
            run.conclude_stored()
            if planned.label:
                run.work(_engine(parts.settings, workers, options, ending))
            untried = run.write_left()
        except BaseException as error:
            ending.close()
            watcher.stopped()
            run.stop()
            if isinstance(error, KeyboardInterrupt):
                _say_how_to_resume(watcher, run, options)
                raise StoppedError from error
            raise
    watcher.finished(planned, run.totals, options.out, parts.database.path.parent)
    if "html" in parts.formats and parts.place.folder is not None:
        _write_index(parts.database.path.parent, watcher)
    problem = end_copy(parts.database, parts.place, missing=untried)
    if problem:
        said = f"error: {problem}; nothing is lost; run the same command again to write what is missing"
        watcher.say("error", said, missing=untried)
    return 1 if run.totals.failed or planned.failed_before or problem else 0


def _write_index(folder: Path, watcher: LabelWatcher) -> None:
    """Write the page that lists the pages of the videos."""
    from tallformer_infer.commands.report import write_index_of

    page = folder / "index.html"
    write_index_of(folder, page)
    watcher.say("index", f"open {printable(page)} to look at the results", out=str(page))


def _engine(settings: LabelSettings, workers: int, options: LabelOptions, ending: contextlib.ExitStack) -> Engine:
    from tallformer_infer.archive.device_server import start_servers
    from tallformer_infer.archive.processes import ProcessEngine

    engine: Engine
    if options.engine == "ray":
        from tallformer_infer.archive.ray_engine import RayEngine

        engine = RayEngine(
            settings,
            address=options.address,
            count=options.workers,
            gpu_fraction=options.gpu_fraction,
            timeout_factor=options.timeout_factor,
        )
    else:
        settings = start_servers(settings, ending, gpus=options.gpus, is_wanted=options.share_device)
        engine = ProcessEngine(settings, count=workers, timeout_factor=options.timeout_factor)
    ending.callback(engine.close)
    return engine


def _say_how_to_resume(watcher: LabelWatcher, run: Run, options: LabelOptions) -> None:
    again = ["tallformer", "label", *options.given, *as_arguments(options.sources)]
    message = "stopped; finished videos are kept; to resume, run the same command again: " + printable(
        shlex.join(again)
    )
    watcher.say("interrupted", message, done=run.totals.done, command=again)


def _settings(options: LabelOptions, bundle: Bundle) -> tuple[LabelSettings, ClassScores | None]:
    """Settings of the workers, apart from what depends on the sources, and class scores per video.

    Raises:
        typer.BadParameter: An option does not fit the model.
    """
    from tallformer_infer.archive.tasks import LabelSettings
    from tallformer_infer.media import ALLOWED_PROTOCOLS

    asked = options.detector
    selection, layout = asked.selection(bundle), _layout(asked, bundle)
    class_scores, score_file = _class_scores(asked.class_scores, bundle)
    settings = LabelSettings(
        model=str(bundle.path.resolve()),
        bundle_sha256=bundle.sha256,
        device=asked.device,
        precision=asked.precision,
        hwaccel=asked.hwaccel,
        threads=asked.threads,
        layout=layout,
        selection=selection,
        static_tolerance=options.static_tolerance,
        store=_store(options),
        longest_factor=options.timeout_factor,
        scores=score_file,
        protocols=ALLOWED_PROTOCOLS | {name.lower() for name in options.protocols},
    )
    return settings, class_scores


def _settings_for(
    found: Sequence[FoundSource], settings: LabelSettings, options: LabelOptions, workers: int
) -> LabelSettings:
    from tallformer_infer.archive.processes import choose_threads
    from tallformer_infer.media import host_of, is_web_address

    asked = settings.threads
    threads = choose_threads(workers, asked) if options.engine == "processes" else asked or 1
    hosts = {host_of(one.source) for one in found if one.is_foreign and is_web_address(one.source)}
    return dataclasses.replace(settings, threads=threads, public_hosts=frozenset(hosts))


def _refuse_ignored(options: LabelOptions) -> None:
    """Refuse options that have no effect with the others, instead of ignoring them."""
    for engine, flags in _ONLY_WITH.items():
        ignored = [flag for flag in flags if flag in options.given]
        if ignored and engine != options.engine:
            raise typer.BadParameter(f"{ignored[0]}: has no effect with --engine {options.engine}; leave it out")
    is_on_cpu = options.detector.device == "cpu" and not options.share_device
    if options.gpus is not None and (is_on_cpu or options.share_device is False):
        other = "--device cpu" if is_on_cpu else "--no-share-device"
        raise typer.BadParameter(f"--gpus: has no effect with {other}; leave it out")
    if options.memory_bytes is not None and options.workers is not None:
        raise typer.BadParameter("--memory-gb: has no effect with --workers, which sets their number; leave one out")
    if options.store is not None and not options.store_bytes:
        raise typer.BadParameter("--store: has no effect with --store-gb 0, which stores nothing; leave one out")


def _written_folders(options: LabelOptions) -> list[Path]:
    """Folders that the run writes to; files in them are not labelled."""
    from tallformer_infer.archive.places import RESULTS

    folder, store = _folder(options), _store(options)
    return [folder, folder / RESULTS, *([store] if store else [])]


def _formats(typed: tuple[str, ...]) -> tuple[str, ...]:
    from tallformer_infer.archive.results import check_formats
    from tallformer_infer.report import RESULT_FORMATS

    names = dict.fromkeys(name.strip() for value in typed for name in value.split(","))
    for name in names:
        if name not in RESULT_FORMATS:
            raise typer.BadParameter(f"--format {name}: no such format; there are {', '.join(RESULT_FORMATS)}")
    check_formats(tuple(names))
    return tuple(form for form in RESULT_FORMATS if form in names)


def _class_scores(file: Path | None, bundle: Bundle) -> tuple[ClassScores | None, ScoreFile | None]:
    from tallformer_infer.archive.stages import describe_scores
    from tallformer_infer.evaluation import read_class_scores

    if file is None:
        return None, None
    scores = read_class_scores(file)
    try:
        return scores, describe_scores(scores, bundle.recipe)
    except ConfigError as error:
        raise typer.BadParameter(f"--class-scores {file}: {error}") from error


def _layout(asked: DetectorOptions, bundle: Bundle) -> Layout:
    from tallformer_infer.config import RefinedHeadConfig

    if asked.windows == "reference" and isinstance(bundle.recipe.model.head, RefinedHeadConfig):
        raise typer.BadParameter("--windows reference: with a model that sees whole videos, only `detect` can do it")
    return asked.layout(bundle)


def _store(options: LabelOptions) -> Path | None:
    return (options.store or _folder(options) / _STORE).resolve() if options.store_bytes else None


def _folder(options: LabelOptions) -> Path:
    """The folder of the database."""
    return options.state or Path(options.out)


def _open_places(out: str, state: Path | None, protocols: Collection[str]) -> tuple[Path, ResultPlace]:
    """Open the folder of the database, and the place for result files.

    Args:
        out: Folder or address, as typed.
        state: Folder of the database, if the user named one.
        protocols: Of addresses that may be used.

    Raises:
        typer.BadParameter: They do not go together.
        OutputError: The folder cannot be made, or the address cannot be reached.
        ArchiveError: The address belongs to another folder.
    """
    from tallformer_infer.archive.places import open_address, open_folder
    from tallformer_infer.media import is_address, is_web_address

    if not is_address(out):
        if state is not None:
            raise typer.BadParameter(f"--state: is for an address as --out; {out} holds its own database")
        return Path(out), open_folder(Path(out))
    if is_web_address(out):
        raise typer.BadParameter(f"--out {out}: http addresses can only be read; name a folder, s3://, gs:// or az://")
    if state is None:
        raise typer.BadParameter(
            f"--out {out}: the database needs a folder of this machine: name one that stays, --state DIR"
        )
    if is_address(str(state)) or ":/" in str(state):
        raise typer.BadParameter(f"--state {state}: is an address, expected a folder of this machine")
    return state, run_interruptibly(lambda: open_address(out, state, protocols))
