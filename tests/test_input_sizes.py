"""Numbers for sizes that a graph leaves open, and models that share their graphs."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper

from tallformer_infer.bundle import load_bundle, reading
from tallformer_infer.bundle.onnx_files import with_input_sizes
from tallformer_infer.bundle.writing import write_calibration
from tallformer_infer.errors import BundleError
from tests.calibration_samples import calibration
from tests.small_bundle import CLASSES, write_bundle


def graph(sizes: list[int | str | None]) -> onnx.ModelProto:
    """The sum of an input over its last axis, and another input of one number."""
    inputs = [
        helper.make_tensor_value_info("pictures", TensorProto.FLOAT, sizes),
        helper.make_tensor_value_info("count", TensorProto.FLOAT, ["batch"]),
    ]
    outputs = [helper.make_tensor_value_info("sums", TensorProto.FLOAT, sizes[:-1])]
    nodes = [helper.make_node("ReduceSum", ["pictures", "last"], ["sums"], keepdims=0)]
    last = helper.make_tensor("last", TensorProto.INT64, [1], [-1])
    body = helper.make_graph(nodes, "sums", inputs, outputs, [last])
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def declared(content: bytes, name: str) -> list[int | str]:
    inputs = {value.name: value for value in onnx.load_from_string(content).graph.input}
    return [dim.dim_param or dim.dim_value for dim in inputs[name].type.tensor_type.shape.dim]


def test_open_sizes_get_numbers_and_nothing_else_changes() -> None:
    model = graph(["batch", "16*h", "16*w", 300])

    found = with_input_sizes(model.SerializeToString(), {"pictures": ("N", 160, 70000, 300)})

    assert declared(found, "pictures") == ["batch", 160, 70000, 300]
    assert declared(found, "count") == ["batch"]
    expected = graph(["batch", 160, 70000, 300])
    del expected.graph.output[0].type.tensor_type.shape.dim[:]
    changed = onnx.load_from_string(found)
    del changed.graph.output[0].type.tensor_type.shape.dim[:]
    assert changed == expected


def test_a_dimension_without_a_name_gets_a_number_too() -> None:
    found = with_input_sizes(graph([None, None]).SerializeToString(), {"pictures": (2, 3)})

    assert declared(found, "pictures") == [2, 3]


def test_a_file_with_numbers_stays_as_it_is() -> None:
    content = graph(["batch", 16, 3]).SerializeToString()

    assert with_input_sizes(content, {"pictures": ("clips", 16, 3), "other": (1,)}) is content
    assert declared(with_input_sizes(content, {"pictures": ("clips", 99, 3)}), "pictures") == ["batch", 16, 3]


def test_another_number_of_dimensions_is_refused() -> None:
    with pytest.raises(BundleError, match=r"input 'pictures' has 3 dimensions, the description says \[1, 2\]"):
        with_input_sizes(graph(["batch", "h", 3]).SerializeToString(), {"pictures": (1, 2)})


def test_a_runtime_gets_the_sizes() -> None:
    content = with_input_sizes(graph(["batch", "h", 3]).SerializeToString(), {"pictures": ("N", 5, 3)})
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])

    assert session.get_inputs()[0].shape == ["batch", 5, 3]
    (sums,) = session.run(None, {"pictures": np.ones((2, 5, 3), np.float32), "count": np.ones(2, np.float32)})
    assert sums.shape == (2, 5)


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two installed models: `base`, and `other` with the graphs of the first and another recipe."""
    folder = tmp_path / "installed"
    folder.mkdir()
    base = write_bundle(folder / "base")
    described = json.loads((base / "bundle.json").read_text())
    (folder / "other").mkdir()
    changed = {**described, "name": "other", "graphs_from": "base"}
    (folder / "other" / "bundle.json").write_text(json.dumps(changed))
    monkeypatch.setattr(reading, "_BUNDLED", folder)
    return folder


def test_a_model_may_have_the_graphs_of_an_installed_one(shared: Path) -> None:
    base, other = load_bundle("base"), load_bundle("other")

    assert other.description.graphs_from == "base"
    assert other.read_graph("encoder") == base.read_graph("encoder")
    (shared / "base" / "encoder.onnx").write_bytes(b"damaged")
    with pytest.raises(BundleError, match=r"base: encoder\.onnx has sha256"):
        other.read_graph("encoder")


def test_a_model_that_is_not_installed_has_no_graphs(shared: Path) -> None:
    place = shared / "other" / "bundle.json"
    place.write_text(place.read_text().replace('"graphs_from": "base"', '"graphs_from": "../base"'))

    with pytest.raises(BundleError, match=r"graphs_from: \.\./base: is not installed; there are base, other"):
        load_bundle("other").read_graph("encoder")


def test_a_copy_of_such_a_model_has_graphs_of_its_own(shared: Path, tmp_path: Path) -> None:
    write_calibration("other", calibration(dict.fromkeys(CLASSES, 0.5)), out=tmp_path / "copy")

    copy = load_bundle(tmp_path / "copy")
    assert copy.description == dataclasses.replace(
        load_bundle("other").description, graphs_from=None, calibration=copy.calibration
    )
    assert copy.read_graph("localizer") == load_bundle("base").read_graph("localizer")
