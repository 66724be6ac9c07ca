"""Number formats of the encoder's arithmetic, and of stored weights.

Note [what is reduced]
    Nearly all arithmetic is in the encoder's blocks, so only these use other formats. Pixels, the stem and its
    convolutions stay in float32 (opset 20 has no bfloat16 convolutions, and stems compute differences of pixels), layer
    norms accumulate in float32 whatever their inputs (`stash_type`), and so does the whole localizer, whose segments
    contain exponentials: it is half a percent of the arithmetic, and segments stay exact to a hundredth of a frame.

Note [int8]
    Weights are int8 with a scale per output. `int8` quantises inputs dynamically, so it needs no calibration, and it is
    fastest on CPUs. TensorRT does not support that: for it, `int8-static` has quantise and dequantise nodes around each
    linear layer, with scales calibrated to the largest values in the clips of a sample. Attention stays in float32.
    Source of the quantiser: ONNX Runtime.

Note [stored weights]
    Large weights are stored in half the bytes (`fp16`), or in a quarter with a scale per output (`int8`), and the graph
    converts them to float32 before use. These nodes have only constant inputs, so runtimes fold them once, when they
    load the graph: no layer is slower, and memory at run time is the same. The only loss is the rounding of weights.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from torch import Tensor, nn

from tallformer_infer.bundle import Precision, WeightStorage
from tallformer_infer.config import I3dConfig, Recipe
from tallformer_infer.errors import ExportError
from tallformer_infer.timeline import Clip
from tallformer_training.model import Detector

_INT8_WEIGHTS: dict[str, Any] = {
    "op_types_to_quantize": ["MatMul"],
    "per_channel": True,
    "weight_type": QuantType.QInt8,
}
_CONSTANT_WEIGHTS = {"MatMulConstBOnly": True}
_TORCH_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_ONNX_TYPES: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}

_SMALLEST = 4096
"""Weights with fewer elements are not converted."""
_LEVELS = 127


def with_precision(detector: Detector, precision: Literal["fp16", "bf16"]) -> Detector:
    """A copy with encoder blocks in another format; see Note [what is reduced]."""
    kind = _TORCH_TYPES[precision]
    reduced = copy.deepcopy(detector)
    encoder, stem = reduced.backbone, reduced.backbone.stem_name
    encoder.to(kind)
    encoder.add_module(stem, _InFloat32(encoder.get_submodule(stem).float(), kind))
    return reduced


def require_precision(recipe: Recipe, precision: Precision) -> None:
    """Refuse formats that the recipe's encoder does not support.

    Raises:
        ExportError: bfloat16 and int8 require linear layers, and it has only convolutions.
    """
    if isinstance(recipe.model.backbone, I3dConfig) and precision not in ("fp32", "fp16"):
        raise ExportError(
            f"precision {precision}: requires linear layers, and the encoder of {recipe.name} has only convolutions; "
            "use fp32 or fp16"
        )


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 weights in its linear layers; see Note [int8]."""
    return _rewritten(model, partial(quantize_dynamic, **_INT8_WEIGHTS, extra_options=_CONSTANT_WEIGHTS))


def calibrated(model: onnx.ModelProto, clips: Iterable[Clip]) -> onnx.ModelProto:
    """The graph with int8 weights and input scales calibrated on clips; see Note [int8].

    Args:
        model: Graph 1 in float32.
        clips: Calibration data.
    """
    return _rewritten(
        model,
        partial(
            quantize_static,
            calibration_data_reader=_Clips(clips),
            activation_type=QuantType.QInt8,
            **_INT8_WEIGHTS,
            extra_options={**_CONSTANT_WEIGHTS, "ActivationSymmetric": True, "WeightSymmetric": True},
        ),
    )


def _rewritten(model: onnx.ModelProto, rewrite: Callable[[Path, Path], None]) -> onnx.ModelProto:
    """Apply a tool that reads and writes files to a graph."""
    with tempfile.TemporaryDirectory(prefix="tallformer-") as folder, _without_advice():
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        rewrite(source, result)
        read = onnx.load(result)
    onnx.checker.check_model(read, full_check=True)
    return read


class _Clips(CalibrationDataReader):  # type: ignore[misc]
    """Clips for ONNX Runtime's calibration, one at a time."""

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._clips = iter(clips)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Inputs of the graph; None at the end."""
        clip = next(self._clips, None)
        if clip is None:
            return None
        return {"clips": clip.frames[None], "real_frames": np.array([clip.real_frames], np.int64)}


def precision_of(model: onnx.ModelProto) -> Precision:
    """Format of a graph's linear layers, or of its last convolution if it has none."""
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    last: Precision = "fp32"
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            return "int8"
        if node.op_type == "QuantizeLinear":
            return "int8-static"
        if node.op_type == "MatMul" and node.input[1] in kinds:
            return _ONNX_TYPES.get(kinds[node.input[1]], "fp32")
        if node.op_type == "Conv":
            last = _ONNX_TYPES.get(kinds.get(node.input[1], TensorProto.FLOAT), "fp32")
    return last


class _InFloat32(nn.Module):
    """A stem in float32 before blocks in another format."""

    def __init__(self, stem: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.stem = stem
        self.kind = kind

    def forward(self, clips: Tensor) -> Tensor:
        """Run the stem."""
        return cast(Tensor, self.stem(clips)).to(self.kind)


@contextmanager
def _without_advice() -> Iterator[None]:
    """Suppress the quantiser's advice to run its pre-processing, which it logs through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def with_stored_weights(model: onnx.ModelProto, storage: WeightStorage) -> onnx.ModelProto:
    """A copy of a graph whose large weights are stored in another format; see Note [stored weights]."""
    stored = onnx.ModelProto()
    stored.CopyFrom(model)
    if storage == "fp32":
        return stored
    weights = _weights(stored)
    kept = [item for item in stored.graph.initializer if item.name not in weights]
    nodes: list[NodeProto] = []
    for item in stored.graph.initializer:
        if item.name in weights:
            tensors, widening = (_as_fp16 if storage == "fp16" else _as_int8)(item, outputs_axis=weights[item.name])
            kept += tensors
            nodes += widening
    nodes += stored.graph.node
    del stored.graph.initializer[:], stored.graph.node[:]
    stored.graph.initializer.extend(kept)
    stored.graph.node.extend(nodes)
    return stored


def _weights(model: onnx.ModelProto) -> dict[str, int]:
    """Large float32 weights by name, with the axis of the layer's outputs."""
    axes = {"Conv": 0, "MatMul": -1, "Gemm": -1}
    large = {
        item.name
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) > 1 and np.prod(item.dims) >= _SMALLEST
    }
    found: dict[str, int] = {}
    for node in model.graph.node:
        if node.op_type in axes and node.input[1] in large:
            transposed = any(part.name == "transB" and part.i for part in node.attribute)
            found[node.input[1]] = 0 if transposed else axes[node.op_type]
    return found


def _as_fp16(item: TensorProto, *, outputs_axis: int) -> tuple[list[TensorProto], list[NodeProto]]:
    del outputs_axis  # unused: fp16 needs no scale
    narrow = f"{item.name}.fp16"
    with np.errstate(over="ignore"):
        half = numpy_helper.to_array(item).astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{item.name}: has weights out of the range of float16")
    return [numpy_helper.from_array(half, narrow)], [
        helper.make_node("Cast", [narrow], [item.name], to=TensorProto.FLOAT)
    ]


def _as_int8(item: TensorProto, *, outputs_axis: int) -> tuple[list[TensorProto], list[NodeProto]]:
    values: NDArray[np.float32] = numpy_helper.to_array(item)
    others = tuple(axis for axis in range(values.ndim) if axis != outputs_axis % values.ndim)
    scale = np.maximum(np.abs(values).max(axis=others, keepdims=True) / _LEVELS, np.finfo(np.float32).tiny)
    levels = np.round(values / scale).astype(np.int8)
    narrow, scaled, wide = f"{item.name}.int8", f"{item.name}.scale", f"{item.name}.levels"
    tensors = [numpy_helper.from_array(levels, narrow), numpy_helper.from_array(scale.astype(np.float32), scaled)]
    nodes = [
        helper.make_node("Cast", [narrow], [wide], to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, scaled], [item.name]),
    ]
    return tensors, nodes
