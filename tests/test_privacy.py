"""Nothing leaves the machine that the user did not name."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SECONDS_UNTIL_ONNX_RUNTIME_SENDS = 12
SWITCHES = ("ORT_DISABLE_TELEMETRY", "RAY_USAGE_STATS_ENABLED")

DETECT = """
import sys, time
from tallformer_infer import Detector
result = Detector.load("demo", device=sys.argv[3]).detect(sys.argv[1], threshold=0.3)
assert result.actions
time.sleep(float(sys.argv[2]))
"""


def run(code: str, home: Path, *arguments: object, before: tuple[str, ...] = (), **variables: str) -> str:
    """Run Python code as a user whose home is empty; no switch is set."""
    inherited = {name: value for name, value in os.environ.items() if name not in SWITCHES and name != "CI"}
    folders = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "XDG_CONFIG_HOME": str(home / ".config")}
    command = [*before, sys.executable, "-c", code, *map(str, arguments)]
    environment = {**inherited, **folders, **variables}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def traced(code: str, home: Path, *arguments: object) -> list[str]:
    """System calls of the code and its children that reach for another machine, or for the address of one."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace: apt-get install strace")
    calls = home / "calls"
    run(code, home, *arguments, before=("strace", "-f", "-qq", "-e", "trace=network", "-o", str(calls)))
    return [call for call in calls.read_text().splitlines() if re.search(r"AF_INET6?\b|nscd", call)]


def folders_of(home: Path) -> set[str]:
    """Folders of vendors that were made in a home."""
    return {
        str(path.relative_to(home)) for place in (home, home / ".cache", home / ".config") for path in place.glob("*")
    }


@pytest.mark.parametrize(
    "package",
    ["tallformer_infer", "tallformer_training", "tallformer_export", "tallformer_export.precision", "benchmarks"],
)
def test_importing_any_of_our_packages_switches_usage_data_off(package: str, tmp_path: Path, root: Path) -> None:
    code = f"import os, sys; sys.path.append(sys.argv[1]); import {package}; print(*map(os.environ.get, sys.argv[2:]))"

    assert run(code, tmp_path, root, *SWITCHES).split() == ["1", "0"]


def test_a_switch_that_the_user_has_set_stays(tmp_path: Path) -> None:
    code = "import os, tallformer_infer; print(os.environ['ORT_DISABLE_TELEMETRY'])"

    assert run(code, tmp_path, ORT_DISABLE_TELEMETRY="0").split() == ["0"]


def test_the_trace_sees_a_look_up(tmp_path: Path) -> None:
    """What the tests below rely on."""
    code = "import socket, contextlib\nwith contextlib.suppress(OSError): socket.getaddrinfo('nobody.invalid', 443)"

    assert traced(code, tmp_path)


def test_detection_leaves_no_folder_of_a_vendor_and_looks_nobody_up(tmp_path: Path, root: Path) -> None:
    example = root / "docs/example/example.mp4"

    calls = traced(DETECT, tmp_path, example, SECONDS_UNTIL_ONNX_RUNTIME_SENDS + 2, "cpu")

    assert calls == []
    assert folders_of(tmp_path) <= {"calls", ".cache", ".cache/tallformer"}


def test_openvino_makes_no_folder_and_looks_nobody_up(tmp_path: Path, root: Path) -> None:
    pytest.importorskip("openvino", reason="needs the extra openvino")

    calls = traced(DETECT, tmp_path, root / "docs/example/example.mp4", 1, "openvino")

    assert calls == []
    assert folders_of(tmp_path) <= {"calls", ".cache", ".cache/tallformer"}


def test_workers_of_an_archive_look_nobody_up_either(tmp_path: Path, root: Path) -> None:
    code = "import sys; from tallformer_infer.cli import main; sys.argv[0] = 'tallformer'; main()"
    out = tmp_path / "labels"

    calls = traced(
        code, tmp_path, "label", root / "docs/example/example.mp4", "--model", "demo", "--out", out, "--workers", 2
    )

    assert calls == []
    assert folders_of(tmp_path) <= {"calls", "labels", ".cache", ".cache/tallformer"}


def test_exporting_libraries_look_nobody_up(tmp_path: Path) -> None:
    code = (
        "import tallformer_export, tallformer_training\n"
        "import torch, onnxscript, safetensors.torch, matplotlib.pyplot, plotly.graph_objects, pyarrow.parquet\n"
        "import fsspec, onnxruntime.quantization, av, opentimelineio\n"
    )

    assert traced(code, tmp_path) == []
