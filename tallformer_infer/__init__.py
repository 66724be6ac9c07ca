"""What happens when in long video: `Detector.load().detect("video.mp4")`.

Nothing heavy is imported before it is used. Importing this package has one effect: it switches telemetry off.

Note [usage data of libraries]
    What was found by tracing the system calls of each dependency (2026-11): ONNX Runtime 1.32 for Linux makes a device
    id in the user's cache, and contacts its vendor's host about 12 s after the first session; only
    `ORT_DISABLE_TELEMETRY` prevents that, and only before the first import. `import openvino` sends an event by itself,
    through the package `openvino_telemetry`, and so does NNCF; `runtime.openvino` hides that package. Ray sends nothing
    from a cluster that `ray.init` starts, and `RAY_USAGE_STATS_ENABLED` says so to its child processes as well.
    The others (torch, matplotlib, plotly, PyAV, pyarrow, fsspec, TensorRT for RTX, ...) opened no connection.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tallformer_infer.bundle import Bundle
    from tallformer_infer.errors import TallformerError
    from tallformer_infer.pipeline import Detector, Progress
    from tallformer_infer.structures import Action, Result

__version__ = "0.2.0"

for _variable, _off in (("ORT_DISABLE_TELEMETRY", "1"), ("RAY_USAGE_STATS_ENABLED", "0")):
    os.environ.setdefault(_variable, _off)  # what the user has set stays; child processes inherit it

__all__ = ["Action", "Bundle", "Detector", "Progress", "Result", "TallformerError", "__version__"]

_HOMES = {
    "Action": "tallformer_infer.structures",
    "Bundle": "tallformer_infer.bundle",
    "Detector": "tallformer_infer.pipeline",
    "Progress": "tallformer_infer.pipeline",
    "Result": "tallformer_infer.structures",
    "TallformerError": "tallformer_infer.errors",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for."""
    if name not in _HOMES:
        raise AttributeError(f"module 'tallformer_infer' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
