"""Check the content of a bundle's graphs and the memory they need, before any runtime loads them.

Note [what is refused]
    A graph is untrusted data, and ONNX allows it to refer to files: external tensors, function libraries, engines. A
    bundle's graphs are one file each and use standard operators only, so everything else is refused: external tensors
    (whatever their paths), operators that are not listed here, functions defined in the file, parts for training,
    sparse tensors (whose few values may represent any size), and ONNX Runtime's own format, in which none of this could
    be checked. If a parser could read something else than the runtime (a duplicate field, an unknown wire type), every
    occurrence is checked, or the file is refused.

Note [memory of a graph]
    A file of a kilobyte can require terabytes: `Expand`, `Tile`, `ConstantOfShape`, `Range` and `Pad` create tensors of
    any size, and so do the sum of a row and a column, or a `Concat` that doubles forty times. The shapes of all tensors
    are therefore inferred by `onnx`, and the sizes of live tensors are added up, node by node. The sum may not exceed a
    multiple of the inputs and outputs declared in `bundle.json`: Video Swin's attention alone takes 49 to 100 bytes for
    each byte of pixels. Tensors whose size cannot be inferred are refused: our graphs have none. Every extra with a
    runtime includes `onnx`; without it, memory is not checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from math import prod
from typing import Any, Literal

from tallformer_infer.bundle.onnx_files import BYTES, NO_ONNX, MalformedError, Shape, fields

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
"""Allowed operators by graph, all from ONNX's own domain: those that export writes or may write in future, none of
which accesses anything but its inputs. Encoder and localizer have no branches, loops or data-dependent sizes."""

_STANDARD_DOMAINS = ("", "ai.onnx")
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
_TRAINING, _FUNCTIONS = 20, 25  # of a model
_OP_TYPE, _DOMAIN = 4, 7  # of a node
_EXTERNAL_DATA, _DATA_LOCATION = 13, 14  # of a tensor

_BYTES_PER_NUMBER = 512
"""Memory allowed per number of inputs and outputs; see Note [memory of a graph]."""
_ALWAYS_BYTES = 512 * 2**20
"""Memory that is always allowed, in bytes."""
_BATCHES = (1, 8)
"""Batch sizes to check: one item, and the maximum of the runtimes."""
_SMALL = 4096
"""Maximum number of elements of a constant whose values may become part of a shape."""
_ON_LISTS = frozenset(
    [
        "Add",
        "Cast",
        "Div",
        "Gather",
        "Identity",
        "Max",
        "Min",
        "Mul",
        "Neg",
        "Reshape",
        "Slice",
        "Squeeze",
        "Sub",
        "Unsqueeze",
    ]
)
"""Operators whose results shape inference computes, besides `Concat`; a few more than it really does."""
_MOST_AXES = 64
_LONGEST_VALUE = 100_000
"""Maximum number of elements of a computed value; `onnx` keeps those that may become shapes in memory."""


def refusal(content: bytes, graph: str) -> str | None:
    """Reason why a graph must not be run, worded to follow the name of its file; None if it may be run.

    Args:
        content: The ONNX file.
        graph: `encoder`, `localizer` or `suppress`.
    """
    if content[4:8] == _ORT_FORMAT:
        return "is in the format of ONNX Runtime; expected ONNX"
    try:
        return _walk(content, ALLOWED_OPS[graph], graph)
    except MalformedError:
        return NO_ONNX


def _walk(content: bytes, allowed: frozenset[str], graph: str) -> str | None:
    waiting: list[tuple[Walked, int, int]] = [("model", 0, len(content))]
    has_graph = False
    while waiting:
        kind, start, end = waiting.pop()
        has_graph = has_graph or kind == "graph"
        op_types: list[str] = []
        for number, wire, at, size in fields(content, start, end):
            child = _CHILDREN.get((kind, number)) if wire == BYTES else None
            if child == "sparse":
                return "has a sparse tensor; a bundle's graphs have none"
            if child is not None:
                waiting.append((child, at, at + size))
            elif kind == "tensor" and number in (_EXTERNAL_DATA, _DATA_LOCATION) and (size or at):
                return _of_outside(content, at, size)
            elif kind == "model" and number in (_TRAINING, _FUNCTIONS):
                return "defines functions of its own, or parts for training; a bundle's graphs have neither"
            elif kind == "node" and wire == BYTES and number in (_OP_TYPE, _DOMAIN):
                text = content[at : at + size].decode(errors="replace")
                if number == _OP_TYPE:
                    op_types.append(text)
                elif text not in _STANDARD_DOMAINS:
                    return f"has an operator of {text!r}; a bundle's graphs have only standard ones"
        if kind == "node" and not (op_types and allowed.issuperset(op_types)):
            return f"has the operator {', '.join(op_types) or '(none)'!r}, which {graph} graphs must not have"
    return None if has_graph else NO_ONNX


def _of_outside(content: bytes, at: int, size: int) -> str:
    """Message for a tensor with external weights; `at` and `size` locate the key and value that name the file."""
    texts = [
        content[place : place + length] for _, wire, place, length in fields(content, at, at + size) if wire == BYTES
    ]
    told = f" ({texts[1].decode(errors='replace')!r})" if len(texts) == 2 and texts[0] == b"location" else ""
    return f"keeps weights in another file{told}; a bundle's graphs are one file each"


def excess(content: bytes, declared: Sequence[Shape]) -> str | None:
    """Reason why a graph needs too much memory, worded to follow the name of its file; None if it does not.

    Args:
        content: The ONNX file, whose operators were checked by `refusal`.
        declared: Shapes of all inputs and outputs from `bundle.json`; a name stands for the batch size.
    """
    if find_spec("onnx") is None:
        return None
    try:
        _check_memory(content, declared)
    except _RefusedError as refused:
        return str(refused)
    return None


class _RefusedError(Exception):
    """Its message says why."""


def _check_memory(content: bytes, declared: Sequence[Shape]) -> None:
    import onnx  # noqa: PLC0415 (takes a third of a second, and may be missing)

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's, which is no dependency of ours
        raise _RefusedError(NO_ONNX) from error
    if any(prod(weights.dims) > 2 * len(content) for weights in _constants(model)):  # two of 4 bits are a byte
        raise _RefusedError("has weights with more numbers than the file holds")
    _drop_large_values(model)
    if _longest_value(model) > _LONGEST_VALUE:
        raise _RefusedError("joins constants to a value that no shape needs")
    for items in _BATCHES:
        numbers = sum(prod(size if isinstance(size, int) else items for size in shape) for shape in declared)
        limit = max(_BYTES_PER_NUMBER * numbers, _ALWAYS_BYTES) + len(content)
        peak = _peak_bytes(model, items)
        if peak > limit:
            raise _RefusedError(f"asks for {peak / 1e9:,.1f} GB; the shapes in bundle.json allow {limit / 1e9:,.1f} GB")


def _constants(model: Any) -> Iterator[Any]:
    yield from model.graph.initializer
    for node in model.graph.node:
        if node.op_type == "Constant":
            yield from (item.t for item in node.attribute if item.HasField("t"))


def _drop_large_values(model: Any) -> None:
    """Drop the values of large constants; shapes only depend on those of small ones."""
    for constant in model.graph.initializer:
        if prod(constant.dims) > _SMALL:
            constant.ClearField("raw_data")


def _longest_value(model: Any) -> int:
    """Upper bound of the length of a list of integers that shape inference concatenates and keeps in memory."""
    lengths = {item.name: _listed(item) for item in model.graph.initializer}
    longest = 0
    for node in model.graph.node:
        given = [lengths.get(name, 0) for name in node.input]
        match node.op_type:
            case "Concat":
                own = sum(given)
                longest = max(longest, own)
            case "Shape":
                own = _MOST_AXES
            case "Constant":
                own = max((_listed(item.t) + len(item.ints) for item in node.attribute), default=0)
            case kind:
                own = max(given, default=0) if kind in _ON_LISTS else 0
        lengths.update(dict.fromkeys(node.output, own))
    return longest


def _listed(constant: Any) -> int:
    """Number of elements of a constant with integers; 0 for others, which cannot become shapes."""
    import onnx  # noqa: PLC0415

    is_list = len(constant.dims) <= 1 and constant.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    return prod(constant.dims) if is_list else 0


def _peak_bytes(model: Any, items: int) -> int:
    """Peak size of live tensors in bytes, without weights, if nodes run in order."""
    sizes = _sizes(model, items)
    nodes = model.graph.node
    last_use = {name: at for at, node in enumerate(nodes) for name in node.input}
    kept = {value.name for value in model.graph.output}
    alive = sum(sizes[value.name] for value in model.graph.input if value.name in sizes)
    peak = alive
    for at, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name not in sizes:
                raise _RefusedError(f"has {name!r}, whose size is unknown before {node.op_type} runs")
            alive += sizes[name]
        peak = max(peak, alive)
        for name in {*node.input, *node.output}:
            if last_use.get(name, at) == at and name not in kept:
                alive -= sizes.pop(name, 0)
    return peak


def _sizes(model: Any, items: int) -> dict[str, int]:
    """Bytes of every tensor, except weights, whose shape `onnx` can infer."""
    import onnx  # noqa: PLC0415

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim in list(value.type.tensor_type.shape.dim)[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_value = items
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError) as error:  # of types and names it rejects
        raise _RefusedError(f"has shapes that do not fit: {' '.join(str(error).split())[:200]}") from error
    sizes = {}
    for value in (*inferred.value_info, *inferred.input, *inferred.output):
        tensor = value.type.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else -1 for dim in tensor.shape.dim]
        if tensor.HasField("shape") and all(size >= 0 for size in dims):
            sizes[value.name] = prod(dims) * _bytes_of(tensor.elem_type)
    return sizes


def _bytes_of(elements: int) -> int:
    import onnx  # noqa: PLC0415

    try:
        return int(onnx.helper.tensor_dtype_to_np_dtype(elements).itemsize) if elements else 8
    except KeyError:
        raise _RefusedError(f"has a tensor of the unknown type {elements}") from None
