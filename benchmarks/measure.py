"""Time a function honestly and report it as one JSON line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import numpy as np

REPORTED_PACKAGES = (
    "tallformer",
    "numpy",
    "onnxruntime",
    "onnxruntime-gpu",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "av",
    "torch",
    "opencv-contrib-python-headless",
)
"""Whose versions go into every line, where they are installed."""


@dataclass(frozen=True)
class Timing:
    """How long each of several calls took, after a warm-up."""

    wall_s: tuple[float, ...]
    """Wall time per call, in seconds."""
    cpu_s: tuple[float, ...]
    """Processor time per call over all threads, in seconds; shows where others disturbed the wall time."""


def measure(
    function: Callable[[], object],
    *,
    repeats: int = 15,
    warmups: int = 2,
    at_most_s: float = 60.0,
    synchronize: Callable[[], object] = lambda: None,
) -> Timing:
    """Call `function` again and again and time each call.

    Args:
        function: What is measured; its inputs are made beforehand.
        repeats: Calls to time.
        warmups: Calls before that, which are not counted.
        at_most_s: No further timed call is begun after so many seconds; at least three are made.
        synchronize: Waits for a device to finish; called before every look at the clock.
    """
    for _ in range(warmups):
        function()
    synchronize()
    wall_s: list[float] = []
    cpu_s: list[float] = []
    while len(wall_s) < repeats and (len(wall_s) < 3 or sum(wall_s) < at_most_s):
        wall, cpu = time.perf_counter(), time.process_time()
        function()
        synchronize()
        wall_s.append(time.perf_counter() - wall)
        cpu_s.append(time.process_time() - cpu)
    return Timing(tuple(wall_s), tuple(cpu_s))


def report(name: str, timing: Timing, *, device: str = "cpu", **inputs: object) -> None:
    """Print one JSON line: what was measured, on what, the median and the quartiles, and with which versions."""
    low, median, high = np.percentile(timing.wall_s, [25, 50, 75])
    line = {
        "name": name,
        "inputs": inputs,
        "median_s": _rounded(median),
        "quartiles_s": [_rounded(low), _rounded(high)],
        "median_cpu_s": _rounded(np.median(timing.cpu_s)),
        "repeats": len(timing.wall_s),
        **circumstances(device=device),
    }
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


def circumstances(*, device: str = "cpu") -> dict[str, object]:
    """What every line says of where it was measured: commit, device, processor, versions."""
    return {
        "commit": _commit(),
        "device": device,
        "processor": _processor(),
        "cpus": os.cpu_count(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _rounded(seconds: float | np.floating) -> float:
    return float(f"{seconds:.4g}")


def _versions() -> dict[str, str]:
    versions = {}
    for package in REPORTED_PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return versions


def _commit() -> str | None:
    """Hash of the checkout, with `+` where files differ from it; None outside of one."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _processor() -> str:
    """Name of the processor, where the system tells it."""
    described = Path("/proc/cpuinfo")
    if described.is_file():
        for line in described.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
