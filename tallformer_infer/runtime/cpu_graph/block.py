"""Blocks of a windowed transformer, found in a graph from their attention."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tallformer_infer.runtime.cpu_graph.attention import Attention, find_attentions
from tallformer_infer.runtime.cpu_graph.graph import Graph
from tallformer_infer.runtime.cpu_graph.linear import Linear, linear_after


@dataclass(frozen=True, kw_only=True)
class Norm:
    """A layer norm over channels."""

    weight: NDArray[np.float32]
    bias: NDArray[np.float32]
    epsilon: float


@dataclass(frozen=True, kw_only=True)
class Block:
    """x + attention(norm(x)), then y + mlp(norm(y)), for a map of positions."""

    source: str
    """Map x, shape `shape`."""
    result: str
    """Map of the same shape."""
    shape: tuple[int, ...]
    """(1, …, C)."""
    norm1: Norm
    attention: Attention
    norm2: Norm
    fc1: Linear
    fc2: Linear


def find_blocks(graph: Graph) -> Iterator[Block]:
    """Every block that is whole, in order."""
    for attention in find_attentions(graph):
        block = _around(graph, attention)
        if block:
            yield block


def _around(graph: Graph, attention: Attention) -> Block | None:
    before = _norm(graph.producer(attention.source, "LayerNormalization"), graph)
    shape = graph.shape(attention.source)
    if before is None or shape is None:
        return None
    norm1, source = before
    middle = _sum(graph, source, attention.result)
    after = [one for one in graph.consumers(middle) if one.op_type == "LayerNormalization"] if middle else []
    second = _norm(after[0], graph) if len(after) == 1 else None
    fc1 = linear_after(graph, after[0].output[0]) if second else None
    gelu = graph.only_consumer(fc1.result, "Gelu") if fc1 else None
    fc2 = linear_after(graph, gelu.output[0]) if gelu and not _is_approximate(gelu) else None
    result = _sum(graph, middle, fc2.result) if middle and fc2 else None
    if second is None or fc1 is None or fc2 is None or result is None:
        return None
    return Block(
        source=source,
        result=result,
        shape=shape,
        norm1=norm1,
        attention=attention,
        norm2=second[0],
        fc1=fc1,
        fc2=fc2,
    )


def _norm(node: onnx.NodeProto | None, graph: Graph) -> tuple[Norm, str] | None:
    """A layer norm over the last axis, and what it is applied to."""
    if node is None or len(node.input) != 3:
        return None
    weight, bias = (graph.constant(name) for name in node.input[1:])
    attributes = {item.name: item for item in node.attribute}
    if weight is None or bias is None or ("axis" in attributes and attributes["axis"].i != -1):
        return None
    epsilon = attributes["epsilon"].f if "epsilon" in attributes else 1e-5
    return Norm(weight=weight, bias=bias, epsilon=epsilon), node.input[0]


def _sum(graph: Graph, one: str, other: str) -> str | None:
    """The sum of two tensors, the second of which nothing else reads."""
    node = graph.only_consumer(other, "Add")
    return node.output[0] if node is not None and set(node.input) == {one, other} else None


def _is_approximate(gelu: onnx.NodeProto) -> bool:
    return any(item.name == "approximate" and item.s != b"none" for item in gelu.attribute)
