"""Number formats of the encoder's graph.

Note [what is reduced]
    Nearly all arithmetic is the encoder's, so its blocks are what other formats are for. Pixels, the stem and its
    convolutions stay in float32 (opset 20 has no bfloat16 convolutions, and stems take differences of pixels), layer
    norms add up in float32 whatever their inputs are (`stash_type`), and so does the whole localizer, whose boxes are
    exponentials: half a percent of the arithmetic, and its segments keep their hundredth of a frame.

Note [int8]
    Weights are int8 with a scale per output. `int8` quantises inputs as they come, so no videos are needed to calibrate
    on, and CPUs are fastest with it. TensorRT cannot: for it, `int8-static` has quantise and dequantise nodes around
    each linear layer, whose scales are the largest values seen in the clips of a sample. Attention stays in float32.
    Source of the quantiser: ONNX Runtime.
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
from onnx import TensorProto
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
from torch import Tensor, nn

from tallformer_infer.bundle import Precision
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


def with_precision(detector: Detector, precision: Literal["fp16", "bf16"]) -> Detector:
    """A copy whose encoder's blocks compute in another format; see Note [what is reduced]."""
    kind = _TORCH_TYPES[precision]
    reduced = copy.deepcopy(detector)
    encoder, stem = reduced.backbone, reduced.backbone.stem_name
    encoder.to(kind)
    encoder.add_module(stem, _InFloat32(encoder.get_submodule(stem).float(), kind))
    return reduced


def require_precision(recipe: Recipe, precision: Precision) -> None:
    """Refuse formats that the recipe's encoder cannot compute in.

    Raises:
        ExportError: bfloat16 and int8 are for linear layers, and it has convolutions only.
    """
    if isinstance(recipe.model.backbone, I3dConfig) and precision not in ("fp32", "fp16"):
        raise ExportError(
            f"precision {precision}: is for linear layers, and the encoder of {recipe.name} has only convolutions; "
            "take fp32 or fp16"
        )


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 weights in its linear layers; see Note [int8]."""
    return _rewritten(model, partial(quantize_dynamic, **_INT8_WEIGHTS, extra_options=_CONSTANT_WEIGHTS))


def calibrated(model: onnx.ModelProto, clips: Iterable[Clip]) -> onnx.ModelProto:
    """The graph with int8 weights and scales of inputs that are found on clips; see Note [int8].

    Args:
        model: Graph 1 in float32.
        clips: What its inputs look like.
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
    """What a tool that reads and writes files makes of a graph."""
    with tempfile.TemporaryDirectory(prefix="tallformer-") as folder, _without_advice():
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        rewrite(source, result)
        read = onnx.load(result)
    onnx.checker.check_model(read, full_check=True)
    return read


class _Clips(CalibrationDataReader):  # type: ignore[misc]
    """Clips, one at a time, as ONNX Runtime's calibration asks for them."""

    def __init__(self, clips: Iterable[Clip]) -> None:
        self._clips = iter(clips)

    def get_next(self) -> dict[str, NDArray[Any]] | None:
        """Inputs of the graph; None at the end."""
        clip = next(self._clips, None)
        if clip is None:
            return None
        return {"clips": clip.frames[None], "real_frames": np.array([clip.real_frames], np.int64)}


def precision_of(model: onnx.ModelProto) -> Precision:
    """Format of a graph's linear layers, or of its last convolution where it has none."""
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
    """A stem that computes in float32 in front of blocks that do not."""

    def __init__(self, stem: nn.Module, kind: torch.dtype) -> None:
        super().__init__()
        self.stem = stem
        self.kind = kind

    def forward(self, clips: Tensor) -> Tensor:
        """See the stem."""
        return cast(Tensor, self.stem(clips)).to(self.kind)


@contextmanager
def _without_advice() -> Iterator[None]:
    """The quantiser advises everybody to run its pre-processing, through the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
