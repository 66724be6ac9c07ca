"""Number formats of the encoder's graph.

Note [what is reduced]
    Nearly all arithmetic is the encoder's, so its blocks are what other formats are for. Pixels, the stem and its
    convolutions stay in float32 (opset 20 has no bfloat16 convolutions, and stems take differences of pixels), layer
    norms add up in float32 whatever their inputs are (`stash_type`), and so does the whole localizer, whose boxes are
    exponentials: half a percent of the arithmetic, and its segments keep their hundredth of a frame.

Note [int8]
    Weights are int8 with a scale per output; inputs are quantised as they come, so no videos are needed to calibrate
    on. Attention stays in float32. Source of the quantiser: ONNX Runtime.
"""

from __future__ import annotations

import copy
import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, cast

import onnx
import torch
from onnx import TensorProto
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import Tensor, nn

from tallformer_infer.bundle import Precision
from tallformer_training.model import Detector

_TORCH_TYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}
_ONNX_TYPES: dict[int, Precision] = {TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16"}


def with_precision(detector: Detector, precision: Literal["fp16", "bf16"]) -> Detector:
    """A copy whose encoder's blocks compute in another format; see Note [what is reduced]."""
    kind = _TORCH_TYPES[precision]
    reduced = copy.deepcopy(detector)
    reduced.backbone.to(kind)
    reduced.backbone.add_module("patch_embed", _InFloat32(reduced.backbone.patch_embed.float(), kind))
    return reduced


def quantised(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with int8 weights in its linear layers; see Note [int8]."""
    with tempfile.TemporaryDirectory(prefix="tallformer-") as folder, _without_advice():
        source, result = Path(folder) / "fp32.onnx", Path(folder) / "int8.onnx"
        onnx.save(model, source)
        quantize_dynamic(
            source,
            result,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            extra_options={"MatMulConstBOnly": True},
        )
        read = onnx.load(result)
    onnx.checker.check_model(read, full_check=True)
    return read


def precision_of(model: onnx.ModelProto) -> Precision:
    """Format of a graph's linear layers; fp32 if it has none."""
    kinds = {item.name: item.data_type for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulInteger":
            return "int8"
        if node.op_type == "MatMul" and node.input[1] in kinds:
            return _ONNX_TYPES.get(kinds[node.input[1]], "fp32")
    return "fp32"


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
