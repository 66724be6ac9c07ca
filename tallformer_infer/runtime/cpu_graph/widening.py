"""Graphs in bfloat16 on the CPU, for which ONNX Runtime has no kernels there.

Every tensor stays bfloat16; each node computes in float32 and rounds, which is what devices with bfloat16 do. It is for
checking such a graph, and for machines without a GPU; float32 is faster here.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def widen(content: bytes) -> bytes:
    """Make a graph with bfloat16 tensors one that the CPU can run."""
    model = onnx.load_from_string(content)
    narrow = _narrow_tensors(model)
    for item in model.graph.initializer:
        if item.data_type == TensorProto.BFLOAT16:
            wide = numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float32), item.name)
            item.CopyFrom(wide)
            narrow.discard(item.name)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += [node] if node.op_type == "Cast" else _in_float32(node, narrow)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


def _narrow_tensors(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    return values | {item.name for item in model.graph.initializer if item.data_type == TensorProto.BFLOAT16}


def _in_float32(node: onnx.NodeProto, narrow: set[str]) -> list[onnx.NodeProto]:
    before, after = [], []
    for index, name in enumerate(node.input):
        if name in narrow:
            node.input[index] = f"{node.name}.wide.{index}"
            before.append(helper.make_node("Cast", [name], [node.input[index]], to=TensorProto.FLOAT))
    for index, name in enumerate(node.output):
        if name in narrow:
            node.output[index] = f"{name}.wide"
            after.append(helper.make_node("Cast", [node.output[index]], [name], to=TensorProto.BFLOAT16))
    return [*before, node, *after]
