"""The types of a diagnosis, and conclusions: missing and conflicting packages, devices that work, helpful commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from tallformer_infer.diagnosis.machine import Machine, Package, normal, version_numbers
from tallformer_infer.diagnosis.probes import Answer
from tallformer_infer.installing import BASE, install_command


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
    is_usable: bool
    """Whether `--hwaccel` takes it."""


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


_CPU_WHEEL, _GPU_WHEEL = "onnxruntime", "onnxruntime-gpu"

_Remedy = tuple[str, tuple[str, ...]]
"""What is wrong, and the commands that repair it."""


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """Findings that conclusions are drawn from."""

    packages: Sequence[Package]
    """Installed packages."""
    driver: CudaDriver
    """NVIDIA driver and GPUs."""
    providers: Sequence[Provider]
    """Execution providers of ONNX Runtime."""
    links_cuda: int | None
    """Major version of CUDA that the installed ONNX Runtime links; None: none, or not known."""
    links_tensorrt: int | None
    """The same for TensorRT."""


def judge_parts(packages: Sequence[Package]) -> tuple[Part, ...]:
    """Per part of the install: what is missing, and the commands that install it."""
    names = sorted({part for package in packages for part in package.parts}, key=lambda name: (name != BASE, name))
    return tuple(
        _judge_part(name, [package for package in packages if name in package.parts], packages) for name in names
    )


def _judge_part(name: str, members: Sequence[Package], packages: Sequence[Package]) -> Part:
    missing = [package.name for package in members if package.version is None]
    unfit = [package for package in members if package.is_within_bounds is False]
    if missing == [_CPU_WHEEL] and _version(packages, _GPU_WHEEL):
        return Part(name=name, is_complete=True, remark=f"{_GPU_WHEEL} does its work", commands=())
    if not missing and not unfit:
        return Part(name=name, is_complete=True, remark="", commands=())
    remarks = [f"{', '.join(missing)} missing"] if missing else []
    remarks += [f"{package.name} {package.version} is not {package.bounds}" for package in unfit]
    return Part(name=name, is_complete=False, remark="; ".join(remarks), commands=_install(name, packages))


def find_breakages(evidence: Evidence) -> tuple[Breakage, ...]:
    """Installed packages that cannot work as they are."""
    packages = evidence.packages
    found = (_both_wheels(packages), _other_tensorrt(evidence), _old_driver(evidence), _torch_for_cpu(evidence))
    return tuple(breakage for breakage in found if breakage is not None)


def _both_wheels(packages: Sequence[Package]) -> Breakage | None:
    versions = [_version(packages, wheel) for wheel in (_CPU_WHEEL, _GPU_WHEEL)]
    if None in versions:
        return None
    text = f"{_CPU_WHEEL} {versions[0]} and {_GPU_WHEEL} {versions[1]} are both installed, and overwrite each other"
    return Breakage(text=text, commands=_install("gpu", packages))


def _other_tensorrt(evidence: Evidence) -> Breakage | None:
    """A TensorRT whose library names differ from those that ONNX Runtime loads."""
    packages, linked = evidence.packages, evidence.links_tensorrt
    others = [
        package
        for package in packages
        if re.fullmatch(r"tensorrt(-cu\d+)?(-(libs|bindings))?", normal(package.name))
        and (numbers := version_numbers(package.version or ""))
        and numbers[0] != linked
    ]
    if linked is None or not others:
        return None
    shown = f"{others[0].name} {others[0].version}"
    return Breakage(
        text=f"{shown} does not fit {_GPU_WHEEL} {_version(packages, _GPU_WHEEL)}, which links TensorRT {linked}",
        commands=(
            f"pip uninstall -y {' '.join(package.name for package in others)}",
            *_install("tensorrt", packages),
        ),
    )


def _old_driver(evidence: Evidence) -> Breakage | None:
    offered, linked = version_numbers(evidence.driver.version or ""), evidence.links_cuda
    if linked is None or offered is None or offered[0] >= linked:
        return None
    wheel = f"{_GPU_WHEEL} {_version(evidence.packages, _GPU_WHEEL)}"
    text = f"{wheel} needs CUDA {linked} and the NVIDIA driver has {evidence.driver.version}: update the driver"
    return Breakage(text=text, commands=())


def _torch_for_cpu(evidence: Evidence) -> Breakage | None:
    torch = next((package for package in evidence.packages if package.name == "torch"), None)
    if torch is None or torch.build != "cpu" or not evidence.driver.gpus:
        return None
    text = f"torch {torch.version} is built for the CPU, and `tallformer train` cannot use the GPU"
    if sys.platform != "linux":
        return Breakage(text=f"{text}; https://pytorch.org/get-started/locally has the line to install", commands=())
    return Breakage(text=text, commands=("pip uninstall -y torch", *_install("train", evidence.packages)))


def judge_device(value: str, answer: Answer, evidence: Evidence) -> DeviceVerdict:
    """Judge the attempt to run on a value of `--device`.

    Args:
        value: As the user types it.
        answer: Of the attempt to run on it.
        evidence: That explains why it failed.
    """
    if answer.facts is not None:
        device, reason = answer.facts["device"], _without_line(answer.facts["reason"])
        text = f"runs on {device}" if device == value else f"takes {device}: {reason}"
        return DeviceVerdict(value=value, works=True, runs_on=device, text=text)
    found = _why_nowhere(value, answer, evidence)
    if found is None and value == "tensorrt":
        found = _why_no_engines(answer, evidence)
    elif found is None and value == "onnx-tensorrt":
        found = _why_no_gpu(evidence, part="tensorrt") or _why_no_engines(answer, evidence)
    elif found is None and value.startswith("openvino"):
        found = _why_no_openvino(answer, evidence)
    elif found is None and value not in {"auto", "cpu"}:
        found = _why_no_gpu(evidence, part="gpu")
    text, commands = found or (_without_line(str(answer.problem)), ())
    return DeviceVerdict(value=value, works=False, runs_on=None, text=text, commands=commands)


def _why_nowhere(value: str, answer: Answer, evidence: Evidence) -> _Remedy | None:
    """Why `detect` runs on no device: a missing or damaged package."""
    packages = evidence.packages
    if answer.missing_module:
        module = answer.missing_module.partition(".")[0]
        wants_gpu = _version(packages, _GPU_WHEEL) is not None or (value != "cpu" and bool(evidence.driver.gpus))
        return f"{module} is not installed", _install("gpu" if wants_gpu else "cpu", packages)
    if answer.error not in {"AttributeError", "ImportError"}:
        return None
    wheel = _GPU_WHEEL if _version(packages, _GPU_WHEEL) else _CPU_WHEEL
    version = _version(packages, wheel)
    if version is None or _CPU_WHEEL not in str(answer.problem):
        return None
    repair = f"pip install --force-reinstall --no-deps {wheel}=={version}"
    return f"{wheel} {version} is damaged: {answer.problem}", (repair,)


def _why_no_gpu(evidence: Evidence, *, part: Literal["gpu", "tensorrt"]) -> _Remedy | None:
    """Why ONNX Runtime cannot use the GPU, with or without TensorRT: the first thing to repair."""
    packages = evidence.packages
    providers = {"CUDA"} if part == "gpu" else {"CUDA", "TensorRT"}
    if evidence.driver.problem:
        return evidence.driver.problem, ()
    if both := _both_wheels(packages):
        return both.text, both.commands
    if _version(packages, _GPU_WHEEL) is None:
        return f"{_GPU_WHEEL} is not installed", _install(part, packages)
    if broken := _old_driver(evidence) or (_other_tensorrt(evidence) if part == "tensorrt" else None):
        return broken.text, broken.commands
    for provider in evidence.providers:
        if provider.name in providers and provider.works is False:
            return str(provider.problem), _install(part, packages) if provider.missing_library else ()
    return None


def _why_no_engines(answer: Answer, evidence: Evidence) -> _Remedy | None:
    """Why TensorRT engines cannot run: the first thing to repair."""
    if evidence.driver.problem:
        return evidence.driver.problem, ()
    if f": {install_command('tensorrt')}" in str(answer.problem):
        return _without_line(str(answer.problem)), _install("tensorrt", evidence.packages)
    return None


def _why_no_openvino(answer: Answer, evidence: Evidence) -> _Remedy | None:
    """Why OpenVINO cannot run, if its package is missing; its own messages name the devices."""
    if f": {install_command('openvino')}" in str(answer.problem):
        return "openvino is not installed", _install("openvino", evidence.packages)
    return None


def _install(part: str, packages: Sequence[Package]) -> tuple[str, ...]:
    """Commands that install a part, after removing the other build of ONNX Runtime."""
    install = install_command(part)
    if part not in {"gpu", "tensorrt"} or _version(packages, _CPU_WHEEL) is None:
        return (install,)
    wheels = [wheel for wheel in (_CPU_WHEEL, _GPU_WHEEL) if _version(packages, wheel)]
    return (f"pip uninstall -y {' '.join(wheels)}", install)


def _version(packages: Sequence[Package], name: str) -> str | None:
    return next((package.version for package in packages if normal(package.name) == name), None)


def _without_line(reason: str) -> str:
    """A reason without its install command, which is shown separately."""
    return re.sub(r" \([^()]*\bpip install [^)]*\)|: [^:]*\bpip install .*$", "", reason)
