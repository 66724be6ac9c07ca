"""Which libraries for TensorRT engines can be imported; needs nothing else to be installed."""

from __future__ import annotations

import importlib
import re
from typing import Any


def import_library(name: str) -> dict[str, Any]:
    """Import `tensorrt`, `tensorrt_rtx` or `cuda.bindings.runtime`.

    Returns:
        `version`, and `builds_for`: GPUs that it can build for without having them, such as `sm86`.
    """
    module = importlib.import_module(name)
    names = getattr(getattr(module, "ComputeCapability", None), "__members__", ()) if name == "tensorrt_rtx" else ()
    version = (
        module.__version__ if name.startswith("tensorrt") else importlib.import_module("cuda.bindings").__version__
    )
    return {"version": version, "builds_for": [text.lower() for text in names if re.fullmatch(r"SM\d+", text)]}
