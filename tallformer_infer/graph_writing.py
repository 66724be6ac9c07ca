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
            *(bytes_field(1, _node(node)) for node in nodes),
            bytes_field(2, name.encode()),
            *(bytes_field(5, _constant(constant)) for constant in constants),
            *(bytes_field(11, _value(value)) for value in inputs),
            *(bytes_field(12, _value(value)) for value in outputs),
        )
    )
    opset = bytes_field(1, b"") + integer_field(2, _OPSET)
    return integer_field(1, _IR_VERSION) + bytes_field(7, graph) + bytes_field(8, opset)


def _node(node: Node) -> bytes:
    fields = [*(bytes_field(1, name.encode()) for name in node.inputs), bytes_field(2, node.output.encode())]
    return b"".join((*fields, bytes_field(4, node.operator.encode())))


def _value(value: Value) -> bytes:
    shape = b"".join(bytes_field(1, integer_field(1, size)) for size in value.shape)
    tensor = integer_field(1, _NUMBERS[value.elements]) + bytes_field(2, shape)
    return bytes_field(1, value.name.encode()) + bytes_field(2, bytes_field(1, tensor))


def _constant(constant: Constant) -> bytes:
    sizes = b"".join(integer_field(1, size) for size in constant.shape)
    elements = integer_field(2, _NUMBERS[constant.elements])
    return sizes + elements + bytes_field(8, constant.name.encode()) + bytes_field(9, constant.content)


def integer_field(field: int, value: int) -> bytes:
    """A field of a protocol buffer that is a whole number."""
    return _varint(field << 3) + _varint(value)


def bytes_field(field: int, content: bytes) -> bytes:
    """A field of a protocol buffer that is text, bytes or another message."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    """Seven bits per byte, the lowest first; the eighth says that more follow."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
