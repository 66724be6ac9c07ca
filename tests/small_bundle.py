"""A bundle whose actions are known beforehand: three seconds of graph building instead of a trained model.

The encoder gives the mean brightness of every two frames. The localizer finds the same candidates in every window.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tallformer_infer.bundle import BundleDescription, GraphInfo
from tallformer_infer.config import CandidateConfig, Recipe, SamplingConfig, preset, to_json

CLASSES = ("wave", "jump", "sit, then stand")
FOUND = (((15.0, 45.0), 0.9, "wave"), ((150.0, 225.0), 0.4, "jump"), ((60.0, 90.0), 0.2, "sit, then stand"))
"""Segment in frames from the start of the window, score and label of each candidate."""

_BASE = preset("thumos14-swin-t-112")
RECIPE: Recipe = dataclasses.replace(
    _BASE, name="small", classes=CLASSES, sampling=SamplingConfig(resize_px=32, crop_px=32)
)


WHOLE: Recipe = dataclasses.replace(
    preset("anet-swin-t"),
    name="small-whole",
    classes=CLASSES,
    sampling=dataclasses.replace(preset("anet-swin-t").sampling, resize_px=32, crop_px=32),
    candidates=CandidateConfig(per_window=len(FOUND)),
)
"""Of a model that sees whole videos; its candidates, without their classes, are its proposals."""


def write_bundle(folder: Path, *, trained: bool = True, recipe: Recipe = RECIPE) -> Path:
    """Write the bundle to `folder`, which is made, and return it."""
    folder.mkdir()
    graphs = {}
    for name, graph in (("encoder", _encoder(recipe)), ("localizer", _localizer(recipe))):
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.checker.check_model(model, full_check=True)
        content = model.SerializeToString()
        (folder / f"{name}.onnx").write_bytes(content)
        graphs[name] = GraphInfo(
            file=f"{name}.onnx",
            sha256=hashlib.sha256(content).hexdigest(),
            precision="fp32",
            inputs=_shapes(graph.input),
            outputs=_shapes(graph.output),
        )
    description = BundleDescription(
        schema_version=1, name="small", trained=trained, licence="CC0-1.0", recipe=recipe, graphs=graphs
    )
    (folder / "bundle.json").write_text(json.dumps(to_json(description)), encoding="utf-8")
    return folder


def _encoder(recipe: Recipe) -> onnx.GraphProto:
    frames, side = recipe.window.clip_frames, recipe.sampling.crop_px
    channels = recipe.model.backbone.out_channels
    nodes = [
        helper.make_node("Cast", ["clips"], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["pixels"], ["brightness"], axes=[2, 3, 4], keepdims=0),
        helper.make_node("Reshape", ["brightness", "pairs"], ["paired"]),
        helper.make_node("ReduceMean", ["paired"], ["steps"], axes=[3], keepdims=0),
        helper.make_node("Tile", ["steps", "repeats"], ["features"]),
    ]
    constants = [_constant("pairs", [0, 1, frames // 2, 2]), _constant("repeats", [1, channels, 1])]
    inputs = [
        helper.make_tensor_value_info("clips", TensorProto.UINT8, ["N", frames, side, side, 3]),
        helper.make_tensor_value_info("real_frames", TensorProto.INT64, ["N"]),
    ]
    outputs = [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", channels, frames // 2])]
    return helper.make_graph(nodes, "encoder", inputs, outputs, constants)


def _localizer(recipe: Recipe) -> onnx.GraphProto:
    channels, steps = recipe.model.backbone.out_channels, recipe.window_steps
    segments = np.array([segment for segment, _, _ in FOUND], np.float32)[None]
    scores = np.array([score for _, score, _ in FOUND], np.float32)
    classes = np.array([CLASSES.index(label) for _, _, label in FOUND], np.int64)
    nodes = [
        helper.make_node("Cast", ["start_frames"], ["starts"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["starts", "per_window"], ["shifts"]),
        helper.make_node("Add", ["shifts", "found_segments"], ["shifted"]),
        helper.make_node("Reshape", ["shifted", "rows"], ["segments"]),
        helper.make_node("Shape", ["start_frames"], ["windows"]),
        helper.make_node("Concat", ["windows", "found_count"], ["each"], axis=0),
        helper.make_node("Expand", ["found_scores", "each"], ["scores_of_each"]),
        helper.make_node("Expand", ["found_classes", "each"], ["classes_of_each"]),
        helper.make_node("Reshape", ["scores_of_each", "flat"], ["scores"]),
        helper.make_node("Reshape", ["classes_of_each", "flat"], ["classes"]),
    ]
    constants = [
        _constant("per_window", [-1, 1, 1]),
        _constant("rows", [-1, 2]),
        _constant("flat", [-1]),
        _constant("found_count", [len(FOUND)]),
        numpy_helper.from_array(segments, "found_segments"),
        numpy_helper.from_array(scores, "found_scores"),
        numpy_helper.from_array(classes, "found_classes"),
    ]
    inputs = [
        helper.make_tensor_value_info("features", TensorProto.FLOAT, ["B", channels, steps]),
        helper.make_tensor_value_info("start_frames", TensorProto.INT64, ["B"]),
        helper.make_tensor_value_info("real_frames", TensorProto.INT64, ["B"]),
    ]
    outputs = [
        helper.make_tensor_value_info("segments", TensorProto.FLOAT, ["K", 2]),
        helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["K"]),
        helper.make_tensor_value_info("classes", TensorProto.INT64, ["K"]),
    ]
    if recipe.sampling.most_frames is not None:  # one window at a time
        _add_proposals(nodes, outputs, constants)
    return helper.make_graph(nodes, "localizer", inputs, outputs, constants)


def _add_proposals(
    nodes: list[onnx.NodeProto], outputs: list[onnx.ValueInfoProto], constants: list[onnx.TensorProto]
) -> None:
    """The candidates again, without their classes, and a score for each class of the video."""
    count = len(FOUND)
    nodes += [
        helper.make_node("Identity", ["shifted"], ["proposal_segments"]),
        helper.make_node("Reshape", ["found_scores", "one_row"], ["proposal_scores"]),
    ]
    constants += [
        _constant("one_row", [1, count]),
        numpy_helper.from_array(np.full((1, 1 + len(CLASSES)), 0.25, np.float32), "class_scores"),
    ]
    outputs += [
        helper.make_tensor_value_info("proposal_segments", TensorProto.FLOAT, [1, count, 2]),
        helper.make_tensor_value_info("proposal_scores", TensorProto.FLOAT, [1, count]),
        helper.make_tensor_value_info("class_scores", TensorProto.FLOAT, [1, 1 + len(CLASSES)]),
    ]


def _constant(name: str, values: list[int]) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def _shapes(values: list[onnx.ValueInfoProto]) -> dict[str, tuple[int | str, ...]]:
    return {
        value.name: tuple(size.dim_param or size.dim_value for size in value.type.tensor_type.shape.dim)
        for value in values
    }
