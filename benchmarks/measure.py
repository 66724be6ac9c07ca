"""Time a function honestly and report it as one JSON line."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path

import numpy as np

from tallformer_infer.devices import processor_name
from tallformer_infer.diagnosis.turns import Call, Spread, Timing, clocked, paired, take_turns

__all__ = [
    "Call",
    "Spread",
    "Timing",
    "children_cpu_s",
    "circumstances",
    "clocked",
    "measure",
    "paired",
    "report",
    "say_round",
    "take_turns",
    "write_line",
]

REPORTED_PACKAGES = (
    "tallformer",
    "numpy",
    "onnxruntime",
    "openvino",
    "onnxruntime-gpu",
    "tensorrt-cu13",
    "tensorrt-rtx",
    "av",
    "torch",
    "opencv-contrib-python-headless",
)
"""Whose versions go into every line, where they are installed."""


def measure(
    function: Callable[[], object],
    *,
    repeats: int = 15,
    warmups: int = 2,
    at_most_s: float = 60.0,
    synchronize: Callable[[], object] = lambda: None,
) -> Timing:
    """Call `function` again and again and time each call; ways that are compared take turns (`take_turns`).

    Args:
        function: What is measured; its inputs are made beforehand.
        repeats: Calls to time.
        warmups: Calls before that, which are not counted.
        at_most_s: No further timed call is begun after so many seconds; at least three are made.
        synchronize: Waits for a device to finish; called before every look at the clock.
    """
    way = clocked(function, synchronize=synchronize)
    for number in range(warmups):
        way(number)
    calls: list[Call] = []
    while len(calls) < repeats and (len(calls) < 3 or sum(call.wall_s for call in calls) < at_most_s):
        calls.append(way(len(calls)))
    return Timing.of(calls)


def report(name: str, timing: Timing, *, device: str = "cpu", **inputs: object) -> None:
    """Print one JSON line: what was measured, on what, the median and the quartiles, and with which versions."""
    wall = timing.spread
    line = {
        "name": name,
        "inputs": inputs,
        "median_s": _rounded(wall.median),
        "quartiles_s": [_rounded(wall.low), _rounded(wall.high)],
        "median_cpu_s": _rounded(np.median(timing.cpu_s)),
        "repeats": len(timing.wall_s),
    }
    write_line(line, device=device)


def write_line(line: Mapping[str, object], *, device: str = "cpu") -> None:
    """Print a result as one JSON line, with commit, device, processor and versions behind it."""
    print(json.dumps({**line, **circumstances(device=device)}), flush=True)


def say_round(what: str, rounds: int, number: int) -> None:
    """Say on stderr which round begins."""
    print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)


def children_cpu_s() -> float:
    """Processor time of the processes that this one has waited for, in seconds."""
    times = os.times()
    return times.children_user + times.children_system


def circumstances(*, device: str = "cpu") -> dict[str, object]:
    """What every line says of where it was measured: commit, device, processor, versions."""
    return {
        "commit": _commit(),
        "device": device,
        "processor": processor_name(),
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
