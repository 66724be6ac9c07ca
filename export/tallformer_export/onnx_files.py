"""Torch modules to ONNX files with a dynamic batch and everything else static."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from tallformer_export.graphs import EncoderGraph, LocalizerGraph
from tallformer_export.precision import calibrated, quantised, with_precision
from tallformer_infer.bundle import Precision
from tallformer_infer.errors import ExportError
from tallformer_infer.timeline import Clip
from tallformer_training.model import Detector

Dim = Any
"""A size that torch's exporter leaves open."""
OPSET = 20
"""Newest that TensorRT 10 and ONNX Runtime 1.22 both read; 17 is silently written as 18 by torch 2.13."""
_MOST_PLACES = 64
"""Of the encoder's last map, in height and width, where pictures may have any size."""


def encoder_onnx(
    detector: Detector,
    precision: Precision = "fp32",
    *,
    clips: Callable[[], Iterable[Clip]] = tuple,
    any_size: bool = False,
) -> onnx.ModelProto:
    """Graph 1: `clips` uint8 (N, F, H, W, 3), `real_frames` (N,) to `features` (N, C, S), float32 in any precision.

    `clips` gives what `int8-static` is calibrated on. With `any_size`, height and width of pictures are left open, for
    encoders that take any multiple of their stride.
    """
    recipe = detector.recipe
    side, frames = recipe.sampling.crop_px, recipe.window.clip_frames
    inputs = {
        "clips": torch.zeros((2, frames, side, side, 3), dtype=torch.uint8),
        "real_frames": torch.full((2,), frames),
    }
    if precision in ("fp16", "bf16"):
        detector = with_precision(detector, precision)
    open_axes: dict[int, Dim] = {}
    if any_size:
        stride = recipe.model.backbone.stride_px
        inputs["clips"] = torch.zeros((2, frames, 2 * stride, 3 * stride, 3), dtype=torch.uint8)  # 1 would be fixed
        open_axes = {
            axis: stride * torch.export.Dim(name, min=1, max=_MOST_PLACES) for axis, name in ((2, "h"), (3, "w"))
        }
    graph = EncoderGraph(detector).eval()
    model = _to_onnx(graph, inputs, ["features"], batch="clips_count", open_axes={"clips": open_axes})
    match precision:
        case "int8":
            return quantised(model)
        case "int8-static":
            return calibrated(model, clips())
        case _:
            return model


def localizer_onnx(detector: Detector) -> onnx.ModelProto:
    """Graph 2: `features` (B, C, S), `start_frames`, `real_frames` (B,) to `segments`, `scores`, `classes`.

    That of a refined head also gives `PROPOSAL_OUTPUTS`.
    """
    recipe = detector.recipe
    inputs = {
        "features": torch.zeros((2, recipe.model.backbone.out_channels, recipe.window_steps)),
        "start_frames": torch.zeros(2, dtype=torch.int64),
        "real_frames": torch.full((2,), recipe.window.window_frames),
    }
    graph = LocalizerGraph(detector).eval()
    return _to_onnx(graph, inputs, graph.output_names, batch="windows")


def _to_onnx(
    module: nn.Module,
    inputs: dict[str, Tensor],
    output_names: Sequence[str],
    *,
    batch: str,
    open_axes: Mapping[str, Mapping[int, Dim]] = MappingProxyType({}),
) -> onnx.ModelProto:
    """Write a module, whose inputs are of any batch and, in `open_axes`, of sizes that have a name."""
    dimension = torch.export.Dim(batch, min=1, max=4096)
    with _quiet(), torch.no_grad():
        program = torch.onnx.export(
            module,
            tuple(inputs.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(inputs),
            output_names=list(output_names),
            dynamic_shapes=[{0: dimension, **open_axes.get(name, {})} for name in inputs],
            verbose=False,
        )
    assert program is not None
    model = program.model_proto
    _strip_traces(model)
    if any(open_axes.values()):
        del model.graph.value_info[:]  # runtimes infer them again, for the sizes that they are given
    _check(model, inputs, open_axes)
    return model


def _strip_traces(model: onnx.ModelProto) -> None:
    """Remove the exporter's stack traces, which hold paths of the machine it ran on."""
    for item in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        item.ClearField("metadata_props")
        item.ClearField("doc_string")
    for value in (*model.graph.input, *model.graph.output):
        value.ClearField("metadata_props")


def _check(model: onnx.ModelProto, inputs: dict[str, Tensor], open_axes: Mapping[str, Mapping[int, Dim]]) -> None:
    """Shapes that the exporter froze or freed without a word are an error."""
    onnx.checker.check_model(model, full_check=True)
    if model.opset_import[0].version != OPSET:
        raise ExportError(f"asked for opset {OPSET}, the exporter wrote {model.opset_import[0].version}")
    for declared in model.graph.input:
        dims = declared.type.tensor_type.shape.dim
        shape = [dim.dim_param or dim.dim_value for dim in dims]
        wanted: list[int | str] = list(inputs[declared.name].shape)
        for axis in open_axes.get(declared.name, ()):
            wanted[axis] = shape[axis] if isinstance(shape[axis], str) else "open"
        if not isinstance(shape[0], str) or shape[1:] != wanted[1:]:
            raise ExportError(f"input {declared.name}: exported as {shape}, expected a free batch and {wanted[1:]}")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The exporter's progress and its notes to its own authors are nothing a user can act on."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
