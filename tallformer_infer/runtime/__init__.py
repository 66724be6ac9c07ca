"""What runs a bundle's graphs on a device. No torch."""

from __future__ import annotations

from tallformer_infer.runtime.onnx import OnnxRuntime
from tallformer_infer.runtime.protocol import Cancellation, Device, ProposingRuntime, Runtime

__all__ = ["Cancellation", "Device", "OnnxRuntime", "ProposingRuntime", "Runtime"]
