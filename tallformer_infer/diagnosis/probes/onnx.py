"""Which of its execution providers ONNX Runtime was built with, and whether one really runs a graph."""

from __future__ import annotations

import contextlib
import importlib
from typing import Any

import numpy as np
import onnxruntime as ort

from tallformer_infer.diagnosis.smallest_graph import INPUTS, OUTPUT, SIDE, smallest_graph
from tallformer_infer.errors import DeviceError

_CPU = "CPUExecutionProvider"
_TENSORRT = "TensorrtExecutionProvider"


def list_providers() -> dict[str, Any]:
    """Version of ONNX Runtime, and the providers it was built with."""
    return {"version": ort.__version__, "built": ort.get_available_providers()}


def run_provider(name: str) -> dict[str, Any]:
    """Run the smallest graph on one provider and no other, and check its numbers.

    Without the two options here ONNX Runtime goes over to the CPU with a log line.

    Raises:
        DeviceError: The graph ran elsewhere, or gave wrong numbers.
    """
    if name != _CPU and hasattr(ort, "preload_dlls"):
        ort.preload_dlls()
    if name == _TENSORRT:
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt")  # loads libnvinfer from where pip put it
    options = ort.SessionOptions()
    if name != _CPU:
        options.add_session_config_entry("session.disable_cpu_ep_fallback", "1")
    session = ort.InferenceSession(smallest_graph(), options, providers=[name], enable_fallback=0)
    used = session.get_providers()
    if name not in used:
        raise DeviceError(f"asked for {name}, got {', '.join(used)}")
    left, right = (np.arange(SIDE * SIDE, dtype=np.float32).reshape(SIDE, SIDE) % 5 - shift for shift in (2, 3))
    (found,) = session.run([OUTPUT], dict(zip(INPUTS, (left, right), strict=True)))
    if not np.array_equal(found, np.maximum(left @ right, 0)):
        raise DeviceError(f"{name} gives wrong numbers")
    return {"used": used}
