"""Which TensorRT is installed: the full one, or TensorRT-RTX, whose Python interface is the same.

Note [two libraries, one interface]
    `tensorrt` runs on every NVIDIA GPU, and builds only on the GPU that an engine is for. `tensorrt_rtx` runs on
    GeForce and RTX cards (never on an A100, H100 or H200's SM90), and builds ahead of time on any machine, without a
    GPU or driver. Nothing here imports either by name: the module is handed from function to function, so what is
    tested with the one is what runs with the other.

Note [the driver is asked first]
    Without a driver, objects of the full TensorRT cannot be made: version 10 raises a TypeError about a null pointer,
    version 11 gives an object around one, and ends the process when it is dropped, which no `except` can catch. So
    whoever makes one calls `require_gpu` before. `tensorrt_rtx` can build without, but not run.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any, Literal, get_args

from tallformer_infer.devices import DRIVER_LIBRARY, read_driver
from tallformer_infer.errors import DeviceError, ExtraError
from tallformer_infer.installing import install_command

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


def first_line(error: BaseException) -> str:
    """First line of an error's message."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
