"""What native libraries answer, each asked in a process of its own."""

from __future__ import annotations

import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from tallformer_infer.devices import DRIVER_LIBRARY
from tallformer_infer.diagnosis.asking import Answer, ask
from tallformer_infer.diagnosis.findings import CudaDriver, Decoding, EngineLibrary, Gpu, HardwareDecoder, Provider

PROVIDERS = {"CPU": "CPUExecutionProvider", "CUDA": "CUDAExecutionProvider", "TensorRT": "TensorrtExecutionProvider"}
"""Providers that this project can use, by the name that people are shown."""

_PROBES = "tallformer_infer.diagnosis.probes"
_ENGINE_LIBRARIES = {"tensorrt": "tensorrt", "tensorrt_rtx": "tensorrt_rtx", "cuda-bindings": "cuda.bindings.runtime"}
_SLOW_S = 180.0
"""TensorRT builds an engine even for the smallest graph, and a driver may compile for a GPU it does not know yet."""
_MISSING = re.compile(r"with error: (\S+\.so[\w.]*): cannot open shared object file")


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
    """Version of ONNX Runtime (None where it cannot be imported), and its providers.

    A provider works if it runs a graph: being listed says only that it was compiled in.
    """
    listed = ask(f"{_PROBES}.onnx", "list_providers", path=path)
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
    answer = ask(f"{_PROBES}.onnx", "run_provider", PROVIDERS[name], path=path, timeout_s=_SLOW_S)
    if answer.facts is not None:
        return Provider(name=name, is_built_in=True, works=True, problem=None)
    missing = _MISSING.search(answer.log)
    problem = f"{missing[1]} is missing" if missing else answer.problem
    library = missing[1] if missing else None
    return Provider(name=name, is_built_in=True, works=False, problem=problem, missing_library=library)


def ask_engine_libraries(path: Sequence[str] | None) -> tuple[EngineLibrary, ...]:
    """Which TensorRT can be imported, and the bindings of CUDA that run its engines."""
    answers = {
        name: ask(f"{_PROBES}.engine_libraries", "import_library", module, path=path)
        for name, module in _ENGINE_LIBRARIES.items()
    }
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
    listed = ask(f"{_PROBES}.decoders", "list_decoders", path=path)
    if listed.facts is None:
        return Decoding(ffmpeg=None, libraries={}, hardware=(), problem=listed.problem)
    kinds: dict[str, list[str]] = listed.facts["kinds"]
    hardware = tuple(pool.map(lambda kind: _ask_hardware(kind, tuple(kinds[kind]), path=path), kinds))
    return Decoding(ffmpeg=listed.facts["ffmpeg"], libraries=listed.facts["libraries"], hardware=hardware, problem=None)


def _ask_hardware(kind: str, codecs: tuple[str, ...], *, path: Sequence[str] | None) -> HardwareDecoder:
    if not codecs:
        return HardwareDecoder(name=kind, codecs=(), opens=None, problem=None)
    answer = ask(f"{_PROBES}.decoders", "open_device", kind, path=path)
    return HardwareDecoder(name=kind, codecs=codecs, opens=answer.facts is not None, problem=answer.problem)


def ask_device(device: str, path: Sequence[str] | None) -> Answer:
    """Whether the default model runs on a device: `device`, `reason` and `runtime`, or the problem.

    On `tensorrt` and `onnx-tensorrt` an engine of the smallest graph is built and run: those of the model need not be
    there, and building them takes minutes.
    """
    if device == "onnx-tensorrt":
        return ask(f"{_PROBES}.onnx_tensorrt", "run_provider_with_engine", path=path, timeout_s=_SLOW_S)
    if device == "tensorrt":
        return ask(f"{_PROBES}.tensorrt", "run_engine", path=path, timeout_s=_SLOW_S)
    return ask(f"{_PROBES}.device", "run_device", device, path=path, timeout_s=_SLOW_S)


def _after_noun(answer: Answer) -> str:
    return f"cannot be asked: {answer.problem}" if answer.error else str(answer.problem)
