"""Small ONNX graphs, written without the package `onnx`, which an install for GPUs does not have.

Source: field numbers from `onnx.proto` (ONNX 1.18), encoding from the Protocol Buffers documentation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

ElementType = Literal["float32", "float16", "uint8", "int8", "int32"]
_NUMBERS: dict[ElementType, int] = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "float16": 10}
_OPSET, _IR_VERSION = 17, 8


@dataclass(frozen=True)
class Node:
    """One operator without attributes."""

    operator: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Value:
    """A named tensor that goes in or comes out."""

    name: str
    shape: tuple[int, ...]
    elements: ElementType = "float32"


@dataclass(frozen=True)
class Constant:
    """A named tensor that is part of the graph."""

    name: str
    shape: tuple[int, ...]
    content: bytes
    """Its elements, little-endian, the last dimension running fastest."""
    elements: ElementType = "float32"


def write_graph(
    name: str,
    nodes: Sequence[Node],
    *,
    inputs: Sequence[Value],
    outputs: Sequence[Value],
    constants: Sequence[Constant] = (),
) -> bytes:
    """The model file of a graph whose shapes are fixed."""
    graph = b"".join(
        (
            *(_bytes(1, _node(node)) for node in nodes),
            _bytes(2, name.encode()),
            *(_bytes(5, _constant(constant)) for constant in constants),
            *(_bytes(11, _value(value)) for value in inputs),
            *(_bytes(12, _value(value)) for value in outputs),
        )
    )
    opset = _bytes(1, b"") + _integer(2, _OPSET)
    return _integer(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _node(node: Node) -> bytes:
    fields = [*(_bytes(1, name.encode()) for name in node.inputs), _bytes(2, node.output.encode())]
    return b"".join((*fields, _bytes(4, node.operator.encode())))


def _value(value: Value) -> bytes:
    shape = b"".join(_bytes(1, _integer(1, size)) for size in value.shape)
    tensor = _integer(1, _NUMBERS[value.elements]) + _bytes(2, shape)
    return _bytes(1, value.name.encode()) + _bytes(2, _bytes(1, tensor))


def _constant(constant: Constant) -> bytes:
    sizes = b"".join(_integer(1, size) for size in constant.shape)
    elements = _integer(2, _NUMBERS[constant.elements])
    return sizes + elements + _bytes(8, constant.name.encode()) + _bytes(9, constant.content)


def _integer(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value)


def _bytes(field: int, content: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits per byte, the lowest first; the eighth says that more follow."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
