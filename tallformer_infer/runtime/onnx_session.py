"""Sessions of ONNX Runtime: which execution provider runs a graph, with which options.

Note [silent fall-back]
    ONNX Runtime lists providers that the machine cannot use, and a session that asks for CUDA and does not get it
    runs on the CPU with nothing but a log line. So every session is asked which provider it got.

Note [captured runs]
    A Swin-T encoder is several hundred kernels, and launching each takes the CPU microseconds. CUDA can record the
    launches of one run and replay them with a single call (a CUDA graph), as long as only values change: same memory,
    same shapes. So full batches are captured, one recording per batch size, in buffers that stay allocated. The last
    batch of a video may have any size and occurs once, so it runs without a capture.
    Source: onnxruntime.ai, CUDA Execution Provider, "Using CUDA Graphs"; the run option `gpu_graph_id` in
    onnxruntime_run_options_config_keys.h (1.31): -1 for a run that is neither captured nor replayed.

Note [engines of ONNX Runtime]
    The TensorRT provider builds an engine when a session is created and caches it in a folder, under a name made from
    the names in the graph, not from its weights. So each combination of graph, GPU, batch and version gets its own
    folder, named by the key of our own engines (`tensorrt/keys.py`). The folder is in the user's cache, so an engine
    loaded from there was built there. Timings are shared by all graphs of a GPU and version.
    Source: onnxruntime.ai, TensorRT Execution Provider, "Configurations".
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, assert_never

import onnxruntime as ort

from tallformer_infer.devices import OnnxDevice
from tallformer_infer.errors import BundleError, DeviceError, ExtraError
from tallformer_infer.files import make_folder, user_cache_folder
from tallformer_infer.runtime.tensorrt.keys import BatchProfile, EngineKey, Gpu, Library, load_library, require_gpu

_NO_TENSORRT = "device onnx-tensorrt is not available (--device auto uses what is): {}"

_SILENT = 4

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

GRAPH_ID = "gpu_graph_id"
"""Run option: the recording that a run makes or replays."""
NOT_CAPTURED = -1

_PRECISIONS = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8-static": "trt_int8_enable"}
"""Options that allow TensorRT to compute in each precision."""

ProviderWithOptions = str | tuple[str, dict[str, str]]
"""Provider in ONNX Runtime's form; TensorRT options need `True` and `False`, CUDA options `1` and `0`."""


@dataclass(frozen=True, kw_only=True)
class TensorrtHere:
    """The TensorRT library and GPU of ONNX Runtime's TensorRT provider."""

    library: Library
    """The library that it loads."""
    gpu: Gpu
    """The GPU that it builds for."""


@dataclass(frozen=True, kw_only=True)
class OnnxPlace:
    """Where graphs run, and why there."""

    device: Literal["cpu", "cuda"]
    """Device that holds the memory and runs the graphs."""
    reason: str
    """Reason for the choice, to show to users."""
    tensorrt: TensorrtHere | None = None
    """None: TensorRT is not used."""


def choose_place(wanted: OnnxDevice, open_on_cuda: Callable[[], object]) -> OnnxPlace:
    """Choose the device for the graphs of a bundle.

    Args:
        wanted: The user's choice; `auto` never uses TensorRT, which builds for minutes.
        open_on_cuda: Opens a session on CUDA, to see whether that works; raises DeviceError if it got another provider.

    Raises:
        DeviceError: The device is not available.
    """
    match wanted:
        case "cpu":
            return OnnxPlace(device="cpu", reason="as asked")
        case "cuda":
            if problem := _cuda_problem(open_on_cuda):
                raise DeviceError(f"device cuda is not available: {problem}; use --device cpu or auto")
            return OnnxPlace(device="cuda", reason="as asked")
        case "auto":
            problem = _cuda_problem(open_on_cuda)
            return (
                OnnxPlace(device="cpu", reason=problem)
                if problem
                else OnnxPlace(device="cuda", reason="CUDA works here")
            )
        case "onnx-tensorrt":
            here = find_tensorrt()
            if problem := _cuda_problem(open_on_cuda):
                raise DeviceError(_NO_TENSORRT.format(problem))
            return OnnxPlace(device="cuda", reason=f"as asked, on {here.gpu}", tensorrt=here)
        case _:
            assert_never(wanted)


def find_tensorrt() -> TensorrtHere:
    """Find the GPU and the TensorRT that ONNX Runtime's provider needs; the driver is asked first.

    Raises:
        DeviceError: One of them is missing.
    """
    if TENSORRT not in ort.get_available_providers():
        raise DeviceError(_NO_TENSORRT.format("the installed onnxruntime has no TensorRT provider"))
    try:
        gpu = require_gpu()
        library = load_library("tensorrt")  # which also loads libnvinfer from where pip put it
    except (DeviceError, ExtraError) as error:
        raise DeviceError(_NO_TENSORRT.format(error)) from error
    return TensorrtHere(library=library, gpu=gpu)


def failure_of_cuda(message: str) -> str:
    """CUDA's own message out of ONNX Runtime's longer one; the whole message if it contains none."""
    failure = re.search(r"CUDA failure \d+: [^;]+", message)
    return f"onnxruntime cannot use CUDA: {failure[0].strip()}" if failure else message


def _cuda_problem(open_on_cuda: Callable[[], object]) -> str | None:
    """Why CUDA is unavailable, or None; see Note [silent fall-back]."""
    if CUDA not in ort.get_available_providers():
        return "the installed onnxruntime has no CUDA provider (tallformer doctor)"
    if hasattr(ort, "preload_dlls"):
        with contextlib.redirect_stdout(
            io.StringIO()
        ):  # it prints there what it does not find, see `tallformer doctor`
            ort.preload_dlls()
    try:
        open_on_cuda()
    except BundleError as error:
        return failure_of_cuda(str(error))
    except DeviceError:
        return "onnxruntime has a CUDA provider, but no CUDA device or driver answers"
    return None


def open_session(
    content: bytes,
    *,
    providers: Sequence[ProviderWithOptions],
    threads: int | None = None,
    is_optimised: bool = False,
    save_as: Path | None = None,
) -> ort.InferenceSession:
    """Load a graph.

    Args:
        content: The ONNX file.
        providers: Providers to try, best first; ask the session which it got.
        threads: CPU threads of one call; None uses one per core.
        is_optimised: Whether an earlier session saved the graph.
        save_as: File to save the optimised graph to.

    Raises:
        Exception: ONNX Runtime cannot load it; its error classes have no common base.
    """
    options = ort.SessionOptions()
    options.log_severity_level = _SILENT
    if threads is not None:
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
    levels = ort.GraphOptimizationLevel
    if is_optimised:
        options.graph_optimization_level = levels.ORT_DISABLE_ALL
    elif save_as is not None:
        options.graph_optimization_level = levels.ORT_ENABLE_EXTENDED
        options.optimized_model_filepath = str(save_as)
    # ONNX Runtime's own fallback would print a banner on stdout and open a session on the CPU.
    return ort.InferenceSession(content, options, providers=list(providers), enable_fallback=0)


def capture_id(rows: int, most: int) -> int:
    """Recording of a batch, see Note [captured runs]: its size if it is full, else `NOT_CAPTURED`."""
    return rows if rows == most else NOT_CAPTURED


def cuda_provider(*, captures: bool) -> ProviderWithOptions:
    """CUDA on the first visible GPU.

    Args:
        captures: Whether to capture runs; the session then refuses graphs that run partly elsewhere.
    """
    return CUDA, {"enable_cuda_graph": "1" if captures else "0"}


@dataclass(frozen=True)
class EngineCache:
    """Folders where the TensorRT provider caches engines and timings, see Note [engines of ONNX Runtime]."""

    engines: Path
    """Of one graph, GPU, batch and version."""
    timings: Path
    """Of one GPU and version."""

    def make(self) -> None:
        """Create the folders, private to this user.

        Raises:
            OutputError: They cannot be created.
        """
        for folder in (self.engines, self.timings):
            make_folder(folder, mode=0o700)


def engine_cache(key: EngineKey, *, onnxruntime: str, folder: Path | None = None) -> EngineCache:
    """The folders for a graph; they are not created.

    Args:
        key: As for an engine of our own; its library is the TensorRT that ONNX Runtime loads.
        onnxruntime: Its version, which decides how a graph is cut and what an engine is called.
        folder: Parent folder; None uses the user's cache.
    """
    folder = folder or user_cache_folder() / "onnx-tensorrt"
    made_by = f"{key.library}-{key.library_version}_onnxruntime-{onnxruntime}_{key.platform}"
    engines = (
        folder / f"{key.stem}_onnxruntime-{onnxruntime}" / key.graph_sha256
    )  # the stem has a part of the hash only
    return EngineCache(engines, folder / f"timing_{key.target}_{made_by}")


def tensorrt_provider(
    inputs: Mapping[str, Sequence[int | str]], key: EngineKey, cache: EngineCache, *, captures: bool
) -> ProviderWithOptions:
    """TensorRT inside ONNX Runtime, on the first visible GPU.

    Args:
        inputs: Shapes of the graph's inputs, batch first.
        key: Its precision decides what TensorRT may compute in: a float32 graph never gets float16.
        cache: Where engines and timings are kept.
        captures: Whether to capture runs.
    """
    options: dict[str, object] = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": cache.engines,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": cache.timings,
        "trt_cuda_graph_enable": captures,
        **_profile(inputs, key.batch),
    }
    if key.precision in _PRECISIONS:  # older versions of ONNX Runtime reject unknown options
        options[_PRECISIONS[key.precision]] = True
    return TENSORRT, {name: str(value) for name, value in options.items()}


def _profile(inputs: Mapping[str, Sequence[int | str]], batch: BatchProfile) -> dict[str, str]:
    """Batch sizes of the engine; with all three given, it is built when the session is created, not during a run."""
    sizes = {"min": batch.least, "opt": batch.best, "max": batch.most}
    return {
        f"trt_profile_{which}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, (rows, *shape[1:])))}" for name, shape in inputs.items()
        )
        for which, rows in sizes.items()
    }
