"""How much memory a graph asks for, found before it is run.

Note [memory of a graph]
    A file of a kilobyte can ask for terabytes: `Expand`, `Tile`, `ConstantOfShape`, `Range` and `Pad` make tensors of
    any size, and so do the sum of a row and a column, or a `Concat` that doubles forty times. So the shapes of all
    tensors are inferred by `onnx`, and what is alive at the same time is added up, node by node. That may be no more
    than a multiple of what goes in and comes out as `bundle.json` declares it: Video Swin's attention alone takes 49 to
    100 bytes for each byte of pixels. A size that cannot be told from the graph is refused: none of ours has any.
    Every extra that brings a runtime brings `onnx`; where it is missing nothing is checked.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from math import prod
from typing import Any

_BYTES_PER_NUMBER = 512
"""Of memory, for each number that goes in or out; see Note [memory of a graph]."""
_ALWAYS_BYTES = 512 * 2**20
"""Which no machine lacks."""
_ITEMS = (1, 8)
"""In a batch: alone, and as many as runtimes take at most."""
_SMALL = 4096
"""Elements of constants whose values shapes may be made from."""
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
"""Elements of a computed value; `onnx` keeps those that shapes may be made from in memory."""

Shape = tuple[int | str, ...]


def excess(content: bytes, declared: Sequence[Shape]) -> str | None:
    """Why a graph must not be run, to be put after the name of its file; None where its memory is in proportion.

    Args:
        content: The ONNX file, whose operators were checked, see `graph_check`.
        declared: Shapes of all inputs and outputs as `bundle.json` has them; a name stands for the items of a batch.
    """
    if find_spec("onnx") is None:
        return None
    try:
        _check(content, declared)
    except _RefusedError as refused:
        return str(refused)
    return None


class _RefusedError(Exception):
    """Says why."""


def _check(content: bytes, declared: Sequence[Shape]) -> None:
    import onnx  # noqa: PLC0415 (takes a third of a second, and may be missing)

    try:
        model = onnx.load_model_from_string(content)
    except Exception as error:  # protobuf's, which is no dependency of ours
        raise _RefusedError("is not an ONNX file") from error
    if any(prod(weights.dims) > 2 * len(content) for weights in _constants(model)):  # two of 4 bits are a byte
        raise _RefusedError("has weights with more numbers than the file holds")
    _drop_large_values(model)
    if _longest_value(model) > _LONGEST_VALUE:
        raise _RefusedError("joins constants to a value that no shape needs")
    for items in _ITEMS:
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
    """Leave only the shapes of weights: the values of small constants are all that shapes are made from."""
    for constant in model.graph.initializer:
        if prod(constant.dims) > _SMALL:
            constant.ClearField("raw_data")


def _longest_value(model: Any) -> int:
    """Upper bound of the elements of a list of integers that shape inference joins from others, and holds."""
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
    """Elements of a constant that is a list of integers, or one; 0 for others, which shapes are not made from."""
    import onnx  # noqa: PLC0415

    is_list = len(constant.dims) <= 1 and constant.data_type in (onnx.TensorProto.INT32, onnx.TensorProto.INT64)
    return prod(constant.dims) if is_list else 0


def _peak_bytes(model: Any, items: int) -> int:
    """Most bytes of tensors that are alive at the same time, without weights, if nodes run in their order."""
    sizes = _sizes(model, items)
    nodes = model.graph.node
    last_use = {name: at for at, node in enumerate(nodes) for name in node.input}
    kept = {value.name for value in model.graph.output}
    alive = sum(sizes[value.name] for value in model.graph.input if value.name in sizes)
    peak = alive
    for at, node in enumerate(nodes):
        for name in filter(None, node.output):
            if name not in sizes:
                raise _RefusedError(f"has {name!r}, whose size cannot be told before {node.op_type} makes it")
            alive += sizes[name]
        peak = max(peak, alive)
        for name in {*node.input, *node.output}:
            if last_use.get(name, at) == at and name not in kept:
                alive -= sizes.pop(name, 0)
    return peak


def _sizes(model: Any, items: int) -> dict[str, int]:
    """Bytes of every tensor whose shape `onnx` can tell, without weights."""
    import onnx  # noqa: PLC0415

    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    for value in fixed.graph.input:
        for dim in list(value.type.tensor_type.shape.dim)[:1]:
            if not dim.HasField("dim_value"):
                dim.dim_value = items
    try:
        inferred = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    except onnx.shape_inference.InferenceError as error:
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
