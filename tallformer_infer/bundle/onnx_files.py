"""Read and write ONNX files as protocol buffers, without the package `onnx`, which may not be installed.

Only the tree of messages is read: weights are skipped by their length, so the time depends on the number of nodes, not
on the size of the file. What is written are small graphs of fixed shapes, and sizes for inputs that a file leaves open.
Source: protobuf.dev/programming-guides/encoding; field numbers from onnx/onnx.proto3 (ONNX 1.18, Apache-2.0).

Note [open input sizes]
    A graph that takes pictures of any size (`tallformer export --any-size`) has names for their height and width. A
    bundle states in numbers at which size it runs the graph; runtimes get a file with these numbers, which they can
    plan and optimise for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tallformer_infer.errors import BundleError

ElementType = Literal["float32", "float16", "uint8", "int8", "int32"]
_NUMBERS: dict[ElementType, int] = {"float32": 1, "uint8": 2, "int8": 3, "int32": 6, "float16": 10}
_OPSET, _IR_VERSION = 17, 8

_GRAPH, _INPUT, _METADATA = 7, 11, 14  # of a model, of a graph, of a model
_NAME, _TYPE, _TENSOR, _SHAPE = 1, 2, 1, 2  # of an input, its type, the type of a tensor
_DIM, _NUMBER = 1, 1  # of a shape, one of its dimensions
_VARINT, _FIXED64, BYTES, _FIXED32 = 0, 1, 2, 5
NO_ONNX = "is not an ONNX file"

Shape = Sequence[int | str]
"""Sizes by dimension; a name stands for any number."""
Field = tuple[int, int, int, int]
"""Number, wire type, and offset and length of its bytes; of a varint, the value and 0."""


class MalformedError(BundleError):
    """The file is not a protocol buffer."""

    def __init__(self) -> None:
        super().__init__(NO_ONNX)


@dataclass(frozen=True)
class Node:
    """One operator without attributes."""

    operator: str
    inputs: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Value:
    """A named input or output."""

    name: str
    shape: tuple[int, ...]
    elements: ElementType = "float32"


@dataclass(frozen=True)
class Constant:
    """A named tensor that is part of the graph."""

    name: str
    shape: tuple[int, ...]
    content: bytes
    """Its elements, little-endian, in row-major order."""
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


def with_input_sizes(content: bytes, shapes: Mapping[str, Shape]) -> bytes:
    """Replace open input sizes of a file by numbers; returns the same object if there are none.

    Args:
        content: An ONNX file that was checked, see `checks`.
        shapes: Shapes of its inputs, by name; a string in a shape leaves that size open.

    Raises:
        BundleError: An input has another number of dimensions.
    """
    return _with_field(content, _GRAPH, lambda graph: _with_field(graph, _INPUT, lambda value: _sized(value, shapes)))


def _sized(value: bytes, shapes: Mapping[str, Shape]) -> bytes:
    """A declared input, a `ValueInfoProto`."""
    named = [value[at : at + size] for number, _, at, size in fields(value, 0, len(value)) if number == _NAME]
    name = named[-1].decode(errors="replace") if named else ""
    if name not in shapes:
        return value

    def sized(shape: bytes) -> bytes:
        return _sized_shape(shape, shapes[name], name)

    return _with_field(
        value, _TYPE, lambda kind: _with_field(kind, _TENSOR, lambda tensor: _with_field(tensor, _SHAPE, sized))
    )


def _sized_shape(shape: bytes, wanted: Shape, name: str) -> bytes:
    sizes = iter(wanted)
    count = sum(number == _DIM for number, _, _, _ in fields(shape, 0, len(shape)))
    if count != len(wanted):
        raise BundleError(f"input {name!r} has {count} dimensions, the description says {list(wanted)}")

    def sized(dim: bytes) -> bytes:
        size = next(sizes)
        has_number = any(number == _NUMBER for number, _, _, _ in fields(dim, 0, len(dim)))
        return dim if has_number or isinstance(size, str) else integer_field(_NUMBER, size)

    return _with_field(shape, _DIM, sized)


def _with_field(content: bytes, wanted: int, change: Callable[[bytes], bytes]) -> bytes:
    """Change the content of all fields with a given number in a message; copy everything else."""
    parts, copied = [], 0
    for number, wire, at, size in fields(content, 0, len(content)):
        if number != wanted or wire != BYTES:
            continue
        before = content[at : at + size]
        after = change(before)
        if after is not before and after != before:
            field = bytes_field(number, after)
            start = at - len(bytes_field(number, before)) + size  # of the field's key
            parts += [content[copied:start], field]
            copied = at + size
    return b"".join([*parts, content[copied:]]) if parts else content


def metadata(content: bytes) -> dict[str, str]:
    """The metadata of an ONNX file that was checked."""
    said = {}
    for number, wire, at, size in fields(content, 0, len(content)):
        if number == _METADATA and wire == BYTES:
            entry = {
                field: content[place : place + length] for field, _, place, length in fields(content, at, at + size)
            }
            said[entry.get(1, b"").decode(errors="replace")] = entry.get(2, b"").decode(errors="replace")
    return said


def fields(content: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of a message, between two offsets.

    Raises:
        MalformedError: It is not a protocol buffer.
    """
    at = start
    while at < end:
        key, at = _read_varint(content, at, end)
        number, wire = key >> 3, key & 7
        size = 0
        if wire == _VARINT:
            value, at = _read_varint(content, at, end)
            yield number, wire, value, 0
        elif wire == BYTES:
            size, at = _read_varint(content, at, end)
            if size <= end - at:
                yield number, wire, at, size
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise MalformedError
        at += size
        if number == 0 or at > end:
            raise MalformedError


def _read_varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A whole number, and the offset behind it."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
    raise MalformedError


def integer_field(field: int, value: int) -> bytes:
    """A field of a protocol buffer that is a whole number."""
    return _written_varint(field << 3) + _written_varint(value)


def bytes_field(field: int, content: bytes) -> bytes:
    """A field of a protocol buffer that is text, bytes or another message."""
    return _written_varint(field << 3 | 2) + _written_varint(len(content)) + content


def _written_varint(value: int) -> bytes:
    """A whole number, 7 bits per byte, lowest first; the eighth bit is set if more bytes follow."""
    digits = bytearray()
    while value > 0x7F:
        digits.append(value & 0x7F | 0x80)
        value >>= 7
    digits.append(value)
    return bytes(digits)
