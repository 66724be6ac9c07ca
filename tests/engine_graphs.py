"""Small ONNX graphs for TensorRT to build, to refuse, and in other precisions."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SIDE = 16


def one_node(operator: str, shape: Sequence[int | str] = ("N", SIDE, SIDE), **attributes: object) -> bytes:
    """`y = operator(x)` in a node called `the_node`."""
    return _file([helper.make_node(operator, ["x"], ["y"], name="the_node", **attributes)], shape)


def quantised(side: int) -> bytes:
    """relu(x @ weights), both `side` wide, with x and weights in int8 between quantise and dequantise nodes."""
    weights = np.random.default_rng(0).integers(-127, 128, (side, side)).astype(np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "zero"], ["x_int8"]),
        helper.make_node("DequantizeLinear", ["x_int8", "x_scale", "zero"], ["x_float"]),
        helper.make_node("DequantizeLinear", ["weights", "weights_scale", "zero"], ["weights_float"]),
        helper.make_node("MatMul", ["x_float", "weights_float"], ["product"]),
        helper.make_node("Relu", ["product"], ["y"]),
    ]
    constants = {
        "weights": weights,
        "x_scale": np.float32(0.02),
        "weights_scale": np.float32(0.01),
        "zero": np.int8(0),
    }
    return _file(nodes, ("N", side, side), constants)


def halved(content: bytes) -> bytes:
    """A float32 graph in float16: weights, constants and casts; inputs and outputs stay as they are."""
    model = onnx.load_from_string(content)
    graph = model.graph
    del graph.value_info[:]
    for tensor in (*graph.initializer, *_constants(graph)):
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    nodes = list(graph.node)
    inputs, outputs = (
        sorted(value.name for value in values if value.type.tensor_type.elem_type == TensorProto.FLOAT)
        for values in (graph.input, graph.output)
    )
    inner = {name: f"{name}_half" for name in (*inputs, *outputs)}
    for node in nodes:
        node.input[:] = [inner.get(name, name) for name in node.input]
        node.output[:] = [inner.get(name, name) for name in node.output]
        if node.op_type == "ConstantOfShape" and not node.attribute:  # float32 zeros unless it is told otherwise
            node.attribute.append(
                helper.make_attribute("value", helper.make_tensor("value", TensorProto.FLOAT16, [1], [0]))
            )
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT:
                attribute.i = TensorProto.FLOAT16
    del graph.node[:]
    graph.node.extend(helper.make_node("Cast", [name], [inner[name]], to=TensorProto.FLOAT16) for name in inputs)
    graph.node.extend(nodes)
    graph.node.extend(helper.make_node("Cast", [inner[name]], [name], to=TensorProto.FLOAT) for name in outputs)
    onnx.checker.check_model(model, full_check=True)
    return model.SerializeToString()


def _constants(graph: onnx.GraphProto) -> list[onnx.TensorProto]:
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    return [attribute.t for attribute in attributes if attribute.type == onnx.AttributeProto.TENSOR]


def _file(
    nodes: list[onnx.NodeProto], shape: Sequence[int | str], constants: dict[str, np.ndarray] | None = None
) -> bytes:
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in (constants or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    return model.SerializeToString()
