"""Search an ONNX graph: nodes by input and output, constants, static shapes, and linear layers in float32 or int8."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

Array = NDArray[Any]


class Graph:
    """Reads a model whose shapes are all known."""

    def __init__(self, model: onnx.ModelProto) -> None:
        """Index a model; `model` is not changed."""
        self.nodes = list(model.graph.node)
        self._opset = next(item.version for item in model.opset_import if not item.domain)
        self._initializers = {item.name: item for item in model.graph.initializer}
        self._arrays: dict[str, Array] = {}
        self._producers = {name: node for node in self.nodes for name in node.output}
        self._consumers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in self.nodes:
            for name in node.input:
                self._consumers[name].append(node)
        self._outputs = {value.name for value in model.graph.output}
        self._shapes = {name: tuple(item.dims) for name, item in self._initializers.items()} | _static_shapes(model)
        self._constants = set(self._initializers)
        for node in self.nodes:
            if self._is_constant(node):
                self._constants.update(node.output)

    def producer(self, name: str, kind: str | None = None) -> onnx.NodeProto | None:
        """The node that makes a tensor, if it is of a kind (or any)."""
        node = self._producers.get(name)
        return node if node is not None and kind in (None, node.op_type) else None

    def consumers(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor, in order."""
        return self._consumers[name]

    def only_consumer(self, name: str, kind: str | None = None) -> onnx.NodeProto | None:
        """The node that reads a tensor, if it is the only one, of a kind (or any); None for outputs of the graph."""
        nodes = self._consumers[name]
        if len(nodes) != 1 or name in self._outputs or kind not in (None, nodes[0].op_type):
            return None
        return nodes[0]

    def shape(self, name: str) -> tuple[int, ...] | None:
        """Shape of a tensor, None where it is not known."""
        return self._shapes.get(name)

    def constant(self, name: str) -> Array | None:
        """Value of a tensor that depends on weights and shapes only, None for others."""
        if name not in self._constants:
            return None
        if name not in self._arrays:
            self._arrays[name] = self._evaluate(name)
        return self._arrays[name]

    def moving_inputs(self, node: onnx.NodeProto) -> list[str]:
        """Inputs of a node that are not constants."""
        return [name for name in node.input if name and name not in self._constants]

    def run_node(self, node: onnx.NodeProto, values: Mapping[str, Array]) -> list[Array]:
        """Compute one node with the reference of `onnx`; inputs that are not in `values` must be constants."""
        inputs = {name: values[name] if name in values else self.constant(name) for name in node.input if name}
        opset = [onnx.helper.make_opsetid("", self._opset)]
        function = onnx.helper.make_function("", node.op_type, list(inputs), list(node.output), [node], opset)
        return list(ReferenceEvaluator(function).run(None, inputs, attributes={}))

    def _is_constant(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "Shape":
            return self.shape(node.input[0]) is not None
        return not node.domain and all(name in self._constants for name in node.input if name)

    def _evaluate(self, name: str) -> Array:
        if name in self._initializers:
            return numpy_helper.to_array(self._initializers[name])
        node = self._producers[name]
        if node.op_type == "Shape":
            return self.run_node(node, {node.input[0]: np.empty(self._shapes[node.input[0]], np.bool_)})[0]
        return self.run_node(node, {})[list(node.output).index(name)]


def _static_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shapes of the tensors for which `onnx` can tell all of it."""
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        dims = value.type.tensor_type.shape.dim
        if all(dim.HasField("dim_value") for dim in dims):
            shapes[value.name] = tuple(dim.dim_value for dim in dims)
    return shapes


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer with a bias."""

    source: str
    """Its input, shape (…, C)."""
    result: str
    """Its output, shape (…, K)."""
    weight: Array
    """Shape (C, K); float32, or int8 if inputs are quantised dynamically."""
    scales: NDArray[np.float32] | None
    """Shape (K,), of int8 weights."""
    bias: NDArray[np.float32]
    """Shape (K,)."""


def linear_before(graph: Graph, name: str) -> Linear | None:
    """The linear layer that makes a tensor."""
    add = graph.producer(name, "Add")
    if add is None:
        return None
    for product, other in (add.input, tuple(reversed(add.input))):
        bias = graph.constant(other)
        if bias is not None and bias.ndim == 1 and bias.dtype == np.float32:
            return _float_linear(graph, product, bias, name) or _int8_linear(graph, product, bias, name)
    return None


def linear_after(graph: Graph, name: str) -> Linear | None:
    """The linear layer that reads a tensor, if nothing else does."""
    quantised = graph.only_consumer(name, "DynamicQuantizeLinear")
    matmul = graph.only_consumer(quantised.output[0], "MatMulInteger") if quantised else None
    node = matmul or graph.only_consumer(name, "MatMul")
    for _ in range(3):  # cast, scales, bias
        node = graph.only_consumer(node.output[0]) if node else None
        found = linear_before(graph, node.output[0]) if node else None
        if found:
            return found if found.source == name else None
    return None


def _float_linear(graph: Graph, product: str, bias: Array, result: str) -> Linear | None:
    matmul = graph.producer(product, "MatMul")
    weight = graph.constant(matmul.input[1]) if matmul else None
    if matmul is None or weight is None or weight.ndim != 2:
        return None
    return Linear(source=matmul.input[0], result=result, weight=weight, scales=None, bias=bias)


def _int8_linear(graph: Graph, product: str, bias: Array, result: str) -> Linear | None:
    """The form that ONNX Runtime's dynamic quantisation writes: integers, then their product with both scales."""
    scaled = graph.producer(product, "Mul")
    cast = graph.producer(scaled.input[0], "Cast") if scaled else None
    both = graph.producer(scaled.input[1], "Mul") if scaled else None
    integers = graph.producer(cast.input[0], "MatMulInteger") if cast else None
    quantised = graph.producer(integers.input[0], "DynamicQuantizeLinear") if integers else None
    if integers is None or quantised is None or both is None or both.input[0] != quantised.output[1]:
        return None
    weight, scales = graph.constant(integers.input[1]), graph.constant(both.input[1])
    zero = graph.constant(integers.input[3]) if len(integers.input) > 3 else None
    if weight is None or weight.dtype != np.int8 or scales is None or (zero is not None and zero.any()):
        return None
    scales = np.ascontiguousarray(np.broadcast_to(scales.astype(np.float32), (weight.shape[1],)))
    return Linear(source=quantised.input[0], result=result, weight=weight, scales=scales, bias=bias)
