"""Runtimes that run a bundle's graphs on a device, without torch."""

from __future__ import annotations

from tallformer_infer.devices import Device, OpenVinoDevice, RunPrecision, RunsOn
from tallformer_infer.runtime.choosing import load_runtime
from tallformer_infer.runtime.onnx import OnnxRuntime
from tallformer_infer.runtime.openvino import OpenVinoRuntime
from tallformer_infer.runtime.protocol import Cancellation, ProposingRuntime, Runtime, WindowBatch
from tallformer_infer.runtime.tensorrt.running import TensorRTRuntime

__all__ = [
    "Cancellation",
    "Device",
    "OnnxRuntime",
    "OpenVinoDevice",
    "OpenVinoRuntime",
    "ProposingRuntime",
    "RunPrecision",
    "RunsOn",
    "Runtime",
    "TensorRTRuntime",
    "WindowBatch",
    "load_runtime",
]
