"""Small ONNX graphs with things in them that a bundle must not hold."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHTS = np.arange(4, dtype=np.float32)


def outside(location: str) -> TensorProto:
    """A tensor whose values lie in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in (("location", location), ("offset", "0"), ("length", "16")):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value
    return tensor


def inside() -> TensorProto:
    return numpy_helper.from_array(WEIGHTS, "w")


def in_initializer(tensor: TensorProto) -> onnx.GraphProto:
    return graph([helper.make_node("Add", ["x", "w"], ["y"])], [tensor])


def in_constant(tensor: TensorProto) -> onnx.GraphProto:
    nodes = [helper.make_node("Constant", [], ["w"], value=tensor), helper.make_node("Add", ["x", "w"], ["y"])]
    return graph(nodes, [])


def in_sparse(tensor: TensorProto) -> onnx.GraphProto:
    tensor.name = "w"
    made = graph([helper.make_node("Identity", ["w"], ["y"])], [])
    indices = numpy_helper.from_array(np.arange(4, dtype=np.int64), "i")
    made.sparse_initializer.append(helper.make_sparse_tensor(tensor, indices, [4]))
    return made


def in_loop(tensor: TensorProto) -> onnx.GraphProto:
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Add", ["before", "w"], ["after"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            helper.make_tensor_value_info("before", TensorProto.FLOAT, [4]),
        ],
        [
            helper.make_tensor_value_info("on", TensorProto.BOOL, []),
            helper.make_tensor_value_info("after", TensorProto.FLOAT, [4]),
        ],
        [tensor],
    )
    trips = numpy_helper.from_array(np.array(1, np.int64), "trips")
    return graph([helper.make_node("Loop", ["trips", "", "x"], ["y"], body=body)], [trips])


def graph(nodes: list[onnx.NodeProto], constants: list[TensorProto]) -> onnx.GraphProto:
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in "xy")
    return helper.make_graph(nodes, "g", [x], [y], constants)


def serialised(made: onnx.GraphProto, **options: object) -> bytes:
    model = helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10, **options)
    return bytes(model.SerializeToString())


PLACES: list[Callable[[TensorProto], onnx.GraphProto]] = [in_initializer, in_constant, in_loop]
"""Where a graph may have weights."""


def with_node(kind: str, *, domain: str = "", **attributes: object) -> onnx.GraphProto:
    return graph([helper.make_node(kind, ["x"], ["y"], domain=domain, **attributes)], [])


def in_a_branch(made: onnx.GraphProto) -> onnx.GraphProto:
    """The graph as the body of a loop, in whose place it is not run but held."""
    return graph([helper.make_node("Loop", ["", "", "x"], ["y"], body=made)], [])
