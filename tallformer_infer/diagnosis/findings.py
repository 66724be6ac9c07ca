"""The types of a diagnosis."""

from __future__ import annotations

from dataclasses import dataclass

from tallformer_infer.diagnosis.machine import Machine, Package


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of the install."""

    name: str
    """`base`, or an extra."""
    is_complete: bool
    """Whether all its packages are installed in versions that fit."""
    remark: str
    """What is missing or does not fit; empty if complete."""
    commands: tuple[str, ...]
    """Commands that install it, in order."""


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A GPU of the CUDA driver."""

    name: str
    """Product name."""
    compute_capability: str
    """Such as `9.0`."""
    memory_bytes: int
    """Total memory."""


@dataclass(frozen=True, kw_only=True)
class CudaDriver:
    """The NVIDIA driver and its GPUs."""

    version: str | None
    """Newest CUDA version it supports, such as `13.0`."""
    gpus: tuple[Gpu, ...]
    """GPUs visible to this process."""
    problem: str | None
    """Why there is no usable GPU; None if there is one."""


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
    """Why it did not run."""
    missing_library: str | None = None
    """Library that it could not load."""


@dataclass(frozen=True, kw_only=True)
class EngineLibrary:
    """What TensorRT engines need: `tensorrt` or `tensorrt_rtx`, and `cuda-bindings`."""

    name: str
    """Name of the module or package."""
    version: str | None
    """Imported version; None: it cannot be imported."""
    problem: str | None
    """Why it cannot be imported."""
    builds_for: tuple[str, ...]
    """GPUs that it can build for without having them, such as `sm86`."""


@dataclass(frozen=True, kw_only=True)
class HardwareDecoder:
    """A kind of hardware that FFmpeg can decode with."""

    name: str
    """FFmpeg's name for the kind, such as `cuda` or `vaapi`."""
    codecs: tuple[str, ...]
    """Codecs that this build of FFmpeg can decode with it; the hardware may support fewer."""
    opens: bool | None
    """Whether a device of this kind can be opened; None: not tried, since it decodes nothing."""
    problem: str | None
    """Why it cannot be opened."""


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """The FFmpeg that PyAV ships."""

    ffmpeg: str | None
    """Version of FFmpeg."""
    libraries: dict[str, str]
    """Versions of its libraries."""
    hardware: tuple[HardwareDecoder, ...]
    """Hardware decoders in this build."""
    problem: str | None
    """Why FFmpeg could not be examined."""


@dataclass(frozen=True, kw_only=True)
class Breakage:
    """An installed package that breaks another one."""

    text: str
    """Description, in one line."""
    commands: tuple[str, ...]
    """Commands that repair it, in order."""


@dataclass(frozen=True, kw_only=True)
class DeviceVerdict:
    """Result of trying one value of `--device`."""

    value: str
    """Value of `--device`."""
    works: bool
    """Whether the default model ran there."""
    runs_on: str | None
    """Device that was used."""
    text: str
    """Device used and why, or why it does not work."""
    commands: tuple[str, ...] = ()
    """Commands that make it work, in order; empty if it works, or no package can help."""


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Everything that `tallformer doctor` found."""

    python: str
    """Version of Python."""
    platform: str
    """Operating system and processor."""
    version: str
    """Version of tallformer."""
    machine: Machine
    """Cores, memory, disk."""
    packages: tuple[Package, ...]
    """Installed and missing packages."""
    parts: tuple[Part, ...]
    """Parts of the install."""
    driver: CudaDriver
    """NVIDIA driver and its GPUs."""
    onnxruntime: str | None
    """Version of ONNX Runtime that is imported."""
    providers: tuple[Provider, ...]
    """Execution providers of ONNX Runtime."""
    engine_libraries: tuple[EngineLibrary, ...]
    """What TensorRT engines need."""
    decoding: Decoding
    """FFmpeg and its hardware decoders."""
    breakages: tuple[Breakage, ...]
    """Packages that break others."""
    devices: tuple[DeviceVerdict, ...]
    """One per value of `--device`."""

    @property
    def can_detect(self) -> bool:
        """Whether `detect` runs on any device."""
        return any(device.works for device in self.devices)
