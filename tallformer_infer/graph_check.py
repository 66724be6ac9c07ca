"""What a graph of a bundle may hold, checked on its bytes before any runtime sees them.

Note [what is refused]
    A graph is data from someone else, and ONNX lets it name files: tensors kept elsewhere, libraries of functions,
    engines. A bundle's graphs are one file each and compute with standard operators only, so all else is refused: a
    tensor outside the file (whatever its path), an operator that is not listed here, functions that the file defines
    itself, parts for training, sparse tensors (whose few values may stand for any size), and ONNX Runtime's own format,
    in which none of this could be seen. How much memory a graph asks for is another question, see `graph_sizes`.

Note [reading without onnx]
    The `onnx` package is no part of the base install. ONNX files are protocol buffers, of which only the tree of nodes
    is walked here; weights are skipped by their length, so the time depends on the number of nodes, not on the size.
    Where a reader could be led to see something else than the runtime does (a field that is given twice, an unknown
    kind of value), every occurrence is checked, or the file is refused.
    Source: protobuf.dev/programming-guides/encoding; field numbers from onnx/onnx.proto3 (Apache-2.0).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from tallformer_infer.errors import BundleError

Walked = Literal["model", "graph", "node", "attribute", "tensor", "sparse"]

_COMPUTING = """
    Abs Add And ArgMax ArgMin AveragePool BatchNormalization Cast Ceil Clip Concat Constant ConstantOfShape Conv
    ConvTranspose CumSum Div Equal Erf Exp Expand Flatten Floor Gather GatherElements GatherND Gelu Gemm
    GlobalAveragePool Greater GreaterOrEqual GroupNormalization HardSigmoid HardSwish Identity InstanceNormalization
    LayerNormalization LeakyRelu Less LessOrEqual Log MatMul Max MaxPool Mean Min Mod Mul Neg Not Or Pad Pow Range
    Reciprocal ReduceL2 ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare Relu Reshape Round
    ScatterElements Shape Sigmoid Sign Size Slice Softmax Softplus Split Sqrt Squeeze Sub Sum Tanh Tile TopK Transpose
    Unsqueeze Where Xor
"""
_QUANTISED = """
    ConvInteger DequantizeLinear DynamicQuantizeLinear MatMulInteger QLinearConv QLinearMatMul QuantizeLinear
"""
_SUPPRESSING = "Loop NonMaxSuppression NonZero ScatterND"

ALLOWED_OPS: dict[str, frozenset[str]] = {
    "encoder": frozenset((_COMPUTING + _QUANTISED).split()),
    "localizer": frozenset((_COMPUTING + _QUANTISED).split()),
    "suppress": frozenset((_COMPUTING + _SUPPRESSING).split()),
}
"""Operators by graph, all of ONNX's own domain: those that export writes or may come to write, none of which reaches
beyond its inputs. Encoder and localizer have none that branches or repeats, or whose result's size depends on data."""

_STANDARD_DOMAINS = ("", "ai.onnx")
_NO_ONNX = "is not an ONNX file"
_ORT_FORMAT = b"ORTM"
"""At byte 4 of a file in ONNX Runtime's own format."""

_CHILDREN: dict[tuple[Walked, int], Walked] = {
    ("model", 7): "graph",
    ("graph", 1): "node",
    ("graph", 5): "tensor",
    ("graph", 15): "sparse",
    ("node", 5): "attribute",
    ("attribute", 5): "tensor",
    ("attribute", 6): "graph",
    ("attribute", 10): "tensor",
    ("attribute", 11): "graph",
    ("attribute", 22): "sparse",
    ("attribute", 23): "sparse",
}
_METADATA, _TRAINING, _FUNCTIONS = 14, 20, 25  # of a model
_OP_TYPE, _DOMAIN = 4, 7  # of a node
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

Field = tuple[int, int, int, int]
"""Number, kind, and the place of its bytes; of a varint the value, and 0."""


class MalformedError(BundleError):
    """It is no protocol buffer."""

    def __init__(self) -> None:
        super().__init__(_NO_ONNX)


def refusal(content: bytes, graph: str) -> str | None:
    """Why a graph must not be run, to be put after the name of its file; None where it may.

    Args:
        content: The ONNX file.
        graph: `encoder`, `localizer` or `suppress`.
    """
    if content[4:8] == _ORT_FORMAT:
        return "is in the format of ONNX Runtime; expected ONNX"
    try:
        return _walk(content, ALLOWED_OPS[graph], graph)
    except MalformedError:
        return _NO_ONNX


def metadata(content: bytes) -> dict[str, str]:
    """What an ONNX file that was checked says of itself."""
    said = {}
    for number, wire, at, size in fields(content, 0, len(content)):
        if number == _METADATA and wire == _BYTES:
            entry = {
                field: content[place : place + length] for field, _, place, length in fields(content, at, at + size)
            }
            said[entry.get(1, b"").decode(errors="replace")] = entry.get(2, b"").decode(errors="replace")
    return said


def _walk(content: bytes, allowed: frozenset[str], graph: str) -> str | None:
    waiting: list[tuple[Walked, int, int]] = [("model", 0, len(content))]
    has_graph = False
    while waiting:
        kind, start, end = waiting.pop()
        has_graph = has_graph or kind == "graph"
        op_types: list[str] = []
        for number, wire, at, size in fields(content, start, end):
            child = _CHILDREN.get((kind, number)) if wire == _BYTES else None
            if child == "sparse":
                return "has a sparse tensor; a bundle's graphs have none"
            if child is not None:
                waiting.append((child, at, at + size))
            elif kind == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and (size or at):
                return _of_outside(content, at, size)
            elif kind == "model" and number in (_TRAINING, _FUNCTIONS):
                return "defines functions of its own, or parts for training; a bundle's graphs have neither"
            elif kind == "node" and wire == _BYTES and number in (_OP_TYPE, _DOMAIN):
                text = content[at : at + size].decode(errors="replace")
                if number == _OP_TYPE:
                    op_types.append(text)
                elif text not in _STANDARD_DOMAINS:
                    return f"has an operator of {text!r}; a bundle's graphs have only standard ones"
        if kind == "node" and not (op_types and allowed.issuperset(op_types)):
            return f"has the operator {', '.join(op_types) or '(none)'!r}, which {graph} graphs must not have"
    return None if has_graph else _NO_ONNX


def _of_outside(content: bytes, at: int, size: int) -> str:
    """For a tensor whose weights lie elsewhere; `at` and `size` are those of a key and its value, if they are told."""
    texts = [
        content[place : place + length] for _, wire, place, length in fields(content, at, at + size) if wire == _BYTES
    ]
    told = f" ({texts[1].decode(errors='replace')!r})" if len(texts) == 2 and texts[0] == b"location" else ""
    return f"keeps weights in another file{told}; a bundle's graphs are one file each"


def fields(content: bytes, start: int, end: int) -> Iterator[Field]:
    """The fields of a protocol buffer between two places."""
    at = start
    while at < end:
        key, at = _varint(content, at, end)
        number, wire = key >> 3, key & 7
        size = 0
        if wire == _VARINT:
            value, at = _varint(content, at, end)
            yield number, wire, value, 0
        elif wire == _BYTES:
            size, at = _varint(content, at, end)
            if size <= end - at:
                yield number, wire, at, size
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise MalformedError
        at += size
        if number == 0 or at > end:
            raise MalformedError


def _varint(content: bytes, at: int, end: int) -> tuple[int, int]:
    """A whole number of 7 bits a byte, and the place behind it."""
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
