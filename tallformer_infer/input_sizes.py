"""Sizes into the declared inputs of an ONNX file that leaves them open, without the package `onnx`.

A graph that takes pictures of any size (`tallformer export --any-size`) has names for their height and width. A bundle
says in numbers at which it runs the graph, and runtimes get a file with these, which they can plan and optimise for.

Source: field numbers from `onnx.proto` (ONNX 1.18), encoding from the Protocol Buffers documentation.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tallformer_infer.errors import BundleError
from tallformer_infer.graph_check import fields
from tallformer_infer.graph_writing import bytes_field, integer_field

Shape = Sequence[int | str]

_GRAPH, _INPUT = 7, 11
_NAME, _TYPE, _TENSOR, _SHAPE = 1, 2, 1, 2  # of an input, of its type, of a tensor's type
_DIM, _NUMBER = 1, 1  # of a shape, of one of its dimensions
_BYTES = 2


def with_input_sizes(content: bytes, shapes: Mapping[str, Shape]) -> bytes:
    """The file with numbers for sizes of inputs that it leaves open; the same object where there are none.

    Args:
        content: An ONNX file that was checked, see `graph_check`.
        shapes: Of its inputs, by name; a name among the sizes leaves that one open.

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
    """A message with other content in the fields of a number; all else is copied as it is."""
    parts, copied = [], 0
    for number, wire, at, size in fields(content, 0, len(content)):
        if number != wanted or wire != _BYTES:
            continue
        before = content[at : at + size]
        after = change(before)
        if after is not before and after != before:
            field = bytes_field(number, after)
            start = at - len(bytes_field(number, before)) + size  # of the field's key
            parts += [content[copied:start], field]
            copied = at + size
    return b"".join([*parts, content[copied:]]) if parts else content
