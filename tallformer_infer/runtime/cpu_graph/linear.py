"""Linear layers of a graph, in float32 or int8, found by what they compute."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.runtime.cpu_graph.graph import Array, Graph


@dataclass(frozen=True, kw_only=True)
class Linear:
    """A linear layer with a bias."""

    source: str
    """Its input, shape (…, C)."""
    result: str
    """Its output, shape (…, K)."""
    weight: Array
    """Shape (C, K); float32, or int8 where inputs are quantised as they come."""
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
