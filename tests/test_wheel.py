"""What the wheel installs: three packages and nothing else."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def names(root: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=root, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist()


def test_the_wheel_has_three_packages_at_its_top(names: list[str]) -> None:
    tops = {name.split("/")[0] for name in names}

    assert {top for top in tops if not top.endswith(".dist-info")} == {
        "tallformer_infer",
        "tallformer_training",
        "tallformer_export",
    }


def test_the_wheel_has_what_is_not_python(names: list[str]) -> None:
    for package in ("tallformer_infer", "tallformer_training", "tallformer_export"):
        assert f"{package}/py.typed" in names
    assert "tallformer_infer/results/actions.schema.json" in names
    for file in ("page.html.j2", "page.css", "chart.js", "index.html.j2", "index.css", "index.js"):
        assert f"tallformer_infer/report/assets/{file}" in names
    for file in ("bundle.json", "encoder.onnx", "localizer.onnx", "suppress.onnx"):
        assert f"tallformer_infer/bundles/demo/{file}" in names
    for file in ("kinetics400/encoder.onnx", "kinetics400/bundle.json", "kinetics400-fast/bundle.json"):
        assert f"tallformer_infer/bundles/{file}" in names
    for file in ("bundle.json", "encoder.onnx", "localizer.onnx"):  # its suppression has no graph
        assert f"tallformer_infer/bundles/anet-demo/{file}" in names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)
