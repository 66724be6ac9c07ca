"""What a diagnosis holds."""

from __future__ import annotations

from dataclasses import dataclass

from tallformer_infer.diagnosis.machine import Machine, Package


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the install."""

    name: str
    """`base`, or an extra."""
    is_complete: bool
    """Whether all of it is installed, in versions that fit."""
    remark: str
    """What is missing or does not fit; empty where nothing is."""
    commands: tuple[str, ...]
    """What to run to have it, one after another."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU of the CUDA driver."""

    name: str
    """What its maker calls it."""
    compute_capability: str
    """Such as `9.0`."""
    memory_bytes: int
    """All of its memory."""


@dataclass(frozen=True, kw_only=True)
class CudaDriver:
    """What the NVIDIA driver says."""

    version: str | None
    """Newest CUDA it can run, such as `13.0`."""
    gpus: tuple[Gpu, ...]
    """Those it shows this process."""
    problem: str | None
    """Why there is no GPU to use; None where there is one."""


@dataclass(frozen=True, kw_only=True)
class Provider:
    """An execution provider of ONNX Runtime."""

    name: str
    """`CPU`, `CUDA`, `TensorRT`, or as ONNX Runtime calls another."""
    is_built_in: bool
    """Whether the installed build has it."""
    works: bool | None
    """Whether it ran a graph; None: not tried."""
    problem: str | None
    """Why it did not."""
    missing_library: str | None = None
    """Library that it could not load."""


@dataclass(frozen=True, kw_only=True)
class EngineLibrary:
    """What TensorRT engines need: `tensorrt` or `tensorrt_rtx`, and `cuda-bindings`."""

    name: str
    """As it is imported, or installed."""
    version: str | None
    """The one that was imported; None: it cannot be."""
    problem: str | None
    """Why it cannot."""
    builds_for: tuple[str, ...]
    """GPUs that it builds for without having them, such as `sm86`."""


@dataclass(frozen=True, kw_only=True)
class HardwareDecoder:
    """A kind of hardware that FFmpeg can decode with."""

    name: str
    """FFmpeg's name for the kind, such as `cuda` or `vaapi`."""
    codecs: tuple[str, ...]
    """What it can decode, by the build of FFmpeg; the hardware may do fewer."""
    opens: bool | None
    """Whether a device of the kind can be opened; None: nothing is decoded with it, and it was not tried."""
    problem: str | None
    """Why it cannot."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """FFmpeg as PyAV brings it."""

    ffmpeg: str | None
    """Its version."""
    libraries: dict[str, str]
    """Versions of its libraries."""
    hardware: tuple[HardwareDecoder, ...]
    """Kinds of hardware decoders it was built with."""
    problem: str | None
    """Why nothing is known."""


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """Something installed that disturbs something else."""

    text: str
    """What, in one line."""
    commands: tuple[str, ...]
    """What to run to mend it, one after another."""


@dataclass(frozen=True, kw_only=True)
class DeviceVerdict:
    """What one value of `--device` does here."""

    value: str
    """As the user types it."""
    works: bool
    """Whether the default model ran there."""
    runs_on: str | None
    """The device that was taken."""
    text: str
    """What was taken and why, or why it does not work."""
    commands: tuple[str, ...] = ()
    """What to run to make it work, one after another; empty where it works, or no package can help."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """What a machine has to run this project on."""

    python: str
    """Version of Python."""
    platform: str
    """Operating system and processor."""
    version: str
    """Version of this project."""
    machine: Machine
    """Cores, memory, disk."""
    packages: tuple[Package, ...]
    """Installed and missing packages."""
    parts: tuple[Part, ...]
    """Parts of the install."""
    driver: CudaDriver
    """NVIDIA driver and its GPUs."""
    onnxruntime: str | None
    """Version that is really imported."""
    providers: tuple[Provider, ...]
    """Execution providers of ONNX Runtime."""
    engine_libraries: tuple[EngineLibrary, ...]
    """What TensorRT engines need."""
    decoding: Decoding
    """FFmpeg and its hardware decoders."""
    breakages: tuple[Breakage, ...]
    """What disturbs what."""
    devices: tuple[DeviceVerdict, ...]
    """One per value of `--device`."""

    @property
    def can_detect(self) -> bool:
        """Whether `detect` runs on any device."""
        return any(device.works for device in self.devices)
