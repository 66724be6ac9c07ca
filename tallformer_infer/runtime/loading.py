"""Which runtime runs a bundle on a device."""

from __future__ import annotations

from typing import get_args

from tallformer_infer.bundle import Bundle
from tallformer_infer.runtime.onnx import OnnxRuntime
from tallformer_infer.runtime.protocol import Device, Runtime
from tallformer_infer.runtime.tensorrt.runtime import TensorRTRuntime


def load_runtime(bundle: Bundle, *, device: Device = "auto", threads: int | None = None) -> Runtime:
    """Load a bundle on a device.

    Args:
        bundle: Checked on reading.
        device: `tensorrt` runs the engines of `tallformer engine build`; all else is ONNX Runtime, `onnx-tensorrt` with
            engines that it builds while loading.
        threads: CPU threads; None takes one per core.

    Raises:
        BundleError: A graph is missing, damaged, or not what the recipe says.
        DeviceError: `device` was asked for and cannot be had.
        EngineError: There is no TensorRT engine for this GPU, or one is damaged.
        ValueError: `device` or `threads` is not one of those.
    """
    if device not in get_args(Device):
        raise ValueError(f"device={device!r}: expected one of {', '.join(get_args(Device))}")
    if device == "tensorrt":
        return TensorRTRuntime(bundle)
    return OnnxRuntime(bundle, device=device, threads=threads)
