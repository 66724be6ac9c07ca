"""What an engine was made from, and for which GPUs. Two engines with equal keys do the same.

Note [targets]
    `sm90`: one compute capability. `sm86+sm89`: several, which only TensorRT-RTX can build for. `portable`: what
    TensorRT-RTX builds by default, for 8.0, 8.6, 8.9, 12.0 and later.
    Source: docs.nvidia.com, TensorRT-RTX 1.7, "CPU-Only AOT and TensorRT-RTX Engines".
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass

from tallformer_infer.bundle import Bundle, GraphInfo, GraphName
from tallformer_infer.errors import BundleError, ConfigError, DeviceError, EngineError
from tallformer_infer.installing import install_command
from tallformer_infer.runtime.tensorrt.library import Flavour, Gpu, Library

PORTABLE = "portable"
_PORTABLE_OLDER = frozenset({80, 86, 89})
_PORTABLE_FROM = 120

ENGINE_GRAPHS: tuple[GraphName, ...] = ("encoder", "localizer")
"""Graphs that become engines. Suppression does not: TensorRT-RTX refuses its NonMaxSuppression, and its result's size
depends on data."""


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """Everything that decides whether an engine may be used."""

    graph: GraphName
    """Which graph."""
    graph_sha256: str
    """Hash of the ONNX file."""
    input_sizes: str
    """Sizes of one item of its inputs, such as `32x224x224x3`: bundles may share a file that leaves them open."""
    precision: str
    """Type of its weights and arithmetic, as the bundle says; strongly typed, so the file's own."""
    target: str
    """GPUs it is for, see Note [targets]."""
    library: Flavour
    """Library that built it and can load it."""
    library_version: str
    """Version of the library."""
    platform: str
    """Operating system and processor."""
    batch: BatchProfile
    """Batch sizes it takes."""

    @property
    def stem(self) -> str:
        """Name of its files, without the suffix."""
        batch = ".".join(map(str, (self.batch.least, self.batch.best, self.batch.most)))
        library = f"{self.library}-{self.library_version}"
        graph = (self.graph, self.graph_sha256[:12], self.input_sizes, self.precision)
        return "_".join((*graph, self.target, f"b{batch}", library, self.platform))


def engine_key(bundle: Bundle, graph: GraphName, library: Library, *, target: str, batch: BatchProfile) -> EngineKey:
    """The key of an engine that would be built now.

    Raises:
        BundleError: The bundle has no such graph.
    """
    info = bundle.graphs.get(graph)
    if info is None:
        raise BundleError(f"{bundle.path}: bundle has no graph {graph!r}; it has {', '.join(bundle.graphs)}")
    return EngineKey(
        graph=graph,
        graph_sha256=info.sha256,
        input_sizes=input_sizes(info),
        precision=info.precision,
        target=target,
        library=library.flavour,
        library_version=library.version,
        platform=platform_name(),
        batch=batch,
    )


def input_sizes(graph: GraphInfo) -> str:
    """Sizes of one item of the inputs that have any besides the batch, in the graph's order."""
    return "+".join("x".join(map(str, shape[1:])) for shape in graph.inputs.values() if len(shape) > 1)


def target_of(capabilities: Iterable[int]) -> str:
    """Name of a target, see Note [targets]; no capabilities make `portable`."""
    return "+".join(f"sm{capability}" for capability in sorted(set(capabilities))) or PORTABLE


def capabilities_of(target: str) -> tuple[int, ...]:
    """Compute capabilities that a target names; none for `portable`.

    Raises:
        EngineError: It is no target.
    """
    if target == PORTABLE:
        return ()
    parts = re.split(r"[,+]", target)
    if not all(re.fullmatch(r"sm\d{2,3}", part) for part in parts):
        raise EngineError(f"{target!r}: expected {PORTABLE}, or compute capabilities such as sm86 or sm86,sm89")
    return tuple(sorted({int(part[2:]) for part in parts}))


def runs_on(target: str, capability: int) -> bool:
    """Whether an engine for a target runs on a GPU of that compute capability."""
    if target == PORTABLE:
        return capability in _PORTABLE_OLDER or capability >= _PORTABLE_FROM
    return capability in capabilities_of(target)


def known_capabilities(library: Library) -> tuple[int, ...]:
    """Capabilities that TensorRT-RTX supports; empty for the full TensorRT, which has no such list."""
    if library.flavour == "tensorrt":
        return ()
    names = library.module.ComputeCapability.__members__
    return tuple(sorted(int(name[2:]) for name in names if re.fullmatch(r"SM\d+", name)))


def check_runs_here(library: Library, gpu: Gpu) -> None:
    """Refuse a GPU that the library does not know.

    Raises:
        DeviceError: TensorRT-RTX does not support it.
    """
    known = known_capabilities(library)
    if known and gpu.capability not in known:
        shown = ", ".join(f"sm{capability}" for capability in known)
        raise DeviceError(f"{library} does not run on {gpu}, only on {shown}: {install_command('tensorrt')}")


def choose_target(library: Library, gpu: Gpu | None, ahead_of_time: str | None) -> str:
    """The target to build for.

    Args:
        library: The library that builds.
        gpu: The GPU of this machine, if it has one.
        ahead_of_time: Targets that the user asked for instead.

    Raises:
        EngineError: The library cannot build for it.
        DeviceError: The library does not run on the GPU.
    """
    if ahead_of_time is None:
        if gpu is None:
            raise EngineError(
                "there is no GPU here to build for; say for which others: --ahead-of-time sm86,sm89 or portable"
            )
        check_runs_here(library, gpu)
        return target_of([gpu.capability])
    wanted = capabilities_of(ahead_of_time)
    if library.flavour == "tensorrt":
        raise EngineError("tensorrt builds only on the GPU that an engine is for; ahead of time takes tensorrt_rtx")
    known = known_capabilities(library)
    if unknown := [f"sm{capability}" for capability in wanted if capability not in known]:
        shown = ", ".join(f"sm{capability}" for capability in known)
        raise EngineError(f"{library} cannot build for {', '.join(unknown)}, only for {shown}")
    return target_of(wanted)


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """How many clips or windows an engine takes at once."""

    least: int
    """Smallest batch; shorter ones are padded."""
    best: int
    """Batch it is tuned for."""
    most: int
    """Largest batch; it decides the memory. All three equal: a fixed batch."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.best <= self.most:
            raise ConfigError(f"batch {self}: expected 1 <= least <= best <= most, such as 1,8,16")

    def __str__(self) -> str:
        return f"{self.least},{self.best},{self.most}"

    @staticmethod
    def parse(text: str) -> BatchProfile:
        """From `LEAST,BEST,MOST`, or one number for a fixed batch.

        Raises:
            ConfigError: It is neither.
        """
        if not re.fullmatch(r"\d+(,\d+,\d+)?", text):
            raise ConfigError(f"batch {text!r}: expected one number, or three such as 1,8,16")
        numbers = [int(part) for part in text.split(",")]
        least, best, most = numbers if len(numbers) == 3 else numbers * 3
        return BatchProfile(least=least, best=best, most=most)


DEFAULT_BATCHES: dict[GraphName, BatchProfile] = {
    "encoder": BatchProfile(least=1, best=8, most=8),
    "localizer": BatchProfile(least=1, best=1, most=1),
}
"""Clips come in batches, windows one by one as they are completed."""


def platform_name() -> str:
    """Operating system and processor, such as `linux-x86-64`."""
    return f"{platform.system()}-{platform.machine()}".lower().replace("_", "-")
