"""Building the engines of a bundle, for `tallformer engine build` and `tallformer export --engine`."""

from __future__ import annotations

import functools
import shlex
from dataclasses import dataclass
from pathlib import Path

from tallformer_infer.bundle import Bundle, GraphName
from tallformer_infer.console import Speaker
from tallformer_infer.errors import DeviceError, EngineError
from tallformer_infer.runtime.tensorrt.building import BuilderLog, build_engine
from tallformer_infer.runtime.tensorrt.keys import DEFAULT_BATCHES, BatchProfile, EngineKey, engine_key
from tallformer_infer.runtime.tensorrt.library import (
    Flavour,
    Gpu,
    Library,
    installed_flavours,
    load_library,
    require_gpu,
)
from tallformer_infer.runtime.tensorrt.store import (
    StoredEngine,
    accept_engine,
    folder_to_write,
    read_timing_cache,
    stored_as,
    stored_engines,
    write_engine,
    write_log,
    write_timing_cache,
)
from tallformer_infer.runtime.tensorrt.targets import choose_target, runs_on
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.text import counted


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """What the user asked for."""

    library: Flavour | None = None
    """What builds; None takes the full TensorRT where it is installed, but for what only the other can."""
    ahead_of_time: str | None = None
    """GPUs to build for; None is the one that is here."""
    clips: BatchProfile = DEFAULT_BATCHES["encoder"]
    """Clips that the encoder takes at once."""
    windows: BatchProfile = DEFAULT_BATCHES["localizer"]
    """Windows that the localizer takes at once."""
    force: bool = False
    """Build also what is there already."""


def check_engines_can_be_built(options: EngineOptions) -> None:
    """Refuse what `build_engines` would refuse, before minutes are spent on a bundle to build from.

    Raises:
        DeviceError, ExtraError: There is no TensorRT, or no GPU for it.
        EngineError: It cannot build for what was asked.
    """
    _choose(options)


def build_engines(bundle: Bundle, options: EngineOptions, speaker: Speaker) -> list[StoredEngine]:
    """Build the engines of encoder and localizer, and say so.

    Raises:
        KeyboardInterrupt: The program was told to stop; engines that were done are there, whole.
        TallformerError: One cannot be built, or not be kept.
    """
    if bundle.graphs["encoder"].precision == "int8":
        raise EngineError(
            f"{bundle.path}: its encoder is int8 for CPUs, with inputs quantised as they come, which TensorRT cannot "
            "build; export it again with --precision fp16 or int8-static"
        )
    library, gpu, target = _choose(options)
    folder = folder_to_write(bundle)
    batches: tuple[tuple[GraphName, BatchProfile], ...] = (
        ("encoder", options.clips),
        ("localizer", options.windows),
    )
    engines = []
    for graph, batch in batches:
        key = engine_key(bundle, graph, library, target=target, batch=batch)
        stored = None if options.force else stored_as(bundle, key)
        if stored is not None:
            speaker.say("kept", f"engine of graph {graph} is there already: {stored.path}", path=str(stored.path))
        else:
            stored = _build(_Order(bundle, key, library, gpu, folder), speaker)
        engines.append(stored)
    speaker.stopped()
    if gpu is not None and runs_on(target, gpu.capability):
        again = shlex.join(["tallformer", "detect", "VIDEO", "--device", "tensorrt", "--model", _named(bundle)])
        speaker.say("hint", f"try it: {again}")
    return engines


def accept_engines(bundle: Bundle, speaker: Speaker) -> None:
    """Seal the engines of a bundle that this user did not build, see Note [an engine is a program] in `seal`.

    Raises:
        EngineError: One is damaged.
        OutputError: One cannot be accepted.
    """
    found = stored_engines(bundle)
    foreign = [stored for stored in found if stored.record is not None and not stored.record.is_own]
    for stored in foreign:
        accept_engine(stored)
        speaker.say("accepted", f"accepted {stored.path}", path=str(stored.path))
    if not foreign:
        speaker.say("kept", f"nothing to accept: {counted(len(found), 'engine')}, none built elsewhere")


@dataclass(frozen=True)
class _Order:
    """One engine to build."""

    bundle: Bundle
    key: EngineKey
    library: Library
    gpu: Gpu | None
    folder: Path


def _choose(options: EngineOptions) -> tuple[Library, Gpu | None, str]:
    """What builds, the GPU that is here, and the target. The full TensorRT cannot do anything without a GPU."""
    wanted = options.library or ("tensorrt_rtx" if options.ahead_of_time else next(iter(installed_flavours()), None))
    try:
        gpu = require_gpu()
    except DeviceError as error:
        if wanted == "tensorrt":
            raise DeviceError(f"tensorrt builds only on the GPU that an engine is for: {error}") from error
        gpu = None
    library = load_library(wanted)
    return library, gpu, choose_target(library, gpu, options.ahead_of_time)


def _build(order: _Order, speaker: Speaker) -> StoredEngine:
    """Compute in a thread of its own, and write in this one, which Ctrl-C reaches."""
    key, folder = order.key, order.folder
    what = f"building engine of graph {key.graph}"
    log = BuilderLog(on_step=lambda text: speaker.step(f"{what}: {text}"))
    speaker.step(what)
    onnx = order.bundle.read_graph(key.graph)
    build = functools.partial(
        build_engine,
        order.library,
        onnx,
        key.batch,
        target=key.target,
        log=log,
        timing_cache=read_timing_cache(key),
    )
    try:
        built = run_interruptibly(build)
    except KeyboardInterrupt:
        log.stop()
        raise
    except EngineError as error:
        path = write_log(folder, key, log.text())
        raise EngineError(f"{order.bundle.path}: graph {key.graph}: {error} (log: {path})") from error
    write_log(folder, key, log.text())
    built_on = None if order.gpu is None else order.gpu.name
    stored = write_engine(folder, key, built.content, build_s=built.build_s, built_on=built_on)
    if built.timing_cache is not None:
        write_timing_cache(key, built.timing_cache)
    message = f"built {stored.path} ({len(built.content) / 1e6:.1f} MB) in {built.build_s:.1f} s"
    speaker.say("built", message, path=str(stored.path), log=str(stored.log), build_s=round(built.build_s, 2))
    return stored


def _named(bundle: Bundle) -> str:
    return bundle.name if bundle.is_bundled else str(bundle.path)
