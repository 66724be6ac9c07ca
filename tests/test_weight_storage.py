"""Weights stored in fewer bytes, and encoders for pictures of any size."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, numpy_helper

from tallformer_export.exporting import ExportOptions, export_random
from tallformer_export.graphs import EncoderGraph, encoder_onnx
from tallformer_export.precision import with_stored_weights
from tallformer_infer import Detector as Pipeline
from tallformer_infer.bundle import WeightStorage, load_bundle
from tallformer_infer.bundle.checks import refusal
from tallformer_infer.cli import run
from tallformer_infer.errors import ExportError
from tallformer_training.model import Detector
from tests.contrast_recipe import CONTRAST
from tests.small_detector import SMALL, build
from tests.test_contrast_detection import scenes, write_film

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return build(CONTRAST).eval()


@pytest.fixture(scope="module")
def encoder(detector: Detector) -> onnx.ModelProto:
    """For pictures of any size."""
    return encoder_onnx(detector, any_size=True)


def features(model: onnx.ModelProto, clips: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    real = np.array([16, 5][: len(clips)])
    return np.asarray(session.run(None, {"clips": clips, "real_frames": real})[0])


def pictures(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (2, 16, height, width, 3), np.uint8)


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (160, 32)])
def test_one_graph_encodes_pictures_of_any_size(
    detector: Detector, encoder: onnx.ModelProto, size: tuple[int, int]
) -> None:
    clips = pictures(*size)

    with torch.no_grad():
        expected = EncoderGraph(detector)(torch.from_numpy(clips), torch.tensor([16, 5])).numpy()

    np.testing.assert_allclose(features(encoder, clips), expected, atol=2e-4 * np.abs(expected).max())


def rounded(model: onnx.ModelProto, storage: WeightStorage) -> onnx.ModelProto:
    """The graph in float32 with its large weights rounded, by the definition of the formats."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for item in copy.graph.initializer:
        if item.data_type != TensorProto.FLOAT or len(item.dims) != 5 or np.prod(item.dims) < 4096:
            continue
        values = numpy_helper.to_array(item)
        if storage == "fp16":
            values = values.astype(np.float16).astype(np.float32)
        else:
            scale = (np.abs(values).reshape(len(values), -1).max(axis=1) / 127).astype(np.float32)
            scale = scale.reshape(-1, 1, 1, 1, 1)
            values = np.round(values / scale) * scale
        item.CopyFrom(numpy_helper.from_array(values.astype(np.float32), item.name))
    return copy


@pytest.mark.parametrize(("storage", "part"), [("fp16", 0.52), ("int8", 0.28)])
def test_stored_weights_give_what_rounded_weights_give(
    encoder: onnx.ModelProto, storage: WeightStorage, part: float
) -> None:
    stored = with_stored_weights(encoder, storage)
    clips = pictures(32, 32)

    found, expected, exact = (features(model, clips) for model in (stored, rounded(encoder, storage), encoder))

    onnx.checker.check_model(stored, full_check=True)
    assert refusal(stored.SerializeToString(), "encoder") is None
    np.testing.assert_allclose(found, expected, atol=1e-5 * np.abs(expected).max())
    assert 0 < np.abs(found - exact).max() < 0.05 * np.abs(exact).max()
    large = sum(item.ByteSize() for item in encoder.graph.initializer if np.prod(item.dims) >= 4096)
    assert encoder.ByteSize() - stored.ByteSize() > (1 - part) * large


def test_a_runtime_widens_stored_weights_once(encoder: onnx.ModelProto, tmp_path: Path) -> None:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(tmp_path / "optimised.onnx")

    ort.InferenceSession(with_stored_weights(encoder, "fp16").SerializeToString(), options)

    graph = onnx.load(tmp_path / "optimised.onnx").graph
    weights = {item.name: item.data_type for item in graph.initializer if len(item.dims) == 5}
    assert len(weights) == 57
    assert set(weights.values()) == {TensorProto.FLOAT}
    assert sum(node.op_type == "Cast" for node in graph.node) < 4


def test_weights_that_float16_cannot_hold_are_refused() -> None:
    weight = numpy_helper.from_array(np.full((64, 64), 1e6, np.float32), "w")
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    model = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [], [], [weight]))

    with pytest.raises(ValueError, match="w: has weights out of the range of float16"):
        with_stored_weights(model, "fp16")


def test_a_bundle_of_any_size_runs_at_another_one_by_its_description(tmp_path: Path) -> None:
    options = ExportOptions(weights="fp16", any_size=True)
    export_random(CONTRAST, tmp_path / "bundle", options=options, on_step=lambda _: None)
    described = json.loads((tmp_path / "bundle" / "bundle.json").read_text())
    del described["description_sha256"]
    assert described["graphs"]["encoder"]["inputs"]["clips"] == ["clips_count", 16, 32, 32, 3]
    assert described["provenance"]["exported_with"]["weights"] == "fp16"
    write_film(tmp_path / "film.mkv", scenes(6))
    before = Pipeline.load(tmp_path / "bundle", device="cpu").detect(tmp_path / "film.mkv")

    described["graphs"]["encoder"]["inputs"]["clips"] = ["clips_count", 16, 64, 64, 3]
    described["recipe"]["sampling"] |= {"resize_px": 64, "crop_px": 64}
    (tmp_path / "bundle" / "bundle.json").write_text(json.dumps(described))
    after = Pipeline.load(tmp_path / "bundle", device="cpu").detect(tmp_path / "film.mkv")

    assert load_bundle(tmp_path / "bundle").read_graph("encoder") != (tmp_path / "bundle/encoder.onnx").read_bytes()
    assert len(before.actions) > 5
    assert len(after.actions) > 5
    assert before.actions != after.actions


@pytest.mark.parametrize(
    ("options", "recipe", "message"),
    [
        (ExportOptions(any_size=True), SMALL, "any size: requires a convolutional encoder"),
        (ExportOptions(weights="fp16", precision="fp16"), CONTRAST, "weights fp16: requires precision fp32"),
        (
            ExportOptions(any_size=True),
            replace(CONTRAST, sampling=replace(CONTRAST.sampling, resize_px=40, crop_px=40)),
            "any size: crop_px=40 must be a multiple of 32",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_the_work(
    tmp_path: Path, options: ExportOptions, recipe: object, message: str
) -> None:
    with pytest.raises(ExportError, match=message):
        export_random(recipe, tmp_path / "bundle", options=options, on_step=lambda _: None)  # type: ignore[arg-type]


def test_the_command_line_has_both(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["export", "--help"]) == 0
    assert {"--weights", "--any-size"} <= set(capsys.readouterr().out.replace("\n", " ").split())
