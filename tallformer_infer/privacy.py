"""Libraries that send usage data are told not to, before they are imported.

Note [usage data of libraries]
    What was found by tracing the system calls of each dependency (2026-11): ONNX Runtime 1.32 for Linux makes a device
    id in the user's cache, and asks for its vendor's host about 12 s after the first session; only
    `ORT_DISABLE_TELEMETRY` prevents that, and only before the first import. `import openvino` sends an event by itself,
    through the package `openvino_telemetry`; so does NNCF. Without that package both use a stub. Ray sends nothing
    from a cluster that `ray.init` starts, and `RAY_USAGE_STATS_ENABLED` says so to its child processes as well.
    The others (torch, matplotlib, plotly, PyAV, pyarrow, fsspec, TensorRT for RTX, ...) opened no connection.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any

_SWITCHES = {"ORT_DISABLE_TELEMETRY": "1", "RAY_USAGE_STATS_ENABLED": "0"}
"""Environment variables; child processes inherit them."""


def send_nothing() -> None:
    """Switch usage data off for this process and its children; a switch that the user has set stays as it is."""
    for name, value in _SWITCHES.items():
        os.environ.setdefault(name, value)


def import_without_telemetry(name: str) -> Any:
    """Import OpenVINO or NNCF as if `openvino_telemetry` were not installed.

    Raises:
        ImportError: It is not installed, or cannot be loaded.
    """
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type] # None: importing it is an ImportError
    return importlib.import_module(name)
