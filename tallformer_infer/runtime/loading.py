"""Which runtime runs a bundle on a device."""

from __future__ import annotations

from typing import assert_never, get_args

import onnxruntime as ort

from tallformer_infer.bundle import Bundle
from tallformer_infer.devices import Device, RunPrecision
from tallformer_infer.errors import DeviceError
from tallformer_infer.runtime.choosing import load_fastest
from tallformer_infer.runtime.onnx import OnnxRuntime
from tallformer_infer.runtime.openvino import OpenVinoRuntime
from tallformer_infer.runtime.protocol import Runtime
from tallformer_infer.runtime.providers import CUDA
from tallformer_infer.runtime.tensorrt.runtime import TensorRTRuntime


def load_runtime(
    bundle: Bundle, *, device: Device = "auto", threads: int | None = None, precision: RunPrecision | None = None
) -> Runtime:
    """Load a bundle on a device.

    Args:
        bundle: Checked on reading.
        device: `auto` takes CUDA where it works, else what is the fastest on the processor, see `choosing`; `tensorrt`
            runs the engines of `tallformer engine build`, `onnx-tensorrt` has ONNX Runtime build them while loading.
        threads: CPU threads; None takes one per core.
        precision: Of the encoder; None leaves it to the runtime.

    Raises:
        BundleError: A graph is missing, damaged, or not what the recipe says.
        DeviceError: `device` was asked for and cannot be had, or it has not the precision.
        EngineError: There is no TensorRT engine for this GPU, or one is damaged.
        ExtraError: OpenVINO is asked for and not installed.
        ValueError: `device` or `threads` is not one of those.
    """
    if device not in get_args(Device):
        raise ValueError(f"device={device!r}: expected one of {', '.join(get_args(Device))}")
    match device:
        case "openvino" | "openvino:GPU" | "openvino:NPU":
            return OpenVinoRuntime(bundle, device=device, precision=precision, threads=threads)
        case "auto":
            return _load_automatically(bundle, threads, precision)
        case "tensorrt":
            _check_precision(bundle, device, precision)
            return TensorRTRuntime(bundle)
        case "cpu" | "cuda" | "onnx-tensorrt":
            _check_precision(bundle, device, precision)
            return OnnxRuntime(bundle, device=device, threads=threads)
        case _:
            assert_never(device)


def _load_automatically(bundle: Bundle, threads: int | None, precision: RunPrecision | None) -> Runtime:
    why_no_gpu = "the installed onnxruntime has no CUDA provider (tallformer doctor)"
    if CUDA in ort.get_available_providers():
        on_cuda = OnnxRuntime(bundle, device="auto", threads=threads)
        if on_cuda.device == "cuda":
            _check_precision(bundle, "auto", precision)
            return on_cuda
        why_no_gpu = on_cuda.device_reason
    return load_fastest(bundle, threads=threads, precision=precision, because=why_no_gpu)


def _check_precision(bundle: Bundle, device: Device, precision: RunPrecision | None) -> None:
    own = bundle.graphs["encoder"].precision
    if precision not in (None, own):
        raise DeviceError(
            f"--precision {precision}: device {device} computes in the bundle's precision, {own}; use --device openvino"
        )
