"""A diagnosis: checks of native libraries, conclusions, and commands that repair problems."""

from __future__ import annotations

import platform
import re
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from tallformer_infer import __version__
from tallformer_infer.devices import DRIVER_LIBRARY
from tallformer_infer.diagnosis.machine import (
    Machine,
    Package,
    find_packages,
    library_major,
    look_at_machine,
    normal,
    version_numbers,
)
from tallformer_infer.diagnosis.probes import Answer, ask
from tallformer_infer.installing import BASE, install_command

_AT_ONCE = 4
"""Maximum number of parallel probes; each mostly waits for the disk, or uses one core."""
_PROVIDER_FILE = "onnxruntime/capi/libonnxruntime_providers_{}.so"
PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider"}
"""Execution providers that this project can use, by the name shown to people."""

_PROBES = "tallformer_infer.diagnosis.probes"
_ENGINE_LIBRARIES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx", "cuda-bindings": "cuda.bindings.runtime"}
_SLOW_S = 180.0
"""Timeout where TensorRT builds an engine, or a driver compiles for a GPU it does not know yet."""
_MISSING = re.compile(r"with error: (\S+\.so[\w.]*): cannot open shared object file")


def diagnose(devices: Sequence[str], *, path: Sequence[str] | None = None) -> Diagnosis:
    """Diagnose this machine and install. No native library is loaded into this process.

    Args:
        devices: Values of `--device` to try.
        path: Folders where packages are looked for; None: `sys.path`.
    """
    packages = find_packages(path)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        asked_driver = pool.submit(ask_driver)
        attempts = {value: pool.submit(ask_device, value, path) for value in devices}
        asked_libraries = pool.submit(ask_engine_libraries, path)
        onnxruntime, providers = ask_providers(path, pool)
        decoding = ask_decoding(path, pool)
        driver, engine_libraries = asked_driver.result(), asked_libraries.result()
        answers = {value: attempt.result() for value, attempt in attempts.items()}
    evidence = Evidence(
        packages=packages,
        driver=driver,
        providers=providers,
        links_cuda=library_major("onnxruntime-gpu", _PROVIDER_FILE.format("cuda"), r"libcublas\.so\.(\d+)", path=path),
        links_tensorrt=library_major(
            "onnxruntime-gpu", _PROVIDER_FILE.format("tensorrt"), r"libnvinfer\.so\.(\d+)", path=path
        ),
    )
    return Diagnosis(
        python=platform.python_version(),
        platform=f"{platform.system()} {platform.machine()}",
        version=__version__,
        machine=look_at_machine(),
        packages=packages,
        parts=judge_parts(packages),
        driver=driver,
        onnxruntime=onnxruntime,
        providers=providers,
        engine_libraries=engine_libraries,
        decoding=decoding,
        breakages=find_breakages(evidence),
        devices=tuple(judge_device(value, answer, evidence) for value, answer in answers.items()),
    )


def ask_driver(*, library: str = DRIVER_LIBRARY) -> CudaDriver:
    """The NVIDIA driver and its GPUs.

    Args:
        library: Name or path of the driver's library.
    """
    answer = ask("tallformer_infer.devices", "read_driver", library)
    if answer.facts is None:
        return CudaDriver(version=None, gpus=(), problem=f"the NVIDIA driver {_after_noun(answer)}")
    gpus = tuple(Gpu(**gpu) for gpu in answer.facts["gpus"])
    return CudaDriver(version=answer.facts["version"], gpus=gpus, problem=answer.facts["problem"])


def ask_providers(path: Sequence[str] | None, pool: ThreadPoolExecutor) -> tuple[str | None, tuple[Provider, ...]]:
    """Version of ONNX Runtime (None if it cannot be imported), and its providers.

    A provider works if it runs a graph; a provider that is listed was only compiled in.
    """
    listed = ask(_PROBES, "list_providers", path=path)
    if listed.facts is None:
        missing = (Provider(name=name, is_built_in=False, works=None, problem=listed.problem) for name in PROVIDERS)
        return None, tuple(missing)
    built = listed.facts["built"]
    known = pool.map(lambda name: _ask_provider(name, built=built, path=path), PROVIDERS)
    others = (
        Provider(name=name, is_built_in=True, works=None, problem=None)
        for name in built
        if name not in PROVIDERS.values()
    )
    return listed.facts["version"], (*known, *others)


def _ask_provider(name: str, *, built: Sequence[str], path: Sequence[str] | None) -> Provider:
    if PROVIDERS[name] not in built:
        return Provider(name=name, is_built_in=False, works=None, problem="not in this build of onnxruntime")
    answer = ask(_PROBES, "run_provider", PROVIDERS[name], path=path, timeout_s=_SLOW_S)
    if answer.facts is not None:
        return Provider(name=name, is_built_in=True, works=True, problem=None)
    missing = _MISSING.search(answer.log)
    problem = f"{missing[1]} is missing" if missing else answer.problem
    library = missing[1] if missing else None
    return Provider(name=name, is_built_in=True, works=False, problem=problem, missing_library=library)


def ask_engine_libraries(path: Sequence[str] | None) -> tuple[EngineLibrary, ...]:
    """TensorRT libraries, and the CUDA bindings that run their engines."""
    answers = {name: ask(_PROBES, "import_library", module, path=path) for name, module in _ENGINE_LIBRARIES.items()}
    return tuple(
        EngineLibrary(
            name=name,
            version=None if answer.facts is None else answer.facts["version"],
            problem="not installed" if answer.missing_module else answer.problem,
            builds_for=() if answer.facts is None else tuple(answer.facts["builds_for"]),
        )
        for name, answer in answers.items()
    )


def ask_decoding(path: Sequence[str] | None, pool: ThreadPoolExecutor) -> Decoding:
    """FFmpeg's libraries, and which kinds of hardware decoders can be opened."""
    listed = ask(_PROBES, "list_decoders", path=path)
    if listed.facts is None:
        return Decoding(ffmpeg=None, libraries={}, hardware=(), problem=listed.problem)
    kinds: dict[str, list[str]] = listed.facts["kinds"]
    usable = listed.facts["usable"]
    hardware = tuple(
        pool.map(lambda kind: _ask_hardware(kind, tuple(kinds[kind]), is_usable=kind in usable, path=path), kinds)
    )
    return Decoding(ffmpeg=listed.facts["ffmpeg"], libraries=listed.facts["libraries"], hardware=hardware, problem=None)


def _ask_hardware(
    kind: str, codecs: tuple[str, ...], *, is_usable: bool, path: Sequence[str] | None
) -> HardwareDecoder:
    if not codecs:
        return HardwareDecoder(name=kind, codecs=(), opens=None, problem=None, is_usable=is_usable)
    answer = ask(_PROBES, "open_decoder", kind, path=path)
    opens = answer.facts is not None
    return HardwareDecoder(name=kind, codecs=codecs, opens=opens, problem=answer.problem, is_usable=is_usable)


def ask_device(device: str, path: Sequence[str] | None) -> Answer:
    """Whether the default model runs on a device: `device`, `reason` and `runtime`, or the problem.

    On `tensorrt` and `onnx-tensorrt` an engine of the smallest graph is built and run: engines of the model may not
    exist, and take minutes to build.
    """
    if device == "onnx-tensorrt":
        return ask(_PROBES, "run_provider_with_engine", path=path, timeout_s=_SLOW_S)
    if device == "tensorrt":
        return ask(_PROBES, "run_engine", path=path, timeout_s=_SLOW_S)
    return ask(_PROBES, "run_device", device, path=path, timeout_s=_SLOW_S)


def _after_noun(answer: Answer) -> str:
    return f"cannot be asked: {answer.problem}" if answer.error else str(answer.problem)


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
