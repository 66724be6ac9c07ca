"""Graphs rewritten for OpenVINO compute what they computed, and the rewriting applies to the encoders it is for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tallformer_infer.config import Recipe
from tallformer_training.model import Detector

openvino = pytest.importorskip("openvino", reason="needs the extra openvino")

from tallformer_export.graphs import encoder_onnx  # noqa: E402
from tallformer_infer.runtime.openvino import rewrite  # noqa: E402
from tests.i3d_recipe import I3D  # noqa: E402
from tests.small_detector import SMALL as SWIN  # noqa: E402


def model_of(recipe: Recipe) -> Any:
    torch.manual_seed(0)
    content = encoder_onnx(Detector(recipe).eval()).SerializeToString()
    model = openvino.Core().read_model(content)
    model.reshape({port.any_name: [1, *list(port.partial_shape)[1:]] for port in model.inputs})
    return model


def features(model: Any, recipe: Recipe, real_frames: int) -> NDArray[np.float32]:
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    frames, side = recipe.window.clip_frames, recipe.sampling.crop_px
    clips = np.random.default_rng(0).integers(0, 256, (1, frames, side, side, 3), dtype=np.uint8)
    found = compiled({"clips": clips, "real_frames": np.array([real_frames])})
    return np.array(found[0], np.float32)


def kinds(model: Any) -> list[str]:
    return [node.get_type_name() for node in model.get_ordered_ops()]


def sources_of_softmax(model: Any) -> list[str]:
    softmax = [node for node in model.get_ordered_ops() if node.get_type_name() == "Softmax"]
    return [node.input(0).get_source_output().get_node().get_type_name() for node in softmax]


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_masks_are_added_where_the_scores_are(share: float) -> None:
    model = model_of(SWIN)
    real_frames = round(share * SWIN.window.clip_frames)
    before = features(model, SWIN, real_frames)
    assert "Reshape" in sources_of_softmax(model)  # every second block

    rewrite(model, has_amx=False)

    assert set(sources_of_softmax(model)) == {"Add"}
    np.testing.assert_allclose(features(model, SWIN, real_frames), before, atol=2e-6 * float(np.abs(before).max()))


@pytest.mark.parametrize("share", [1.0, 0.4])
def test_a_stem_of_i3d_reads_blocks(share: float) -> None:
    model = model_of(I3D)
    real_frames = round(share * I3D.window.clip_frames)
    before = features(model, I3D, real_frames)
    assert "SpaceToDepth" not in kinds(model)

    rewrite(model, has_amx=True)

    assert kinds(model).count("SpaceToDepth") == 1
    np.testing.assert_allclose(features(model, I3D, real_frames), before, atol=1e-5 * float(np.abs(before).max()))


def test_a_stem_stays_without_amx() -> None:
    model = model_of(I3D)

    rewrite(model, has_amx=False)

    assert "SpaceToDepth" not in kinds(model)


def test_a_stem_of_odd_sizes_stays() -> None:
    """9 x 9 pixels are no whole number of blocks."""
    opset = openvino.opset13
    pixels = opset.parameter([1, 3, 8, 9, 9], np.float32)
    weights = opset.constant(np.ones((4, 3, 7, 7, 7), np.float32))
    stem = opset.convolution(pixels, weights, [2] * 3, [2] * 3, [3] * 3, [1] * 3)
    model = openvino.Model([opset.result(stem)], [pixels], "odd")

    rewrite(model, has_amx=True)

    assert "SpaceToDepth" not in kinds(model)


@pytest.mark.parametrize(("behind", "size"), [(2, 8), (3, 8), (3, 12)])
def test_blocks_give_what_the_convolution_gives(behind: int, size: int) -> None:
    """Random weights, whatever padding lies behind."""
    opset, random = openvino.opset13, np.random.default_rng(size)
    pixels = opset.parameter([1, 3, size, size, size], np.float32)
    weights = opset.constant(random.standard_normal((4, 3, 7, 7, 7)).astype(np.float32))
    stem = opset.convolution(pixels, weights, [2] * 3, [2] * 3, [behind] * 3, [1] * 3)
    model = openvino.Model([opset.result(stem)], [pixels], "stem")
    given = random.standard_normal((1, 3, size, size, size)).astype(np.float32)
    settings = {"INFERENCE_PRECISION_HINT": "f32"}
    wanted = openvino.Core().compile_model(model, "CPU", settings)(given)[0].copy()

    rewrite(model, has_amx=True)

    assert "SpaceToDepth" in kinds(model)
    found = openvino.Core().compile_model(model, "CPU", settings)(given)[0]
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)
