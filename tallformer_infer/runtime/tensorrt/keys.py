"""What engines are for: the TensorRT and the GPU that are here, and the key of an engine. Equal keys do the same.

Note [two libraries, one interface]
    `tensorrt` runs on every NVIDIA GPU, and builds only on the GPU that an engine is for. `tensorrt_rtx` runs on
    GeForce and RTX cards (never on an A100, H100 or H200's SM90), and builds ahead of time on any machine, without a
    GPU or driver. Nothing here imports either by name: the module is handed from function to function, so what is
    tested with the one is what runs with the other.

Note [the driver is asked first]
    Without a driver, objects of the full TensorRT cannot be made: version 10 raises a TypeError about a null pointer,
    version 11 gives an object around one, and ends the process when it is dropped, which no `except` can catch. So
    whoever makes one calls `require_gpu` before. `tensorrt_rtx` can build without, but not run.

Note [targets]
    `sm90`: one compute capability. `sm86+sm89`: several, which only TensorRT-RTX can build for. `portable`: what
    TensorRT-RTX builds by default, for 8.0, 8.6, 8.9, 12.0 and later.
    Source: docs.nvidia.com, TensorRT-RTX 1.7, "CPU-Only AOT and TensorRT-RTX Engines".
"""

from __future__ import annotations

import importlib
import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, get_args

from tallformer_infer.bundle import Bundle, GraphInfo, GraphName
from tallformer_infer.devices import DRIVER_LIBRARY, read_driver
from tallformer_infer.errors import BundleError, ConfigError, DeviceError, EngineError, ExtraError
from tallformer_infer.installing import install_command
from tallformer_infer.text import first_line

Flavour = Literal["tensorrt", "tensorrt_rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
"""The full TensorRT first: it is used if both are installed."""


@dataclass(frozen=True)
class Library:
    """An imported TensorRT."""

    flavour: Flavour
    """Which of the two."""
    version: str
    """Version; engines of another version are not loaded."""
    module: Any = field(compare=False, repr=False)
    """The imported module."""

    def __str__(self) -> str:
        return f"{self.flavour} {self.version}"


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """The GPU that engines are built for and run on: the first that the driver shows."""

    name: str
    """Product name."""
    capability: int
    """Compute capability without its dot, such as 90."""

    def __str__(self) -> str:
        return f"{self.name} (sm{self.capability})"


def installed_flavours() -> tuple[Flavour, ...]:
    """Installed libraries; nothing is imported."""
    return tuple(flavour for flavour in FLAVOURS if find_spec(flavour) is not None)


def load_library(flavour: Flavour | None = None) -> Library:
    """Import TensorRT, which needs no driver.

    Args:
        flavour: Which library; None uses the full TensorRT if it is installed.

    Raises:
        ExtraError: It is not installed.
        DeviceError: It is installed and cannot be imported.
    """
    found = installed_flavours()
    wanted = flavour or next(iter(found), None)
    if wanted is None or wanted not in found:
        missing = f"{wanted} is not installed" if wanted else "neither tensorrt nor tensorrt_rtx is installed"
        raise ExtraError(f"{missing}: {install_command('trt-ci' if wanted == 'tensorrt_rtx' else 'tensorrt')}")
    try:
        module = importlib.import_module(wanted)
        return Library(wanted, str(module.__version__), module)
    except (ImportError, OSError, AttributeError) as error:
        raise DeviceError(f"{wanted} is installed and cannot be imported: {first_line(error)}") from error


def require_gpu(*, driver_library: str = DRIVER_LIBRARY) -> Gpu:
    """The first GPU of the NVIDIA driver, see Note [the driver is asked first].

    Args:
        driver_library: Name or path of the driver's library.

    Raises:
        DeviceError: There is no driver, or no GPU that it can use.
    """
    try:
        facts = read_driver(driver_library)
    except (OSError, AttributeError) as error:
        raise DeviceError(f"the NVIDIA driver cannot be asked: {first_line(error)}") from error
    if facts["problem"]:
        raise DeviceError(str(facts["problem"]))
    first = facts["gpus"][0]
    return Gpu(name=first["name"], capability=int(first["compute_capability"].replace(".", "")))


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
        raise EngineError(
            "tensorrt builds only on the GPU that an engine is for; building ahead of time needs tensorrt_rtx"
        )
    known = known_capabilities(library)
    if unknown := [f"sm{capability}" for capability in wanted if capability not in known]:
        shown = ", ".join(f"sm{capability}" for capability in known)
        raise EngineError(f"{library} cannot build for {', '.join(unknown)}, only for {shown}")
    return target_of(wanted)


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """Batch sizes of an engine, in clips or windows."""

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
"""Default batches: clips are batched, windows are processed one by one."""


def platform_name() -> str:
    """Operating system and processor, such as `linux-x86-64`."""
    return f"{platform.system()}-{platform.machine()}".lower().replace("_", "-")
