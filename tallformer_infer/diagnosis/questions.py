"""What native libraries answer, each asked in a process of its own."""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tallformer_infer import __version__
from tallformer_infer.devices import DRIVER_LIBRARY
from tallformer_infer.diagnosis.findings import (
    CudaDriver,
    Decoding,
    Diagnosis,
    EngineLibrary,
    Evidence,
    Gpu,
    HardwareDecoder,
    Provider,
    find_breakages,
    judge_device,
    judge_parts,
)
from tallformer_infer.diagnosis.machine import find_packages, library_major, look_at_machine
from tallformer_infer.diagnosis.probes import Answer, ask

_AT_ONCE = 4
"""Questions asked in parallel; each mostly waits for the disk, or uses one core."""
_PROVIDER_FILE = "onnxruntime/capi/libonnxruntime_providers_{}.so"
PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider"}
"""Execution providers that this project can use, by the name shown to people."""

_PROBES = "tallformer_infer.diagnosis.probes"
_ENGINE_LIBRARIES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx", "cuda-bindings": "cuda.bindings.runtime"}
_SLOW_S = 180.0
"""Timeout where TensorRT builds an engine, or a driver compiles for a GPU it does not know yet."""
_MISSING = re.compile(r"with error: (\S+\.so[\w.]*): cannot open shared object file")


def diagnose(devices: Sequence[str], *, path: Sequence[str] | None = None) -> Diagnosis:
    """Look at this machine and this install. Nothing native is loaded into this process.

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
