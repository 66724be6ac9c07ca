"""What ONNX Runtime's providers are told: options as plain dictionaries, and which runs are captured.

Note [captured runs]
    A Swin-T encoder is several hundred kernels, and the processor takes microseconds to start each. CUDA can record
    what one run starts and repeat it with a single call (a CUDA graph), if nothing but numbers changes: the same
    memory, the same shapes. So full batches are captured, one recording per size of batch, in buffers that stay. What
    is left at the end of a video comes once, in any size, and runs as it is.
    Source: onnxruntime.ai, CUDA Execution Provider, "Using CUDA Graphs"; the run option `gpu_graph_id` in
    onnxruntime_run_options_config_keys.h (1.31): -1 for a run that is neither captured nor repeated.

Note [engines of ONNX Runtime]
    The TensorRT provider builds an engine when a session is made and keeps it in a folder, under a name made from the
    names in the graph, not from its weights. So each graph, GPU, batch and version has a folder of its own, named by
    the key that our own engines have (`tensorrt/keys.py`). The folder is in the user's cache: what is loaded from there
    was made there. What was timed while building serves every graph of a GPU and version.
    Source: onnxruntime.ai, TensorRT Execution Provider, "Configurations".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tallformer_infer.errors import OutputError
from tallformer_infer.files import user_cache_folder
from tallformer_infer.runtime.tensorrt.keys import BatchProfile, EngineKey

CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"
TENSORRT = "TensorrtExecutionProvider"

GRAPH_ID = "gpu_graph_id"
"""Run option: which recording a run makes or repeats."""
NOT_CAPTURED = -1

_PRECISIONS = {"fp16": "trt_fp16_enable", "bf16": "trt_bf16_enable", "int8-static": "trt_int8_enable"}
"""What allows TensorRT to compute in them."""

ProviderWithOptions = str | tuple[str, dict[str, str]]
"""As ONNX Runtime takes it; its TensorRT wants `True` and `False`, its CUDA takes `1` and `0`."""


def capture_id(rows: int, most: int) -> int:
    """Recording of a batch, see Note [captured runs]: its size if it is full, else `NOT_CAPTURED`."""
    return rows if rows == most else NOT_CAPTURED


def cuda_provider(*, captures: bool) -> ProviderWithOptions:
    """CUDA on the first GPU that it shows.

    Args:
        captures: Whether runs are to be captured; a session then refuses graphs of which a part runs elsewhere.
    """
    return CUDA, {"enable_cuda_graph": "1" if captures else "0"}


@dataclass(frozen=True)
class EngineCache:
    """Where the TensorRT provider keeps what it makes, see Note [engines of ONNX Runtime]."""

    engines: Path
    """Of one graph, GPU, batch and version."""
    timings: Path
    """Of one GPU and version."""

    def make(self) -> None:
        """Make the folders, for this user only.

        Raises:
            OutputError: They cannot be made.
        """
        for folder in (self.engines, self.timings):
            try:
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            except OSError as error:
                raise OutputError(f"{folder}: cannot be made: {error.strerror or error}") from error


def engine_cache(key: EngineKey, *, onnxruntime: str, folder: Path | None = None) -> EngineCache:
    """The folders for a graph; nothing is made.

    Args:
        key: As of an engine of our own; its library is the TensorRT that ONNX Runtime loads.
        onnxruntime: Its version, which decides how a graph is cut and what an engine is called.
        folder: Holds all of them; None takes the user's cache.
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
    """TensorRT inside ONNX Runtime, on the first GPU.

    Args:
        inputs: Shapes of the graph's inputs, the batch first.
        key: Its precision decides what TensorRT may compute in: a float32 graph never gets float16.
        cache: Where engines and timings are kept.
        captures: Whether runs are to be captured.
    """
    options: dict[str, object] = {
        "trt_engine_cache_enable": True,
        "trt_engine_cache_path": cache.engines,
        "trt_timing_cache_enable": True,
        "trt_timing_cache_path": cache.timings,
        "trt_cuda_graph_enable": captures,
        **_profile(inputs, key.batch),
    }
    if key.precision in _PRECISIONS:  # a word that an older ONNX Runtime does not know is an error there
        options[_PRECISIONS[key.precision]] = True
    return TENSORRT, {name: str(value) for name, value in options.items()}


def _profile(inputs: Mapping[str, Sequence[int | str]], batch: BatchProfile) -> dict[str, str]:
    """Batches that the engine takes: with all three given it is built when the session is made, not in a run."""
    sizes = {"min": batch.least, "opt": batch.best, "max": batch.most}
    return {
        f"trt_profile_{which}_shapes": ",".join(
            f"{name}:{'x'.join(map(str, (rows, *shape[1:])))}" for name, shape in inputs.items()
        )
        for which, rows in sizes.items()
    }
