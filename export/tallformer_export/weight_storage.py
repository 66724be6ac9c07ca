"""How the weights of a graph are stored in its file. It computes in float32 all the same.

Note [stored weights]
    Large weights are stored in half the bytes (`fp16`), or in a quarter with a scale per output (`int8`), and the graph
    widens them in front of the node that uses them. These nodes have constant inputs only, so runtimes compute them
    once, when they load the graph, and then have float32 weights as if they had read them: no layer is slower, and
    memory while running is the same. What is lost is the rounding of the weights.
"""

from __future__ import annotations

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper

from tallformer_infer.bundle import WeightStorage

_SMALLEST = 4096
"""Elements; what has less stays as it is."""
_LEVELS = 127


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
    """Large float32 weights by name, each with the axis of its layer's outputs."""
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
    del outputs_axis  # needs no scale
    narrow = f"{item.name}.fp16"
    with np.errstate(over="ignore"):
        half = numpy_helper.to_array(item).astype(np.float16)
    if not np.isfinite(half).all():
        raise ValueError(f"{item.name}: has weights that float16 cannot hold")
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
