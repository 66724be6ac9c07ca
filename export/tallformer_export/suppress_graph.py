"""Export graph 3, which suppresses the candidates of a whole video, to ONNX.

Hard suppression is one NonMaxSuppression node over boxes (class, start, class + 1, end): boxes of different classes
do not overlap, boxes of one class overlap as their segments do, and one limit holds for all classes. Non-maximum
weighting adds one pass over the candidates, sorted by class and start, in blocks: each goes to the first selected
segment that it overlaps enough, computed as the product of an assignment matrix with weights and weighted distances.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tallformer_infer.bundle import SUPPRESS_SETTINGS
from tallformer_infer.config import SuppressConfig, to_json
from tallformer_infer.errors import ConfigError

OPSET = 20
IR_VERSION = 10

_BLOCK = 1024
"""Candidates per block; a block's tables have this many rows, and a column for each selected segment near it."""

_MIN_LENGTH = 1e-6
"""Lower bound of lengths, in frames, so that the overlap of segments without length is 0 instead of 0 / 0."""


def build_suppress_graph(config: SuppressConfig) -> onnx.ModelProto:
    """The ONNX model that suppresses as `tallformer_infer.nms.suppress` does.

    Inputs: `segments` float32 (N, 2) in frames, `scores` float32 (N,), `classes` int64 (N,); N may be 0 and values
    must be finite. Outputs: `action_segments` float32 (M, 2), `action_scores` float32 (M,), `action_classes` int64
    (M,), by descending score, of equal scores the earlier row first; M is at most `config.max_per_video`. Class indices
    are exact up to 2**24.

    Raises:
        ConfigError: The method has no graph (`soft_linear`, `soft_gaussian`).
    """
    if config.method not in ("nms", "nmw"):
        raise ConfigError(
            f"method={config.method} cannot be a graph: ONNX has no soft suppression; run it with "
            "tallformer_infer.nms, or use nms or nmw"
        )
    nodes = _Nodes("")
    segments, scores, classes = _above_threshold(nodes, config.score_threshold)
    selected = _select(nodes, (segments, scores, classes), config)
    top_segments = nodes.add("Gather", segments, selected)
    if config.method == "nmw":
        moved = _weighted_shift(nodes, (segments, scores, classes), selected, config.tiou_threshold)
        top_segments = nodes.add("Add", top_segments, moved)
    outputs = (top_segments, nodes.add("Gather", scores, selected), nodes.add("Gather", classes, selected))
    for result, name in zip(outputs, ("action_segments", "action_scores", "action_classes"), strict=True):
        nodes.add("Identity", result, outputs=[name])
    return _model(nodes, config)


class _Nodes:
    """Nodes and constants of a graph under construction, in order; values are called by their names."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: str, outputs: list[str] | None = None, **attributes: Any) -> str:
        """Append a node and return the name of its (first) output."""
        outputs = outputs or [f"{self.prefix}{kind}_{len(self.nodes)}"]
        self.nodes.append(helper.make_node(kind, list(inputs), outputs, **attributes))
        return outputs[0]

    def constant(self, value: object, dtype: type[np.generic]) -> str:
        """Append a constant and return its name."""
        name = f"{self.prefix}constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        """A constant of int64 values, shape (len(values),)."""
        return self.constant(values, np.int64)

    def column(self, value: str, index: int) -> str:
        """Column `index` of a matrix, as a matrix of one column."""
        return self.add("Slice", value, self.ints(index), self.ints(index + 1), self.ints(1))

    def split(self, value: str, parts: int, *, axis: int) -> list[str]:
        """The rows (axis 0) or columns (axis 1) of a matrix, as matrices of one."""
        outputs = [f"{value}_part_{part}" for part in range(parts)]
        self.add("Split", value, outputs=outputs, axis=axis, num_outputs=parts)
        return outputs

    def stack(self, *values: str, axis: int) -> str:
        """Vectors, as the rows (axis 0) or columns (axis 1) of a matrix."""
        matrices = [self.add("Unsqueeze", value, self.ints(axis)) for value in values]
        return self.add("Concat", *matrices, axis=axis)


def _above_threshold(nodes: _Nodes, threshold: float) -> tuple[str, str, str]:
    above = nodes.add("Greater", "scores", nodes.constant(threshold, np.float32))
    rows = nodes.add("Squeeze", nodes.add("NonZero", above), nodes.ints(0))
    return (
        nodes.add("Gather", "segments", rows),
        nodes.add("Gather", "scores", rows),
        nodes.add("Gather", "classes", rows),
    )


def _select(nodes: _Nodes, candidates: tuple[str, str, str], config: SuppressConfig) -> str:
    """Rows that greedy suppression keeps, by descending score, shape (M,)."""
    segments, scores, classes = candidates
    threshold = np.float32(config.tiou_threshold)
    if config.method == "nmw":  # includes the threshold; the node excludes it
        threshold = np.nextafter(threshold, np.float32(0))
    low = nodes.add("Unsqueeze", nodes.add("Cast", classes, to=TensorProto.FLOAT), nodes.ints(1))
    high = nodes.add("Add", low, nodes.constant(1, np.float32))
    start = nodes.column(segments, 0)
    # The node swaps the ends of an inverted box; such a segment must overlap nothing instead.
    end = nodes.add("Max", start, nodes.column(segments, 1))
    boxes = nodes.add("Unsqueeze", nodes.add("Concat", low, start, high, end, axis=1), nodes.ints(0))  # (1, P, 4)
    chosen = nodes.add(
        "NonMaxSuppression",
        boxes,
        nodes.add("Unsqueeze", scores, nodes.ints(0, 1)),  # (1, 1, P)
        nodes.ints(config.max_per_video),
        nodes.constant([threshold], np.float32),
    )  # (M, 3): batch, class, row
    return nodes.add("Squeeze", nodes.column(chosen, 2), nodes.ints(1))


def _weighted_shift(nodes: _Nodes, candidates: tuple[str, str, str], selected: str, threshold: float) -> str:
    """Shift of each selected segment to the weighted mean of its cluster, shape (M, 2).

    Averages distances from the selected segment instead of positions, to keep float32 exact late in a video.
    """
    segments, scores, classes = candidates
    top_scores = nodes.add("Gather", scores, selected)
    # A selected segment has weight 1 * score with itself (`own`), and is assigned to no other.
    weights = nodes.add("ScatterElements", scores, selected, nodes.add("Sub", top_scores, top_scores))
    columns = (nodes.add("Cast", classes, to=TensorProto.FLOAT), *_ends(nodes, segments))
    keys = _class_and_start(nodes, columns[0], columns[1])
    nodes.add("TopK", keys, nodes.add("Shape", keys), outputs=["keys", "order"], axis=0, largest=0, sorted=1)
    nodes.add("Gather", nodes.stack(*columns, weights, axis=1), "order", outputs=["rows"])  # (P, 4)
    top_columns = [nodes.add("Gather", column, selected) for column in columns]
    _reach(nodes, nodes.add("Gather", keys, selected), top_columns[1:], threshold)
    thresholds = nodes.add("Expand", nodes.constant(threshold, np.float32), nodes.add("Shape", selected))
    # The last row takes all candidates that no other row takes.
    nobody = nodes.constant([[-1, 0, 0, -1]], np.float32)
    tops = nodes.stack(*top_columns, thresholds, axis=1)  # (M, 4): class, start, end, overlap from which it takes
    nodes.add("Concat", tops, nobody, axis=0, outputs=["tops"])  # (M + 1, 4)
    own = nodes.add("Pad", nodes.add("Unsqueeze", top_scores, nodes.ints(1)), nodes.ints(0, 0, 1, 2))  # (M + 1, 3)
    blocks = nodes.add("Div", nodes.add("Add", nodes.add("Size", scores), nodes.ints(_BLOCK - 1)), nodes.ints(_BLOCK))
    sums = nodes.add("Loop", nodes.add("Squeeze", blocks), "", own, body=_block_graph())
    sums = nodes.add("Slice", sums, nodes.ints(0), nodes.ints(-1), nodes.ints(0))  # (M, 3): weight, distances
    distances = nodes.add("Slice", sums, nodes.ints(1), nodes.ints(3), nodes.ints(1))
    return nodes.add("Div", distances, nodes.column(sums, 0))


def _ends(nodes: _Nodes, segments: str) -> tuple[str, str]:
    return (
        nodes.add("Squeeze", nodes.column(segments, 0), nodes.ints(1)),
        nodes.add("Squeeze", nodes.column(segments, 1), nodes.ints(1)),
    )


def _class_and_start(nodes: _Nodes, classes: str, starts: str) -> str:
    """One float64 per candidate that sorts by class, then start; classes are further apart than any segment."""
    with_zero = nodes.add("Concat", starts, nodes.constant([0], np.float32), axis=0)  # there may be no candidates
    span = nodes.add("Sub", nodes.add("ReduceMax", with_zero), nodes.add("ReduceMin", with_zero))
    step = nodes.add("Add", nodes.add("Cast", span, to=TensorProto.DOUBLE), nodes.constant(1, np.float64))
    base = nodes.add("Mul", nodes.add("Cast", classes, to=TensorProto.DOUBLE), step)
    return nodes.add("Add", base, nodes.add("Cast", starts, to=TensorProto.DOUBLE))


def _reach(nodes: _Nodes, keys: str, ends: list[str], threshold: float) -> None:
    """Values `reach_low` and `reach_high`, (M + 1,): bounds of keys a top may take (nms.clusters, Note [reach])."""
    least = float(np.float32(threshold)) * (1 - 1e-5)
    length = nodes.add("Sub", ends[1], ends[0])
    length = nodes.add("Max", nodes.add("Cast", length, to=TensorProto.DOUBLE), nodes.constant(0, np.float64))
    for name, factor, margin in (("low", 1 - 1 / least, -1e-3), ("high", 1 - least, 1e-3)):
        offset = nodes.add("Mul", length, nodes.constant(factor, np.float64))
        key = nodes.add("Add", nodes.add("Add", keys, offset), nodes.constant(margin, np.float64))
        always = nodes.constant([np.copysign(np.inf, margin)], np.float64)
        nodes.add("Concat", key, always, axis=0, outputs=[f"reach_{name}"])


def _block_graph() -> onnx.GraphProto:
    """Body of the loop: adds the candidates of one block to the `sums` of the selected segments near them."""
    nodes = _Nodes("block_")
    begin = nodes.add("Mul", nodes.add("Unsqueeze", "block", nodes.ints(0)), nodes.ints(_BLOCK))
    end = nodes.add("Add", begin, nodes.ints(_BLOCK))
    rows = nodes.add("Slice", "rows", begin, end, nodes.ints(0))  # (B, 4)
    classes, starts, ends, weights = nodes.split(nodes.add("Transpose", rows), 4, axis=0)  # (1, B)
    near = _near_tops(nodes, nodes.add("Slice", "keys", begin, end, nodes.ints(0)))  # (K,)
    near_tops = nodes.add("Gather", "tops", near)  # (K, 4)
    top_classes, top_starts, top_ends, thresholds = nodes.split(near_tops, 4, axis=1)  # (K, 1)
    tiou = _tiou(nodes, (top_starts, top_ends), (starts, ends))  # (K, B)
    tiou = nodes.add("Where", nodes.add("Equal", top_classes, classes), tiou, nodes.constant(0, np.float32))
    takes = nodes.add("Cast", nodes.add("GreaterOrEqual", tiou, thresholds), to=TensorProto.FLOAT)
    owner = nodes.add("ArgMax", nodes.add("Transpose", takes), axis=1, keepdims=0)  # (B,), the first that takes
    own_row = nodes.add("Unsqueeze", owner, nodes.ints(0))  # (1, B)
    weight = nodes.add("Mul", weights, nodes.add("GatherElements", tiou, own_row, axis=0))  # (1, B)
    distances = nodes.add("Sub", rows, nodes.add("Gather", near_tops, owner))  # (B, 4)
    _, from_start, from_end, _ = nodes.split(nodes.add("Transpose", distances), 4, axis=0)  # (1, B)
    weighted = [nodes.add("Mul", weight, distance) for distance in (from_start, from_end)]
    values = nodes.add("Transpose", nodes.add("Concat", weight, *weighted, axis=0))  # (B, 3)
    numbers = nodes.add("Range", nodes.constant(0, np.int64), nodes.add("Size", near), nodes.constant(1, np.int64))
    assigned = nodes.add("Equal", nodes.add("Unsqueeze", numbers, nodes.ints(1)), own_row)  # (K, B)
    given = nodes.add("MatMul", nodes.add("Cast", assigned, to=TensorProto.FLOAT), values)  # (K, 3)
    places = nodes.add("Unsqueeze", near, nodes.ints(1))
    nodes.add("ScatterND", "sums", places, given, reduction="add", outputs=["new_sums"])
    nodes.add("Identity", "condition", outputs=["go_on"])
    return helper.make_graph(
        nodes.nodes,
        "block",
        [_value("block", TensorProto.INT64, []), _value("condition", TensorProto.BOOL, []), _value("sums")],
        [_value("go_on", TensorProto.BOOL, []), _value("new_sums")],
        nodes.constants,
    )


def _near_tops(nodes: _Nodes, keys: str) -> str:
    """Rows of `tops` that may take candidates with these (ascending) keys, and the last one, in order, shape (K,)."""
    not_after = nodes.add("LessOrEqual", "reach_low", nodes.add("ReduceMax", keys))
    not_before = nodes.add("GreaterOrEqual", "reach_high", nodes.add("ReduceMin", keys))
    near = nodes.add("NonZero", nodes.add("And", not_after, not_before))
    return nodes.add("Squeeze", near, nodes.ints(0))


def _tiou(nodes: _Nodes, tops: tuple[str, str], candidates: tuple[str, str]) -> str:
    """Overlap of every top with every candidate, (K, B), rounded as in `tallformer_infer.nms`."""
    begin, end = nodes.add("Max", tops[0], candidates[0]), nodes.add("Min", tops[1], candidates[1])
    overlap = nodes.add("Max", nodes.add("Sub", end, begin), nodes.constant(0, np.float32))
    least = nodes.constant(_MIN_LENGTH, np.float32)
    lengths = [nodes.add("Max", nodes.add("Sub", pair[1], pair[0]), least) for pair in (tops, candidates)]
    return nodes.add("Div", overlap, nodes.add("Sub", nodes.add("Add", *lengths), overlap))


def _model(nodes: _Nodes, config: SuppressConfig) -> onnx.ModelProto:
    inputs = [
        _value("segments", TensorProto.FLOAT, ["candidates", 2]),
        _value("scores", TensorProto.FLOAT, ["candidates"]),
        _value("classes", TensorProto.INT64, ["candidates"]),
    ]
    outputs = [
        _value("action_segments", TensorProto.FLOAT, ["actions", 2]),
        _value("action_scores", TensorProto.FLOAT, ["actions"]),
        _value("action_classes", TensorProto.INT64, ["actions"]),
    ]
    graph = helper.make_graph(nodes.nodes, f"suppress_{config.method}", inputs, outputs, nodes.constants)
    opset = helper.make_opsetid("", OPSET)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="tallformer")
    helper.set_model_props(model, {SUPPRESS_SETTINGS: json.dumps(to_json(config))})
    onnx.checker.check_model(model, full_check=True)
    return model


def _value(name: str, kind: int = TensorProto.FLOAT, shape: list[int | str] | None = None) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)
