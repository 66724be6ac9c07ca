"""What runs a bundle's graphs on a device. No torch."""

from __future__ import annotations

from tallformer_infer.runtime.loading import load_runtime
from tallformer_infer.runtime.onnx import OnnxRuntime
from tallformer_infer.runtime.protocol import Cancellation, Device, ProposingRuntime, Runtime
from tallformer_infer.runtime.tensorrt.runtime import TensorRTRuntime

__all__ = ["Cancellation", "Device", "OnnxRuntime", "ProposingRuntime", "Runtime", "TensorRTRuntime", "load_runtime"]
