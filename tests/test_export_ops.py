"""Which operators the exported graphs are made of, exactly: a new one is looked at before it is let in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import onnx
import pytest

from tallformer_export.graphs import encoder_onnx, localizer_onnx
from tallformer_infer.bundle.checks import ALLOWED_OPS, refusal
from tallformer_infer.config import CandidateConfig, Recipe, SamplingConfig, WindowConfig
from tests.small_detector import SMALL, build

pytestmark = pytest.mark.usefixtures("one_thread")

UNWANTED = {"Pad", "ScatterND", "NonZero", "If", "Loop", "Scan", "Einsum", "Resize", "Constant"}
"""Pad has been refused by TensorRT, NonZero has sizes that depend on data, constants belong into initializers."""

ARITHMETIC = {"Add", "Cast", "Div", "Mul", "Sub"}
SHAPES = {"Concat", "ConstantOfShape", "Reshape", "Shape", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
ATTENTION = {"Gelu", "LayerNormalization", "MatMul", "Softmax"}
ENCODER = ARITHMETIC | SHAPES | ATTENTION | {"Conv", "Less"}
LOCALIZER = (
    ARITHMETIC | ATTENTION | {"BatchNormalization", "Clip", "Conv", "Exp", "Expand", "Gather", "Max", "Min", "Relu"}
) | {"Concat", "Reshape", "Sigmoid", "Slice", "Squeeze", "Transpose", "Unsqueeze"}
BEST_CANDIDATES = {"And", "Equal", "GatherElements", "Less", "Mod", "TopK"}


def recipe_with(*, per_window: int | None = None, **changes: Any) -> Recipe:
    """26 px and 48 frames: no patch, window or level of the pyramid divides them, so all filling up is in it."""
    backbone = replace(SMALL.model.backbone, **changes.pop("backbone", {}))
    return replace(
        SMALL,
        model=replace(SMALL.model, backbone=backbone, **changes),
        sampling=SamplingConfig(resize="none", crop_px=26),
        window=WindowConfig(window_frames=48, clip_frames=16),
        candidates=CandidateConfig(per_window=per_window),
    )


def kinds(model: onnx.ModelProto) -> set[str]:
    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 20)]
    assert not model.functions
    assert all(not node.domain for node in model.graph.node)
    return {node.op_type for node in model.graph.node}


@pytest.mark.parametrize(
    ("backbone", "own"),
    [
        ({"stem": "patch", "pooling": "mean"}, {"ReduceMean"}),
        ({"stem": "motion", "pooling": "max"}, {"ReduceMax", "Relu"}),
    ],
)
def test_operators_of_the_encoder(backbone: dict[str, str], own: set[str]) -> None:
    model = encoder_onnx(build(recipe_with(backbone=backbone)).eval())

    assert kinds(model) == ENCODER | own
    assert not kinds(model) & UNWANTED
    assert refusal(model.SerializeToString(), "encoder") is None


@pytest.mark.parametrize(
    ("changes", "own"),
    [
        ({"per_window": 50}, BEST_CANDIDATES | {"ConstantOfShape", "Shape"}),
        (
            {"pyramid": replace(SMALL.model.pyramid, kind="convolution", norm="group")},
            {"InstanceNormalization", "Shape"},
        ),
    ],
)
def test_operators_of_the_localizer(changes: dict[str, Any], own: set[str]) -> None:
    model = localizer_onnx(build(recipe_with(**changes)).eval())

    assert kinds(model) == LOCALIZER | own
    assert not kinds(model) & UNWANTED
    assert refusal(model.SerializeToString(), "localizer") is None


def test_what_a_bundle_may_hold_has_all_of_these() -> None:
    """Int8 and fp16 bundles come to have others; the list for loading is wider than the sets above."""
    assert ENCODER | LOCALIZER | BEST_CANDIDATES <= ALLOWED_OPS["encoder"] == ALLOWED_OPS["localizer"]
    assert not (UNWANTED - {"Pad", "Constant"}) & ALLOWED_OPS["encoder"]
