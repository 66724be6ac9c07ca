"""`tallformer label`: one model, an archive, and whatever happens meanwhile."""

from __future__ import annotations

import contextlib
import dataclasses
import shlex
from collections.abc import Collection
from pathlib import Path
from typing import Literal

import typer

from tallformer_infer.archive.database import DATABASE, ArchiveDatabase
from tallformer_infer.archive.device_server import DeviceServer, count_gpus, may_have_cuda
from tallformer_infer.archive.places import RESULTS, RemotePlace, ResultFolder, ResultPlace, claim, copy_database
from tallformer_infer.archive.planning import Plan, plan
from tallformer_infer.archive.processes import Engine, ProcessEngine, choose_threads, choose_workers
from tallformer_infer.archive.results import ResultKeeper, check_formats
from tallformer_infer.archive.run import Run, RunParts
from tallformer_infer.archive.sources import find_sources
from tallformer_infer.archive.stages import describe_scores, hash_stages
from tallformer_infer.archive.tasks import LabelSettings, ScoreFile
from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.commands.detection import as_arguments, split_classes
from tallformer_infer.commands.label_reporting import JsonWatcher, LabelWatcher, TerminalWatcher
from tallformer_infer.config import RefinedHeadConfig
from tallformer_infer.devices import Device, RunPrecision
from tallformer_infer.errors import ConfigError, OutputError
from tallformer_infer.evaluation import ClassScores, read_class_scores
from tallformer_infer.labels.formats import FOR_RESULTS
from tallformer_infer.media.addresses import ALLOWED_PROTOCOLS, host_of, is_address, is_web_address
from tallformer_infer.pipeline import choose_layout, choose_point
from tallformer_infer.results import Selection, check_selection
from tallformer_infer.stopping import StoppedError, run_interruptibly
from tallformer_infer.structures import Layout, Windows
from tallformer_infer.text import counted, printable

_STORE = "store"


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelOptions:
    """What the user asked for."""

    sources: tuple[str, ...]
    """Files, folders, patterns, lists and addresses."""
    out: str
    """Folder of the archive, or address of its result files."""
    state: Path | None
    """Folder of the database, if `out` is an address."""
    formats: tuple[str, ...]
    """Forms of the result files, as typed: one or several with commas."""
    model: str | None
    """Bundle, or name of a bundled model; None is the default one."""
    device: Device
    """Where to run."""
    precision: RunPrecision | None
    """Of the encoder; None is that of the model."""
    workers: int | None
    """Processes; None leaves it to the machine."""
    threads: int | None
    """CPU threads of each; None leaves it to the machine."""
    memory_bytes: int | None
    """Most memory of all workers; None leaves it to the machine."""
    store_bytes: int
    """Most bytes of stored features."""
    store: Path | None
    """Folder of stored features; None is one beside the database."""
    windows: Windows
    """How windows are laid."""
    rates: tuple[float, ...] | None
    """Frames per second at which actions are looked for; None: the recipe's own."""
    class_scores: Path | None
    """File that says what whole videos show; None lets the model say it."""
    static_tolerance: float
    """Clips that differ by less share features."""
    threshold: float | None
    """Lowest score to keep."""
    top_k: int | None
    """Most actions to keep per video."""
    classes: tuple[str, ...]
    """Names of the actions to keep, as typed."""
    operating_point: str | None
    """Point of the model, `all` or `none`; None leaves it to the model."""
    max_attempts: int
    """Attempts at a video that crashes, hangs or breaks off."""
    timeout_factor: float
    """Times the expected, after which a video hangs."""
    protocols: tuple[str, ...]
    """Further protocols of addresses that may be used."""
    quiet: bool
    """Say only what went wrong."""
    json_logs: bool
    """Say it as JSON."""
    share_device: bool | None
    """One process per device encodes for all workers; None: on GPUs."""
    gpus: int | None
    """How many to use; None takes all."""
    engine: Literal["processes", "ray"]
    """What the workers are."""
    address: str
    """Of the Ray cluster, or `local`."""
    gpu_fraction: float
    """Part of a GPU for each Ray worker."""
    given: tuple[str, ...]
    """Options as the user gave them."""


def label_sources(options: LabelOptions) -> int:
    """Label every video that is named, and sum up.

    Returns:
        Exit code: 0 all done; 1 a video failed.

    Raises:
        StoppedError: The run was told to stop, and has said how to go on.
        TallformerError: The run cannot start, or cannot go on.
        typer.BadParameter: An option does not fit.
    """
    _refuse_ignored(options)
    formats = _formats(options.formats)
    bundle = load_bundle(options.model)
    selection = _selection(options, bundle)
    layout = _layout(options, bundle)
    watcher: LabelWatcher = JsonWatcher(quiet=options.quiet) if options.json_logs else TerminalWatcher(options.quiet)
    class_scores, score_file = _class_scores(options, bundle)
    hashes = hash_stages(
        bundle,
        layout=layout,
        selection=selection,
        static_tolerance=options.static_tolerance,
        scores=score_file,
        precision=options.precision,
    )
    protocols = ALLOWED_PROTOCOLS | {name.lower() for name in options.protocols}
    written = _written_folders(options)
    found = run_interruptibly(lambda: find_sources(options.sources, without=written, protocols=protocols))
    folder, place = open_places(options.out, options.state, protocols)
    with ArchiveDatabase(folder, writes=True) as database:
        watcher.loaded(bundle)
        begin_copy(database, place)
        store = _store(options, folder)
        planned = plan(database, found, hashes, place=place, formats=formats)
        workers = choose_workers(
            bundle,
            videos=len(found),  # of all: a run that goes on takes as many threads, and gets the same last digits
            memory_bytes=options.memory_bytes,
            workers=options.workers,
        )
        settings = _settings(options, bundle, selection, layout=layout, workers=workers, store=store)
        public_hosts = frozenset(host_of(one.source) for one in found if one.is_foreign and is_web_address(one.source))
        settings = dataclasses.replace(settings, scores=score_file, protocols=protocols, public_hosts=public_hosts)
        parts = RunParts(
            database=database,
            bundle=bundle,
            settings=settings,
            hashes=hashes,
            keeper=ResultKeeper(database, bundle, hashes, selection=selection, place=place, formats=formats),
            watcher=watcher,
            max_attempts=options.max_attempts,
            store_bytes=options.store_bytes,
            class_scores=class_scores,
        )
        return _run(Run(parts, planned), planned, workers, parts, options)


def _run(run: Run, planned: Plan, workers: int, parts: RunParts, options: LabelOptions) -> int:
    watcher: LabelWatcher = parts.watcher  # type: ignore[assignment]  # it is the one that was made here
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
                _say_how_to_go_on(watcher, run, options)
                raise StoppedError from error
            raise
    watcher.finished(planned, run.totals, options.out, parts.database.path.parent)
    is_copied = end_copy(parts.database, parts.keeper.place, watcher, missing=untried)
    return 1 if run.totals.failed or planned.failed_before or not is_copied else 0


def _engine(settings: LabelSettings, workers: int, options: LabelOptions, ending: contextlib.ExitStack) -> Engine:
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
        settings = _with_servers(settings, options, ending)
        engine = ProcessEngine(settings, count=workers, timeout_factor=options.timeout_factor)
    ending.callback(engine.close)
    return engine


def _with_servers(settings: LabelSettings, options: LabelOptions, ending: contextlib.ExitStack) -> LabelSettings:
    """Where there is a GPU, or it is asked for, processes that own the devices; see `archive.device_server`."""
    if options.share_device is False or (options.share_device is None and not may_have_cuda(options.device)):
        return settings
    servers: list[DeviceServer] = []
    for gpu in range(count_gpus() if options.gpus is None else options.gpus):
        server = run_interruptibly(lambda gpu=gpu: DeviceServer(settings, gpu=gpu))  # type: ignore[misc]
        ending.callback(server.close)
        if server.device == "cpu" and not options.share_device:  # `auto` has found no GPU
            return settings
        servers.append(server)
    return dataclasses.replace(settings, servers=tuple(server.address for server in servers))


def _say_how_to_go_on(watcher: LabelWatcher, run: Run, options: LabelOptions) -> None:
    again = ["tallformer", "label", *options.given, *as_arguments(options.sources)]
    message = "stopped; what is done is kept, to go on run the same command again: " + printable(shlex.join(again))
    watcher.say("interrupted", message, done=run.totals.done, command=again)


def _settings(
    options: LabelOptions, bundle: Bundle, selection: Selection, *, layout: Layout, workers: int, store: Path | None
) -> LabelSettings:
    return LabelSettings(
        model=str(bundle.path.resolve()),
        bundle_sha256=bundle.sha256,
        device=options.device,
        precision=options.precision,
        threads=choose_threads(workers, options.threads) if options.engine == "processes" else options.threads or 1,
        layout=layout,
        selection=selection,
        static_tolerance=options.static_tolerance,
        store=store,
        longest_factor=options.timeout_factor,
    )


_ONLY_WITH: dict[str, tuple[str, ...]] = {
    "processes": ("--memory-gb", "--gpus", "--share-device", "--no-share-device"),
    "ray": ("--address", "--gpu-fraction"),
}


def _refuse_ignored(options: LabelOptions) -> None:
    """Refuse options that the other options make meaningless, instead of ignoring them."""
    for engine, flags in _ONLY_WITH.items():
        ignored = [flag for flag in flags if flag in options.given]
        if ignored and engine != options.engine:
            raise typer.BadParameter(f"{ignored[0]}: has no effect with --engine {options.engine}; leave it out")
    is_on_cpu = options.device == "cpu" and not options.share_device
    if options.gpus is not None and (is_on_cpu or options.share_device is False):
        other = "--device cpu" if is_on_cpu else "--no-share-device"
        raise typer.BadParameter(f"--gpus: has no effect with {other}; leave it out")
    if options.memory_bytes is not None and options.workers is not None:
        raise typer.BadParameter("--memory-gb: has no effect with --workers, which sets their number; leave one out")
    if options.store is not None and not options.store_bytes:
        raise typer.BadParameter("--store: has no effect with --store-gb 0, which stores nothing; leave one out")


def _written_folders(options: LabelOptions) -> list[Path]:
    """Folders that the run writes to; files in them are no videos to label."""
    folder = options.state or Path(options.out)
    store = _store(options, folder)
    return [folder, folder / RESULTS, *([store] if store else [])]


def _formats(typed: tuple[str, ...]) -> tuple[str, ...]:
    names = dict.fromkeys(name.strip() for value in typed for name in value.split(","))
    for name in names:
        if name not in FOR_RESULTS:
            raise typer.BadParameter(f"--format {name}: no such format; there are {', '.join(FOR_RESULTS)}")
    check_formats(tuple(names))
    return tuple(form for form in FOR_RESULTS if form in names)


def _selection(options: LabelOptions, bundle: Bundle) -> Selection:
    see = shlex.join(["tallformer", "info", options.model or bundle.name])
    try:
        classes = split_classes(options.classes, bundle.recipe.classes)
        check_selection(
            threshold=options.threshold, top_k=options.top_k, classes=classes, known=bundle.recipe.classes, see=see
        )
        point = choose_point(bundle, options.operating_point, threshold=options.threshold, classes=classes)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error
    return Selection(threshold=options.threshold, top_k=options.top_k, classes=classes, operating_point=point)


def _class_scores(options: LabelOptions, bundle: Bundle) -> tuple[ClassScores | None, ScoreFile | None]:
    if options.class_scores is None:
        return None, None
    scores = read_class_scores(options.class_scores)
    try:
        return scores, describe_scores(scores, bundle.recipe)
    except ConfigError as error:
        raise typer.BadParameter(f"--class-scores {options.class_scores}: {error}") from error


def _layout(options: LabelOptions, bundle: Bundle) -> Layout:
    if options.windows == "reference" and isinstance(bundle.recipe.model.head, RefinedHeadConfig):
        raise typer.BadParameter("--windows reference: with a model that sees whole videos, only `detect` can do it")
    try:
        return choose_layout(bundle.recipe, options.windows, options.rates)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from error


def _store(options: LabelOptions, folder: Path) -> Path | None:
    if not options.store_bytes:
        return None
    return (options.store or folder / _STORE).resolve()


def open_places(out: str, state: Path | None, protocols: Collection[str]) -> tuple[Path, ResultPlace]:
    """The folder of the database, which is made, and where result files go.

    Args:
        out: Folder or address, as typed.
        state: Folder of the database, if the user named one.
        protocols: Of addresses that may be used.

    Raises:
        typer.BadParameter: They do not go together.
        OutputError: The folder cannot be made, or the address cannot be reached.
        ArchiveError: The address belongs to another folder.
    """
    if not is_address(out):
        if state is not None:
            raise typer.BadParameter(f"--state: is for an address as --out; {out} holds its own database")
        _make_folder(Path(out))
        return Path(out), ResultFolder(Path(out))
    if is_web_address(out):
        raise typer.BadParameter(f"--out {out}: http addresses can only be read; name a folder, s3://, gs:// or az://")
    if state is None:
        raise typer.BadParameter(
            f"--out {out}: the database needs a folder of this machine: name one that stays, --state DIR"
        )
    if is_address(str(state)) or ":/" in str(state):
        raise typer.BadParameter(f"--state {state}: is an address, expected a folder of this machine")
    place = run_interruptibly(lambda: RemotePlace(out, protocols))
    _make_folder(state)
    run_interruptibly(lambda: claim(state, place))
    return state, place


def begin_copy(database: ArchiveDatabase, place: ResultPlace) -> None:
    """Put the database at a new address: what cannot be written there is said before hours are spent.

    Raises:
        OutputError: It cannot be written.
    """
    if isinstance(place, RemotePlace) and not place.has_beside(DATABASE):
        copy_database(database, place)


def end_copy(database: ArchiveDatabase, place: ResultPlace, watcher: LabelWatcher, *, missing: int) -> bool:
    """Bring the copy of the database at an address up to date, and say what is missing there.

    Args:
        database: The original.
        place: Where result files went.
        watcher: Told what is wrong.
        missing: Videos whose files are missing, of which nothing was said.

    Returns:
        Whether the copy is good.
    """
    if not isinstance(place, RemotePlace):
        return True
    problem = None
    try:
        copy_database(database, place)
    except OutputError as error:
        problem = printable(error)
    if missing:
        problem = (
            f"{printable(place.address)}: did not answer; the files of {counted(missing, 'more video')} are missing"
        )
    if problem is not None:
        said = f"error: {problem}; nothing is lost: the same command again writes what is missing"
        watcher.say("error", said, missing=missing)
    return problem is None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made: {error.strerror or error}") from error
