"""What is said where TensorRT cannot be had, each in a process of its own: some versions end it without a driver."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tallformer_infer.installing import install_command
from tests.driver_stub import NO_DEVICE, compile_driver, has_driver, path_without

needs_cc = pytest.mark.skipif(shutil.which("cc") is None, reason="needs a C compiler")
needs_rtx = pytest.mark.skipif(importlib.util.find_spec("tensorrt_rtx") is None, reason="needs tensorrt_rtx")
_PROGRAM = "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from tallformer_infer.cli import run; "
_TENSORRT = ("tensorrt", "tensorrt_rtx")
_REFUSED = "tallformer: error: device tensorrt is not available (--device auto uses what is): "


def run(
    arguments: list[str], cache: Path, *, path: list[str] | None = None, driver: Path | None = None
) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "LD_LIBRARY_PATH": str(driver or "")}
    command = [sys.executable, "-P", "-c", f"{_PROGRAM}sys.exit(run(sys.argv[2:]))", json.dumps(path or sys.path)]
    return subprocess.run(
        [*command, *arguments], capture_output=True, encoding="utf-8", env=environment, timeout=120, check=False
    )


def detect_line(root: Path, cache: Path, **where: object) -> str:
    """The one line that `detect --device tensorrt` ends with."""
    example = str(root / "docs/example/example.mp4")
    done = run(["detect", example, "--model", "demo", "--device", "tensorrt"], cache, **where)  # type: ignore[arg-type]
    assert done.returncode == 1, done.stderr
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    return line


@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver here")
def test_without_a_driver_detect_says_so(root: Path, tmp_path: Path) -> None:
    assert detect_line(root, tmp_path).startswith(f"{_REFUSED}no NVIDIA driver: libcuda.so.1: ")


@needs_cc
def test_without_a_gpu_detect_says_so(root: Path, tmp_path: Path) -> None:
    driver = compile_driver(tmp_path / "driver", init_code=NO_DEVICE)

    line = detect_line(root, tmp_path, driver=driver)

    assert line.startswith(f"{_REFUSED}the NVIDIA driver gives CUDA_ERROR_NO_DEVICE")


@needs_cc
def test_without_tensorrt_detect_says_how_to_install_it(root: Path, tmp_path: Path) -> None:
    path = path_without(tmp_path / "site", *_TENSORRT)

    line = detect_line(root, tmp_path, path=path, driver=compile_driver(tmp_path / "driver"))

    assert line == f"{_REFUSED}neither tensorrt nor tensorrt_rtx is installed: {install_command('tensorrt')}"


@needs_cc
def test_tensorrt_that_cannot_be_imported_is_told_from_one_that_is_missing(root: Path, tmp_path: Path) -> None:
    path = path_without(tmp_path / "site", *_TENSORRT)
    (tmp_path / "tensorrt.py").write_text("raise ImportError('libnvinfer.so.10: cannot open shared object file')\n")

    line = detect_line(root, tmp_path, path=[str(tmp_path), *path], driver=compile_driver(tmp_path / "driver"))

    assert line == (
        f"{_REFUSED}tensorrt is installed and cannot be imported: libnvinfer.so.10: cannot open shared object file"
    )


@needs_cc
@needs_rtx
def test_tensorrt_rtx_is_refused_on_a_gpu_of_data_centres(root: Path, tmp_path: Path) -> None:
    path = path_without(tmp_path / "site", "tensorrt")

    line = detect_line(root, tmp_path, path=path, driver=compile_driver(tmp_path / "driver", capability=(9, 0)))

    assert "does not run on A (sm90), only on sm75, " in line
    assert line.endswith(install_command("tensorrt"))


@needs_cc
@needs_rtx
def test_without_engines_detect_says_how_to_build_them(root: Path, tmp_path: Path) -> None:
    path = path_without(tmp_path / "site", "tensorrt")

    line = detect_line(root, tmp_path, path=path, driver=compile_driver(tmp_path / "driver", capability=(8, 6)))

    assert "no engine of graph encoder for A (sm86) and tensorrt_rtx " in line
    assert line.endswith(": tallformer engine build demo")


@needs_cc
@needs_rtx
def test_without_the_cuda_bindings_detect_says_how_to_install_them(root: Path, tmp_path: Path) -> None:
    path = path_without(tmp_path / "site", "tensorrt", "cuda", "cuda_bindings")
    driver = compile_driver(tmp_path / "driver", capability=(8, 6))
    assert run(["engine", "build", "demo", "-q"], tmp_path, path=path, driver=driver).returncode == 0

    line = detect_line(root, tmp_path, path=path, driver=driver)

    assert line == f"{_REFUSED}cuda-bindings is not installed: {install_command('tensorrt')}"


@needs_cc
@needs_rtx
@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="needs cuda-bindings")
def test_cuda_that_does_not_work_is_said_in_one_line(root: Path, tmp_path: Path) -> None:
    """The driver of these tests answers who is there, and nothing else: as one that is too old."""
    path = path_without(tmp_path / "site", "tensorrt")
    driver = compile_driver(tmp_path / "driver", capability=(8, 6))
    assert run(["engine", "build", "demo", "-q"], tmp_path, path=path, driver=driver).returncode == 0

    assert detect_line(root, tmp_path, path=path, driver=driver).startswith(f"{_REFUSED}cudaStreamCreateWithFlags: ")


@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver here")
def test_full_tensorrt_is_not_touched_without_a_driver(tmp_path: Path) -> None:
    """A module that ends the process when an object of it is made, as version 11 does."""
    (tmp_path / "tensorrt.py").write_text(
        "import os\n__version__ = '11.4.0'\nclass ILogger: pass\nBuilder = Runtime = lambda *_: os.abort()\n"
    )

    done = run(["engine", "build"], tmp_path, path=[str(tmp_path), *sys.path])

    assert done.returncode == 1
    assert done.stderr.startswith(
        "tallformer: error: tensorrt builds only on the GPU that an engine is for: no NVIDIA driver: libcuda.so.1: "
    )


@pytest.mark.skipif(has_driver(), reason="there is an NVIDIA driver here")
@needs_rtx
def test_export_with_engines_is_refused_before_it_begins_where_none_can_be_built(tmp_path: Path) -> None:
    done = run(["export", "tiny", "--random-weights", "0", "--out", str(tmp_path / "out"), "--engine"], tmp_path)

    assert done.returncode == 1
    assert "there is no GPU here to build for" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@needs_cc
@needs_rtx
def test_export_builds_engines_for_the_gpu_that_is_here(tmp_path: Path) -> None:
    path = path_without(tmp_path / "site", "tensorrt")
    driver = compile_driver(tmp_path / "driver", capability=(8, 9))
    arguments = ["export", "tiny", "--random-weights", "0", "--out", str(tmp_path / "out"), "--engine", "-q"]

    done = run(arguments, tmp_path, path=path, driver=driver)

    assert done.returncode == 0, done.stderr
    names = sorted(file.name for file in (tmp_path / "out" / "engines").glob("*_sm89_*.engine"))
    assert [name.partition("_")[0] for name in names] == ["encoder", "localizer"]
