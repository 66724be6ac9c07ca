"""What an engine was made from and for. Two engines with equal keys do the same."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass

from tallformer_infer.bundle import Bundle, GraphName
from tallformer_infer.errors import BundleError, ConfigError
from tallformer_infer.runtime.tensorrt.library import Flavour, Library

ENGINE_GRAPHS: tuple[GraphName, ...] = ("encoder", "localizer")
"""Graphs that become engines. Suppression does not: TensorRT-RTX refuses its NonMaxSuppression, and its result's size
depends on data."""


@dataclass(frozen=True, kw_only=True)
class BatchProfile:
    """How many clips or windows an engine takes at once."""

    least: int
    """Fewest; shorter batches are filled up."""
    best: int
    """What it is tuned for."""
    most: int
    """Most; it decides the memory. All three equal: a fixed batch."""

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
"""Clips come in batches, windows one by one as they become whole."""


@dataclass(frozen=True, kw_only=True)
class EngineKey:
    """What decides whether an engine may be used."""

    graph: GraphName
    """Which graph."""
    graph_sha256: str
    """Hash of its ONNX file."""
    precision: str
    """Type of its weights and arithmetic, as the bundle says; strongly typed, so the file's own."""
    target: str
    """GPUs it is for, see Note [targets]."""
    library: Flavour
    """What built it, and can load it."""
    library_version: str
    """Version of that."""
    platform: str
    """Operating system and processor."""
    batch: BatchProfile
    """Batches it takes."""

    @property
    def stem(self) -> str:
        """Name of its files, without the ending."""
        batch = ".".join(map(str, (self.batch.least, self.batch.best, self.batch.most)))
        library = f"{self.library}-{self.library_version}"
        parts = (self.graph, self.graph_sha256[:12], self.precision, self.target, f"b{batch}", library, self.platform)
        return "_".join(parts)


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
        precision=info.precision,
        target=target,
        library=library.flavour,
        library_version=library.version,
        platform=platform_name(),
        batch=batch,
    )


def platform_name() -> str:
    """Operating system and processor, such as `linux-x86-64`."""
    return f"{platform.system()}-{platform.machine()}".lower().replace("_", "-")
