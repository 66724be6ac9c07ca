"""The smallest ONNX graph worth running: relu(left @ right), written without the package `onnx`."""

from __future__ import annotations

INPUTS = ("left", "right")
OUTPUT = "product"
SIDE = 8
"""Rows and columns of the inputs and of the output, which are float32."""

_OPSET, _IR_VERSION, _FLOAT = 17, 8, 1


def smallest_graph() -> bytes:
    """The model file.

    Source: field numbers from `onnx.proto` (ONNX 1.18), encoding from the Protocol Buffers documentation.
    """
    nodes = [_node("MatMul", INPUTS, "sum"), _node("Relu", ("sum",), OUTPUT)]
    graph = b"".join(
        (
            *(_bytes(1, node) for node in nodes),
            _bytes(2, b"smallest"),
            *(_bytes(11, _value(name)) for name in INPUTS),
            _bytes(12, _value(OUTPUT)),
        )
    )
    opset = _bytes(1, b"") + _integer(2, _OPSET)
    return _integer(1, _IR_VERSION) + _bytes(7, graph) + _bytes(8, opset)


def _node(operator: str, inputs: tuple[str, ...], output: str) -> bytes:
    fields = [*(_bytes(1, name.encode()) for name in inputs), _bytes(2, output.encode()), _bytes(4, operator.encode())]
    return b"".join(fields)


def _value(name: str) -> bytes:
    """A named matrix of float32."""
    side = _bytes(1, _integer(1, SIDE))
    tensor = _integer(1, _FLOAT) + _bytes(2, side + side)
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, tensor))


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
