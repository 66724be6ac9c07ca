"""Build TensorRT engines from the ONNX graphs of a bundle.

Note [strongly typed]
    TensorRT 11 has no precision flags, and 10 deprecates them: the types in the ONNX file are the types in the engine.
    So fp16, bf16 and int8 (as quantise and dequantise nodes) are decided by `tallformer export --precision`, and this
    builder knows nothing of them. The one flag left is TF32 for float32 products, which stays on, TensorRT's default.
"""

from __future__ import annotations

import functools
import shlex
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.bundle import Bundle, GraphName
from tallformer_infer.console import Speaker
from tallformer_infer.errors import DeviceError, EngineError, StoppedError
from tallformer_infer.runtime.tensorrt.keys import (
    DEFAULT_BATCHES,
    BatchProfile,
    EngineKey,
    Flavour,
    Gpu,
    Library,
    capabilities_of,
    choose_target,
    engine_key,
    installed_flavours,
    known_capabilities,
    load_library,
    require_gpu,
    runs_on,
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
from tallformer_infer.stopping import run_interruptibly
from tallformer_infer.text import counted

OnStep = Callable[[str], None]

_TELL_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """Options of `tallformer engine build`."""

    library: Flavour | None = None
    """Library to build with; None uses the full TensorRT if it is installed and can build what is asked for."""
    ahead_of_time: str | None = None
    """GPUs to build for; None is the GPU of this machine."""
    clips: BatchProfile = DEFAULT_BATCHES["encoder"]
    """Batches of clips for the encoder."""
    windows: BatchProfile = DEFAULT_BATCHES["localizer"]
    """Batches of windows for the localizer."""
    force: bool = False
    """Rebuild existing engines."""


def check_engines_can_be_built(options: EngineOptions) -> None:
    """Check that `build_engines` can run, before exporting a bundle for minutes.

    Raises:
        DeviceError, ExtraError: There is no TensorRT, or no GPU for it.
        EngineError: It cannot build for the target.
    """
    _choose(options)


def build_engines(bundle: Bundle, options: EngineOptions, speaker: Speaker) -> list[StoredEngine]:
    """Build the engines of encoder and localizer, and report progress.

    Raises:
        KeyboardInterrupt: The program was stopped; finished engines are stored.
        TallformerError: An engine cannot be built or stored.
    """
    if bundle.graphs["encoder"].precision == "int8":
        raise EngineError(
            f"{bundle.path}: its encoder is int8 for CPUs, with dynamically quantised inputs, which TensorRT cannot "
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
    """Seal the engines of a bundle that this user did not build, see Note [an engine is a program] in `store`.

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
    """The library, the GPU of this machine, and the target. The full TensorRT does nothing without a GPU."""
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
    """Build in a separate thread, and write in the calling one, so that Ctrl-C works."""
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


class BuilderLog:
    """Messages of TensorRT during a build, and a way to stop it."""

    def __init__(self, on_step: OnStep = lambda _: None) -> None:
        self._lines: list[str] = []
        self._started = time.monotonic()
        self._stopped = threading.Event()
        self.on_step = on_step
        """Called with TensorRT's progress, from any thread."""
        self.errors: list[str] = []
        """Error messages."""

    def add(self, severity: str, message: str) -> None:
        """Add a message."""
        self._lines.append(f"{time.monotonic() - self._started:9.3f} {severity:14} {message}")
        if "ERROR" in severity:
            self.errors.append(message)

    def stop(self) -> None:
        """End the build at its next step, from another thread."""
        self._stopped.set()

    @property
    def is_stopped(self) -> bool:
        """Whether `stop` was called."""
        return self._stopped.is_set()

    def text(self) -> str:
        """All messages, one per line, with seconds since the start."""
        return "".join(f"{line}\n" for line in self._lines)


@dataclass(frozen=True)
class BuiltEngine:
    """Result of a build."""

    content: bytes
    """The engine."""
    timing_cache: bytes | None
    """Timings for the next build; None if the library takes none."""
    build_s: float
    """Duration, in seconds."""


def build_engine(
    library: Library,
    onnx: bytes,
    batch: BatchProfile,
    *,
    target: str,
    log: BuilderLog,
    timing_cache: bytes | None = None,
) -> BuiltEngine:
    """Build an engine, see Note [strongly typed].

    Args:
        library: The library that builds; the full TensorRT needs a driver and builds for its first GPU.
        onnx: The graph. The first dimension of every input is the batch.
        batch: Batch sizes of the engine.
        target: GPUs to build for, see Note [targets].
        log: Collects all messages, also of a failed build.
        timing_cache: Timings of an earlier build for the same GPU and library.

    Raises:
        EngineError: TensorRT cannot read the graph (the node and its operator are named), or cannot build it.
        DeviceError: The library needs a driver, and there is none.
        StoppedError: `log.stop` was called.
    """
    if library.flavour == "tensorrt":
        require_gpu()  # Note [the driver is asked first]
    trt, started = library.module, time.monotonic()
    logger = make_logger(trt, log)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)  # owns weights that the network refers to: it lives until the end
    if not parser.parse(onnx) or network.num_outputs == 0:
        raise EngineError(f"{library} cannot read the graph: {_parser_problem(parser)}")
    config = builder.create_builder_config()
    config.progress_monitor = _monitor(trt, log)
    if target and library.flavour == "tensorrt_rtx":
        _set_target(library, config, target)
    _set_batch(builder, config, network, batch, log)
    cache = _timing_cache(library, config, timing_cache)
    content = builder.build_serialized_network(network, config)
    if log.is_stopped:
        raise StoppedError("stopped before the engine was built")
    if content is None or content.nbytes == 0:
        raise EngineError(f"{library} cannot build the engine: {_last_error(log)}")
    measured = None if cache is None else bytes(config.get_timing_cache().serialize())
    return BuiltEngine(bytes(content), measured, time.monotonic() - started)


def make_logger(trt: Any, log: BuilderLog) -> Any:
    """An `ILogger` of that module. The caller must keep it alive as long as the objects made with it."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(str(severity).rpartition(".")[2], message)

    return Logger()


def _parser_problem(parser: Any) -> str:
    """The parser's first error, with its node; errors such as `Network has no outputs` have none."""
    if parser.num_errors == 0:
        return "it has no outputs"
    error = parser.get_error(0)
    operator, name = error.node_operator(), error.node_name()
    node = f"operator {operator} (node {name!r}): " if operator else ""
    code = str(error.code()).rpartition(".")[2]
    reason = next((line for line in error.desc().splitlines() if line.strip()), "")
    return f"{node}{code}: {reason}"


def _set_target(library: Library, config: Any, target: str) -> None:
    wanted = capabilities_of(target)
    if unknown := [capability for capability in wanted if capability not in known_capabilities(library)]:
        raise EngineError(f"{library} cannot build for sm{unknown[0]}")
    config.num_compute_capabilities = len(wanted)
    for index, capability in enumerate(wanted):
        config.set_compute_capability(getattr(library.module.ComputeCapability, f"SM{capability}"), index)


def _set_batch(builder: Any, config: Any, network: Any, batch: BatchProfile, log: BuilderLog) -> None:
    """The profile: the batch is the first dimension of every input, and must be the only free one, or be right."""
    profile = builder.create_optimization_profile()
    is_free = False
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(tensor.shape)
        if not shape or any(size < 0 for size in shape[1:]):
            raise EngineError(f"input {tensor.name!r} is {shape}: expected a free batch first, and all else fixed")
        if shape[0] >= 0 and (batch.least, batch.most) != (shape[0], shape[0]):
            raise EngineError(f"batch {batch} does not fit input {tensor.name!r}, whose batch is fixed to {shape[0]}")
        is_free = is_free or shape[0] < 0
        profile.set_shape(tensor.name, *((size, *shape[1:]) for size in (batch.least, batch.best, batch.most)))
    if is_free and config.add_optimization_profile(profile) < 0:
        raise EngineError(f"batch {batch} does not fit the graph: {_last_error(log)}")


def _timing_cache(library: Library, config: Any, content: bytes | None) -> Any:
    """The cache that the build uses, or None: TensorRT-RTX measures nothing (its cache does nothing since 1.2)."""
    if library.flavour == "tensorrt_rtx":
        return None
    cache = config.create_timing_cache(content or b"")
    if cache is None or not config.set_timing_cache(cache, False):  # of another GPU or version
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _last_error(log: BuilderLog) -> str:
    """The last error, except for a missing driver, which TensorRT-RTX does not need."""
    errors = [line for line in log.errors if "cudaError 35" not in line]
    return errors[-1].splitlines()[0] if errors else "see the log"


def _monitor(trt: Any, log: BuilderLog) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self._steps: dict[str, int] = {}
            self._told = time.monotonic()

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self._steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if time.monotonic() - self._told >= _TELL_EVERY_S:
                self._told = time.monotonic()
                log.on_step(f"{phase_name.lower()}, step {step + 1} of {self._steps.get(phase_name, 0)}")
            return not log.is_stopped

        def phase_finish(self, phase_name: str) -> None:
            self._steps.pop(phase_name, None)

    return Monitor()
