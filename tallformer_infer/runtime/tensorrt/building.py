"""An ONNX graph to a TensorRT engine.

Note [strongly typed]
    TensorRT 11 has no precision flags, and 10 deprecates them: the types of the ONNX file are the types of the engine.
    So fp16, bf16 and int8 (as quantise and dequantise nodes) are decided by `tallformer export --precision`, and this
    builder does not know of them. What a flag could still allow is TF32 in float32 products, which is TensorRT's
    default, and stays.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tallformer_infer.errors import EngineError, StoppedError
from tallformer_infer.runtime.tensorrt.keys import BatchProfile
from tallformer_infer.runtime.tensorrt.library import Library, require_gpu
from tallformer_infer.runtime.tensorrt.targets import capabilities_of, known_capabilities

OnStep = Callable[[str], None]

_TELL_EVERY_S = 1.0


class BuilderLog:
    """What TensorRT says while it builds, and how to stop it."""

    def __init__(self, on_step: OnStep = lambda _: None) -> None:
        self._lines: list[str] = []
        self._started = time.monotonic()
        self._stopped = threading.Event()
        self.on_step = on_step
        """Told what TensorRT is doing, from a thread of its own choice."""
        self.errors: list[str] = []
        """Lines that are errors."""

    def add(self, severity: str, message: str) -> None:
        """One message."""
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
        """All of it, one message per line, with seconds from the start."""
        return "".join(f"{line}\n" for line in self._lines)


@dataclass(frozen=True)
class BuiltEngine:
    """What comes out of a build."""

    content: bytes
    """The engine."""
    timing_cache: bytes | None
    """What was measured on the way, for the next build; None where the library measures nothing."""
    build_s: float
    """How long it took, in seconds."""


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
        library: What builds; the full TensorRT needs a driver and builds for its first GPU.
        onnx: The graph. The first dimension of every input is the batch.
        batch: How many items the engine takes at once.
        target: For which GPUs, see Note [targets].
        log: Gets all messages, also if this fails.
        timing_cache: Of an earlier build for the same GPU and library.

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
    """An `ILogger` of that module. Whoever hands it over keeps it as long as what was made with it."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(str(severity).rpartition(".")[2], message)

    return Logger()


def _parser_problem(parser: Any) -> str:
    """The parser's first error, with its node; `Network has no outputs` and the like have none."""
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
    """The last error that is not about a missing driver, which is none where nothing is measured."""
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
