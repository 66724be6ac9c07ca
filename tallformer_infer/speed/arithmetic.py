"""How much there is to compute in a graph."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # an install for GPUs does not have it
    import onnx

_PRODUCTS = ("MatMul", "MatMulInteger", "Gemm")
_CONVOLUTIONS = ("Conv", "ConvInteger")


def gigaflop_of_graph(content: bytes) -> float | None:
    """Multiplications and additions of matrix products and convolutions for one item of a batch, in 10^9.

    Args:
        content: The ONNX file; its weights may be quantised.

    Returns:
        None where the package `onnx` is not installed, or the graph does not tell the sizes that are needed.
    """
    try:
        import onnx  # noqa: PLC0415
    except ModuleNotFoundError:
        return None
    model = onnx.load_from_string(content)
    for value in model.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    shapes = _shapes(model)
    total = 0
    for node in _nodes(model.graph):
        flop = _flop(node, shapes)
        if flop is None:
            return None
        total += flop
    return total / 1e9


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    return (node for node in graph.node if node.op_type in (*_PRODUCTS, *_CONVOLUTIONS))


def _flop(node: onnx.NodeProto, shapes: dict[str, tuple[int, ...]]) -> int | None:
    left, right, made = (shapes.get(name) for name in (node.input[0], node.input[1], node.output[0]))
    if left is None or right is None or made is None:
        return None
    if node.op_type in _CONVOLUTIONS:
        return 2 * prod(made) * prod(right[1:])  # weights are (out, in / groups, kernel)
    transposed = any(attribute.name == "transA" and attribute.i for attribute in node.attribute)
    return 2 * prod(made) * left[0 if transposed else -1]


def _shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Sizes of everything in the graph, the dimension of the batch as 1."""
    from onnx import shape_inference  # noqa: PLC0415

    graph = model.graph
    known = {value.name for value in (*graph.value_info, *graph.output)}
    if not {node.output[0] for node in _nodes(graph)} <= known:
        graph = shape_inference.infer_shapes(model).graph
    shapes = {constant.name: tuple(constant.dims) for constant in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        dimensions = value.type.tensor_type.shape.dim
        shapes[value.name] = tuple(dimension.dim_value or 1 for dimension in dimensions)
    return shapes
