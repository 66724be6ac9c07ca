"""Whether ONNX Runtime really runs a TensorRT engine."""

from __future__ import annotations

from typing import Any

from tallformer_infer.diagnosis.probes.onnx import run_provider
from tallformer_infer.runtime.onnx_session import TENSORRT, find_tensorrt


def run_provider_with_engine() -> dict[str, Any]:
    """Look for what `--device onnx-tensorrt` needs, as it does, and run the smallest graph.

    Raises:
        DeviceError: Something of it cannot be had, or fails.
    """
    here = find_tensorrt()
    run_provider(TENSORRT)
    reason = f"with engines of {here.library} on {here.gpu}, which ONNX Runtime builds when it first loads a model"
    return {"device": "cuda", "reason": reason, "runtime": "onnxruntime"}
