"""Find the blocks of a windowed transformer in a graph, by what their nodes compute.

A block is found from its attention, and an attention from its softmax. From there the search follows nodes that only
move values to the linear layers before and after it, and to the feature maps. The mapping of positions is found by
sending row indices through these nodes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from tallformer_infer.runtime.cpu_graph.graph import Array, Graph, Linear, linear_after, linear_before

_MOVES = ("Concat", "Identity", "Reshape", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze")
"""Operators that move values, or bring in constants."""


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Self-attention of windows, from a map of positions to a map of positions."""

    source: str
    """Map before it is cut into windows, shape (1, …, C)."""
    result: str
    """Map joined from the windows, of the same shape."""
    qkv: Linear
    proj: Linear
    heads: int
    scale: float
    """Of the logits."""
    bias: NDArray[np.float32]
    """Added to the logits, shape (heads, tokens, tokens)."""
    mask: NDArray[np.float32] | None
    """Added to the logits, shape (masks, tokens, tokens); window `n` has mask `n % masks`."""
    cut: NDArray[np.int64]
    """Position of each token of each window; the number of positions for padding, shape (windows, tokens)."""
    join: NDArray[np.int64]
    """Token (row of all windows) of each position, shape (positions,)."""


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
    """All complete blocks, in order."""
    for attention in find_attentions(graph):
        block = _around(graph, attention)
        if block:
            yield block


def find_attentions(graph: Graph) -> Iterator[Attention]:
    """All windowed attentions, in order."""
    for node in graph.nodes:
        if node.op_type == "Softmax" and _is_over_keys(node, graph):
            found = _attention(graph, node)
            if found:
                yield found


@dataclass(frozen=True)
class _Part:
    """Queries, keys or values."""

    linear: Linear
    index: int
    """Which third of the layer's output."""
    scale: float
    is_turned: bool
    """Whether tokens come last."""


def _attention(graph: Graph, softmax: onnx.NodeProto) -> Attention | None:
    mixing = graph.only_consumer(softmax.output[0], "MatMul")
    product, added = _logits(graph, softmax.input[0])
    if mixing is None or product is None:
        return None
    query, key, value = (_part(graph, name) for name in (*product.input, mixing.input[1]))
    if query is None or key is None or value is None:
        return None
    if not query.linear.result == key.linear.result == value.linear.result or value.scale != 1:
        return None
    if [(part.index, part.is_turned) for part in (query, key, value)] != [(0, False), (1, True), (2, False)]:
        return None
    proj = linear_after(graph, _heads_together(graph, mixing.output[0]))
    terms = _bias_and_mask(added)
    if proj is None or terms is None:
        return None
    return _with_maps(graph, query.linear, proj, scale=query.scale * key.scale, terms=terms)


def _is_over_keys(softmax: onnx.NodeProto, graph: Graph) -> bool:
    shape = graph.shape(softmax.input[0])
    axis = next((item.i for item in softmax.attribute if item.name == "axis"), -1)
    return shape is not None and len(shape) == 4 and axis in (-1, 3)


def _with_maps(
    graph: Graph, qkv: Linear, proj: Linear, *, scale: float, terms: tuple[Array, Array | None]
) -> Attention | None:
    source, result = _first_moved(graph, qkv.source), _last_moved(graph, proj.result)
    windows, size = graph.shape(qkv.source), graph.shape(source)
    if windows is None or len(windows) != 3 or size is None or size[0] != 1 or graph.shape(result) != size:
        return None
    positions = int(np.prod(size[:-1]))
    cut = _moved_rows(graph, source, qkv.source, size[-1])
    join = _moved_rows(graph, proj.result, result, size[-1])
    if cut is None or join is None or len(join) != positions or (join < 0).any():
        return None
    if terms[1] is not None and windows[0] % len(terms[1]):
        return None
    return Attention(
        source=source,
        result=result,
        qkv=qkv,
        proj=proj,
        heads=terms[0].shape[0],
        scale=scale,
        bias=terms[0],
        mask=terms[1],
        cut=np.where(cut < 0, positions, cut).reshape(windows[:2]),
        join=join,
    )


def _logits(graph: Graph, name: str) -> tuple[onnx.NodeProto | None, list[Array]]:
    """The product that logits begin with, and the constants that are added to it."""
    added: list[Array] = []
    while (node := graph.producer(name)) is not None and node.op_type in ("Add", "Reshape"):
        for one in node.input if node.op_type == "Add" else ():
            value = graph.constant(one)
            if value is not None:
                added.append(value)
        moving = graph.moving_inputs(node)
        if len(moving) != 1:
            return None, []
        name = moving[0]
    return graph.producer(name, "MatMul"), added


def _bias_and_mask(added: Sequence[Array]) -> tuple[Array, Array | None] | None:
    """The bias of heads (heads, tokens, tokens), and the mask of windows (masks, tokens, tokens) if there is one."""
    biases = [one for one in added if one.ndim == 3]
    masks = [one[:, 0] for one in added if one.ndim == 4 and one.shape[1] == 1]
    if len(biases) != 1 or len(masks) > 1 or len(biases) + len(masks) != len(added):
        return None
    return biases[0], masks[0] if masks else None


def _part(graph: Graph, name: str) -> _Part | None:
    """Follow queries, keys or values (windows, heads, tokens, D) back to the layer that makes all three."""
    scale, index, is_turned = 1.0, None, False
    while (node := graph.producer(name)) is not None and len(moving := graph.moving_inputs(node)) == 1:
        attributes = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
        if node.op_type == "Mul":
            factor = next(value for one in node.input if (value := graph.constant(one)) is not None)
            scale *= float(factor) if factor.size == 1 else float("nan")
        elif node.op_type == "Transpose" and list(attributes["perm"]) == [0, 1, 3, 2] and index is None:
            is_turned = not is_turned
        elif node.op_type in ("Slice", "Split", "Gather") and index is None:
            index = _index_of_slice(graph, node, name)
        elif node.op_type == "Transpose" and list(attributes["perm"]) == [2, 0, 3, 1, 4] and index is not None:
            cut = graph.producer(moving[0], "Reshape")
            linear = linear_before(graph, cut.input[0]) if cut else None
            return _Part(linear, index, scale, is_turned) if linear else None
        elif node.op_type != "Squeeze":
            return None
        name = moving[0]
    return None


def _index_of_slice(graph: Graph, node: onnx.NodeProto, name: str) -> int | None:
    """Which of three along the first axis a node takes."""
    if node.op_type == "Split":
        return list(node.output).index(name) if len(node.output) == 3 else None
    values = [graph.constant(one) for one in node.input[1:]]
    if any(value is None or value.size != 1 for value in values):
        return None
    return int(values[0].item()) if values[0] is not None else None


def _heads_together(graph: Graph, name: str) -> str:
    """From values by head, (windows, heads, tokens, D), to (windows, tokens, C)."""
    turn = graph.only_consumer(name, "Transpose")
    if turn is None or list(turn.attribute[0].ints) != [0, 2, 1, 3]:
        return name
    joined = graph.only_consumer(turn.output[0], "Reshape")
    return joined.output[0] if joined is not None else name


def _first_moved(graph: Graph, name: str) -> str:
    """Where a tensor's values come from, over nodes that only move them."""
    while (node := graph.producer(name)) is not None and node.op_type in _MOVES:
        moving = {_first_moved(graph, one) for one in graph.moving_inputs(node)}
        if len(moving) != 1:
            break
        name = moving.pop()
    return name


def _last_moved(graph: Graph, name: str) -> str:
    """Where a tensor's values go, over nodes that only move them."""
    while (nodes := graph.consumers(name)) and all(node.op_type in _MOVES for node in nodes):
        ends = {_last_moved(graph, one) for node in nodes for one in node.output}
        if len(ends) != 1:
            break
        name = ends.pop()
    return name


def _moved_rows(graph: Graph, source: str, result: str, channels: int) -> NDArray[np.int64] | None:
    """Row of `source` that each row of `result` is, -1 for zeros; None if channels do not stay together."""
    shape = graph.shape(source)
    if shape is None:
        return None
    rows = int(np.prod(shape[:-1]))
    numbers = np.repeat(np.arange(1, rows + 1, dtype=np.float32), channels).reshape(shape)
    moved = _send(graph, result, {source: numbers}).reshape(-1, channels)
    if (moved != moved[:, :1]).any():
        return None
    return moved[:, 0].astype(np.int64) - 1


def _send(graph: Graph, name: str, values: dict[str, Array]) -> Array:
    if name not in values:
        constant = graph.constant(name)
        if constant is not None:
            return constant
        node = graph.producer(name)
        assert node is not None
        for one in graph.moving_inputs(node):
            values[one] = _send(graph, one, values)
        values.update(zip(node.output, graph.run_node(node, values), strict=True))
    return values[name]


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
