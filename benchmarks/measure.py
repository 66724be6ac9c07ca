"""Time a function, and write and read results as JSON lines."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Callable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from tallformer_infer.devices import processor_features, processor_name
from tallformer_infer.diagnosis.turns import Call, Spread, Timing, clocked, paired, take_turns

__all__ = [
    "RESULTS",
    "Call",
    "Spread",
    "Timing",
    "append_line",
    "children_cpu_s",
    "circumstances",
    "clocked",
    "measure",
    "paired",
    "read_lines",
    "read_results",
    "report",
    "say_round",
    "take_turns",
    "write_line",
]

RESULTS = Path(__file__).parent / "results"
"""Folder of the committed lines."""

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
"""Packages whose versions are part of every line, if installed."""


def measure(
    function: Callable[[], object],
    *,
    repeats: int = 15,
    warmups: int = 2,
    at_most_s: float = 60.0,
    synchronize: Callable[[], object] = lambda: None,
) -> Timing:
    """Time repeated calls of `function`; to compare several ways, use `take_turns`.

    Args:
        function: What to time; its inputs exist already.
        repeats: Timed calls.
        warmups: Untimed calls before them.
        at_most_s: Time budget in seconds; at least three calls are timed.
        synchronize: Waits for a device to finish; called before the clock is read.
    """
    way = clocked(function, synchronize=synchronize)
    for number in range(warmups):
        way(number)
    calls: list[Call] = []
    while len(calls) < repeats and (len(calls) < 3 or sum(call.wall_s for call in calls) < at_most_s):
        calls.append(way(len(calls)))
    return Timing.of(calls)


def report(name: str, timing: Timing, *, device: str = "cpu", **inputs: object) -> None:
    """Print a timing as one JSON line: name, inputs, median and quartiles, commit, machine and versions."""
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
    """Print a result as one JSON line, followed by commit, device, processor and versions."""
    print(json.dumps({**line, **circumstances(device=device)}), flush=True)


def append_line(path: Path, line: Mapping[str, object]) -> None:
    """Append a result to a file of JSON lines, as `write_line` prints it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**line, **circumstances()}) + "\n")


def read_results(name: str) -> list[dict[str, Any]]:
    """The committed lines of one benchmark.

    Raises:
        FileNotFoundError: It has none yet.
    """
    return read_lines(RESULTS / f"{name}.jsonl")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """All lines of a file of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def say_round(what: str, rounds: int, number: int) -> None:
    """Print on stderr which round starts."""
    print(f"{what}: round {number + 1} of {rounds}", file=sys.stderr, flush=True)


def children_cpu_s() -> float:
    """Processor time of finished child processes, in seconds."""
    times = os.times()
    return times.children_user + times.children_system


def circumstances(*, device: str = "cpu") -> dict[str, object]:
    """Where a line was measured: commit, device, processor, versions."""
    return {
        "commit": _commit(),
        "device": device,
        "processor": processor_name(),
        "processor_features": processor_features(),
        "cpus": os.cpu_count(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def processor_of(line: Mapping[str, Any]) -> str:
    """Processor of a line, by name and by AMX: processors with and without it may have the same name."""
    return f"{line['processor']}, AMX" if "AMX bf16" in line.get("processor_features", ()) else str(line["processor"])


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
    """Commit of the checkout, followed by `+` if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--abbrev=12", "--dirty=+"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
