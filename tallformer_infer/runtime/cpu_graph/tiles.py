"""Rewrite an encoder's graph for the CPU: cut its blocks into tiles that stay in a core's cache, or widen bfloat16.

Note [why tiles]
    The probabilities of one block of Swin-T at 224 px are 236 MB, written and read again by four operators in turn; an
    MLP's hidden layer is 77 MB. With data that fits the cache, the same operators take half the time (measured one by
    one). A tile is a few windows; the whole block is computed for a tile before the next one starts.

Note [one head at a time]
    The probabilities of one window and head are 0.6 MB in Swin, those of all heads up to 15: computed one after another
    they stay in the cache. As two-dimensional matrices they can also be computed by `Gemm`, which adds the product to
    the bias, so that the bias needs no extra pass. Together that saves 9 % of the time of an encoder.

Note [rows instead of maps]
    Shifting, padding and partitioning into windows only move positions, and so does the reverse. The source of each row
    of a tile is known from the graph (`blocks.py`), so one `Gather` reads it directly from the output of the previous
    block; maps are only assembled if another operator than a block reads them.

Note [mask]
    A mask of -100 gives probabilities of 1e-44, denormal numbers, with which CPUs are about a hundred times slower.
    With -60 they stay normal, and results are the same in float32 as long as no masked logit is more than 40 above all
    others of its row.

Note [biases of key and value]
    A bias of the keys adds the same value to all logits of a query, which the softmax cancels. A bias of the values
    passes through the attention unchanged, as probabilities sum to 1, so it is added to the output's bias.

Note [bfloat16 on the CPU]
    ONNX Runtime has no CPU kernels for bfloat16. In a widened graph every tensor stays bfloat16; each node computes in
    float32 and rounds, as devices with bfloat16 do. This is for checking such a graph and for machines without a GPU;
    float32 is faster on the CPU.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from tallformer_infer.runtime.cpu_graph.blocks import Attention, Block, Norm, find_blocks
from tallformer_infer.runtime.cpu_graph.graph import Array, Graph, Linear

PROBABILITY_BYTES = 2**21
"""Probabilities of one tile, for all heads. Of 2, 4 and 8 MB, 2 was the fastest with 1 MB of cache per core."""
HEAD_BYTES = 2**18
"""Minimum size of the probabilities of one window and head for computing heads separately."""
MOST_HEADS = 10_000
"""Maximum number of windows times heads for computing heads separately. A clip of a minute has 58,000: loading its
400,000 operators took 40 s without running faster; with `Grain.of` it takes 15."""
_MASK = -60.0

CONTRIB = "com.microsoft"
"""Domain of ONNX Runtime's own operators."""


def tile_encoder(content: bytes) -> bytes | None:
    """Cut the blocks of an encoder into tiles.

    Args:
        content: The graph as it was exported, with a dynamic batch.

    Returns:
        A graph that gives the same within rounding, for exactly one clip; None if no block of it is too large for the
        cache as it is.
    """
    model = onnx.load_from_string(content)
    _fix_batch(model)
    graph = Graph(model)
    emitted: dict[str, Emitter] = {}
    rows: dict[str, Rows] = {}
    constants = Constants()
    blocks = list(find_blocks(graph))
    grain = Grain.of(blocks)
    if not any(map(grain.gains, blocks)):
        return None
    for block in blocks:
        emitter = emitted[block.result] = Emitter(f"block.{len(emitted)}", constants)
        if block.source not in rows:
            rows[block.source] = rows_of_map(block.source, block.shape, emitter)
        rows[block.result] = emit_block(block, rows[block.source], emitter, grain)
    _replace(model, emitted, constants)
    return bytes(model.SerializeToString())


def widen(content: bytes) -> bytes:
    """Make a graph with bfloat16 tensors runnable on the CPU, see Note [bfloat16 on the CPU]."""
    model = onnx.load_from_string(content)
    narrow = _narrow_tensors(model)
    for item in model.graph.initializer:
        if item.data_type == TensorProto.BFLOAT16:
            wide = numpy_helper.from_array(numpy_helper.to_array(item).astype(np.float32), item.name)
            item.CopyFrom(wide)
            narrow.discard(item.name)
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        nodes += [node] if node.op_type == "Cast" else _in_float32(node, narrow)
    del model.graph.node[:], model.graph.value_info[:]
    model.graph.node.extend(nodes)
    return bytes(model.SerializeToString())


@dataclass(frozen=True)
class Grain:
    """How finely blocks are cut."""

    tile_bytes: int
    """Probabilities of a tile."""
    head_bytes: int | None
    """Probabilities of one window and head from which those are computed one by one; None: never."""

    @staticmethod
    def of(blocks: Sequence[Block]) -> Grain:
        """What suits a graph of these blocks."""
        heads = sum(len(block.attention.cut) * block.attention.heads for block in blocks)
        return Grain(PROBABILITY_BYTES, HEAD_BYTES) if heads <= MOST_HEADS else Grain(2 * PROBABILITY_BYTES, None)

    def gains(self, block: Block) -> bool:
        """Whether a block is more than one tile, or goes by head."""
        return self.windows_at_once(block.attention) < len(block.attention.cut) or self.goes_by_head(block.attention)

    def windows_at_once(self, attention: Attention) -> int:
        """Windows of a tile."""
        window_bytes = 4 * attention.heads * int(attention.cut.shape[1]) ** 2
        return max(1, self.tile_bytes // window_bytes)

    def goes_by_head(self, attention: Attention) -> bool:
        """See Note [one head at a time]."""
        return self.head_bytes is not None and 4 * int(attention.cut.shape[1]) ** 2 >= self.head_bytes


@dataclass(frozen=True)
class Rows:
    """A map as rows."""

    name: str
    """Tensor, shape (rows, C)."""
    of_position: NDArray[np.int64]
    """Row of each position of the map, shape (positions,)."""


def rows_of_map(name: str, shape: tuple[int, ...], emitter: Emitter) -> Rows:
    """The rows of a map (1, …, C), in its own order."""
    positions = int(np.prod(shape[:-1]))
    return Rows(emitter.reshape(name, positions, shape[-1]), np.arange(positions))


def emit_block(block: Block, rows: Rows, emitter: Emitter, grain: Grain) -> Rows:
    """Emit a block in tiles.

    Args:
        block: What to compute.
        rows: Its source.
        emitter: Takes the nodes.
        grain: How finely it is cut.

    Returns:
        Its result; the map `block.result` is emitted too, for whatever reads it.
    """
    cut, join = block.attention.cut, block.attention.join
    positions, channels = len(join), block.shape[-1]
    source, of_position = rows.name, np.append(rows.of_position, -1)
    tile = _Tile(block, emitter, grain)
    parts = np.array_split(np.arange(len(cut)), -(-len(cut) // grain.windows_at_once(block.attention)))
    is_real = cut < positions
    # Rows that pad a window are zero after the norm, whatever is taken for them; nothing reads what becomes of them.
    taken = np.maximum(of_position[cut], 0)
    results = [tile(emitter.gather(source, taken[part]), part, is_real[part]) for part in parts]
    result = Rows(emitter.concat(results), join)
    emitter.reshape(emitter.gather(result.name, join), *block.shape[:-1], channels, result=block.result)
    return result


def _fix_batch(model: onnx.ModelProto) -> None:
    for value in (*model.graph.input, *model.graph.output):
        batch = value.type.tensor_type.shape.dim[0]
        batch.Clear()
        batch.dim_value = 1
    del model.graph.value_info[:]


def _replace(model: onnx.ModelProto, emitted: Mapping[str, Emitter], constants: Constants) -> None:
    """Put what was emitted in the place of the node that made the same tensor, and drop what nothing needs now."""
    nodes: list[onnx.NodeProto] = []
    for node in model.graph.node:
        blocks = [emitted[name] for name in node.output if name in emitted]
        nodes += blocks[0].nodes if blocks else [node]
    needed = {value.name for value in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(nodes):
        if needed.intersection(node.output):
            needed.update(node.input)
            kept.append(node)
    initializers = [one for one in (*model.graph.initializer, *constants.tensors) if one.name in needed]
    del model.graph.node[:], model.graph.initializer[:]
    model.graph.node.extend(reversed(kept))
    model.graph.initializer.extend(initializers)
    model.opset_import.append(onnx.helper.make_opsetid(CONTRIB, 1))


def _narrow_tensors(model: onnx.ModelProto) -> set[str]:
    graph = onnx.shape_inference.infer_shapes(model).graph
    values = {value.name for value in graph.value_info if value.type.tensor_type.elem_type == TensorProto.BFLOAT16}
    return values | {item.name for item in model.graph.initializer if item.data_type == TensorProto.BFLOAT16}


def _in_float32(node: onnx.NodeProto, narrow: set[str]) -> list[onnx.NodeProto]:
    before, after = [], []
    for index, name in enumerate(node.input):
        if name in narrow:
            node.input[index] = f"{node.name}.wide.{index}"
            before.append(helper.make_node("Cast", [name], [node.input[index]], to=TensorProto.FLOAT))
    for index, name in enumerate(node.output):
        if name in narrow:
            node.output[index] = f"{name}.wide"
            after.append(helper.make_node("Cast", [node.output[index]], [name], to=TensorProto.BFLOAT16))
    return [*before, node, *after]


class _Tile:
    """What all tiles of one block share."""

    def __init__(self, block: Block, emitter: Emitter, grain: Grain) -> None:
        self._emitter = emitter
        self._norm1, self._norm2 = EmittedNorm(emitter, block.norm1), EmittedNorm(emitter, block.norm2)
        self._fc1, self._fc2 = EmittedLinear(emitter, block.fc1), EmittedLinear(emitter, block.fc2)
        self._attend = _TiledAttention(block.attention, emitter, grain)

    def __call__(self, rows: str, windows: NDArray[np.int64], is_real: NDArray[np.bool_]) -> str:
        """Emit the block for the rows (windows * tokens, C) of some windows."""
        emitter = self._emitter
        normed = self._norm1(rows)
        if not is_real.all():
            normed = emitter.add("Mul", normed, emitter.constant(is_real.reshape(-1, 1).astype(np.float32)))
        rows = emitter.add("Add", rows, self._attend(normed, windows))
        return emitter.add("Add", rows, self._fc2(emitter.add("Gelu", self._fc1(self._norm2(rows)))))


class _TiledAttention:
    """Attention of some windows at a time."""

    def __init__(self, attention: Attention, emitter: Emitter, grain: Grain) -> None:
        self._attention = attention
        self._emitter = emitter
        self._tokens = attention.cut.shape[1]
        if grain.goes_by_head(attention):
            self._mix, self._biases = self._mix_by_head, [emitter.constant(bias) for bias in attention.bias]
        else:
            self._mix, self._biases = self._mix_together, [emitter.constant(attention.bias)]
        channels = attention.qkv.weight.shape[0]
        query_bias, _, value_bias = np.split(attention.qkv.bias, 3)
        no_bias = np.zeros(2 * channels, np.float32)
        self._qkv = EmittedLinear(emitter, attention.qkv, np.concatenate([query_bias, no_bias]))
        self._proj = EmittedLinear(emitter, attention.proj, attention.proj.bias + value_bias @ _weight(attention.proj))

    def __call__(self, rows: str, windows: NDArray[np.int64]) -> str:
        """Emit the attention for the rows (windows * tokens, C) of some windows."""
        emitter, tokens, heads = self._emitter, self._tokens, self._attention.heads
        count = len(windows)
        qkv = emitter.reshape(self._qkv(rows), count, tokens, 3, heads, -1)
        apart = emitter.add("Transpose", qkv, perm=[2, 0, 3, 1, 4])
        together = emitter.reshape(self._mix(apart, windows), count, heads, tokens, -1)
        turned = emitter.add("Transpose", together, perm=[0, 2, 1, 3])
        return self._proj(emitter.reshape(turned, count * tokens, -1))

    def _mix_by_head(self, apart: str, windows: NDArray[np.int64]) -> str:
        """Values mixed by probabilities, from (3, windows, heads, tokens, D), see Note [one head at a time]."""
        emitter, tokens, heads = self._emitter, self._tokens, self._attention.heads
        count = len(windows) * heads
        parts = emitter.split(emitter.reshape(apart, 3 * count * tokens, -1), [tokens] * (3 * count))
        mixed = []
        for row in range(len(windows)):
            mask = self._mask(windows[row : row + 1])
            added = None if mask is None else emitter.constant(mask[0])
            for head, bias in enumerate(self._biases):
                query, key, value = parts[row * heads + head :: count]
                logits = emitter.add("Gemm", query, key, bias, transB=1, alpha=self._attention.scale)
                if added is not None:
                    logits = emitter.add("Add", logits, added)
                mixed.append(emitter.add("MatMul", emitter.add("Softmax", logits, axis=-1), value))
        return emitter.concat(mixed)

    def _mix_together(self, apart: str, windows: NDArray[np.int64]) -> str:
        """The same for all windows and heads at once."""
        emitter, tokens, heads = self._emitter, self._tokens, self._attention.heads
        count = len(windows)
        flat = emitter.reshape(apart, 3 * count * heads, tokens, -1)
        query, key, value = emitter.split(flat, [count * heads] * 3)
        logits = emitter.add("FusedMatMul", query, key, domain=CONTRIB, transB=1, alpha=self._attention.scale)
        logits = emitter.add("Add", emitter.reshape(logits, count, heads, tokens, tokens), *self._biases)
        mask = self._mask(windows)
        if mask is not None:
            logits = emitter.add("Add", logits, emitter.constant(mask[:, None]))
        logits = emitter.reshape(logits, count * heads, tokens, tokens)
        return emitter.add("MatMul", emitter.add("Softmax", logits, axis=-1), value)

    def _mask(self, windows: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """Mask of some windows, (windows or 1, tokens, tokens); None where nothing is masked. See Note [mask]."""
        if self._attention.mask is None:
            return None
        mask = np.maximum(self._attention.mask[windows % len(self._attention.mask)], _MASK)
        if not mask.any():
            return None
        return mask[:1] if (mask == mask[:1]).all() else mask


def _weight(linear: Linear) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = linear.weight.astype(np.float32)
    return weight if linear.scales is None else weight * linear.scales


class Constants:
    """The constants of all blocks, each once: tiles share shapes and masks, and parts of a long map the weights too."""

    def __init__(self) -> None:
        self.tensors: list[onnx.TensorProto] = []
        """In the order in which they came."""
        self._names: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def add(self, value: Array) -> str:
        """Add a constant, and say its name."""
        value = np.ascontiguousarray(value)
        key = (value.dtype.str, value.shape, hashlib.sha256(value.tobytes()).digest())
        if key not in self._names:
            self._names[key] = f"constant.{len(self.tensors)}"
            self.tensors.append(numpy_helper.from_array(value, self._names[key]))
        return self._names[key]


class Emitter:
    """Collects the nodes that take the place of one block."""

    def __init__(self, prefix: str, constants: Constants) -> None:
        """Begin; names of nodes begin with `prefix`, and constants are added to `constants`."""
        self.nodes: list[onnx.NodeProto] = []
        self._constants = constants
        self._prefix = prefix
        self._count = 0

    def constant(self, value: Array) -> str:
        """Add a constant."""
        return self._constants.add(value)

    def add(self, kind: str, *inputs: str, result: str | None = None, domain: str = "", **attributes: Any) -> str:
        """Add a node with one output."""
        name = result or self._name()
        self.nodes.append(helper.make_node(kind, list(inputs), [name], name=name, domain=domain, **attributes))
        return name

    def reshape(self, name: str, *shape: int, result: str | None = None) -> str:
        """Give a tensor another shape."""
        return self.add("Reshape", name, self.constant(np.array(shape, np.int64)), result=result)

    def gather(self, name: str, rows: NDArray[np.int64]) -> str:
        """Take rows of a tensor, along its first axis."""
        return self.add("Gather", name, self.constant(rows.reshape(-1).astype(np.int32)), axis=0)

    def split(self, name: str, sizes: Sequence[int]) -> list[str]:
        """Split along the first axis."""
        if len(sizes) == 1:
            return [name]
        names = [self._name() for _ in sizes]
        inputs = [name, self.constant(np.array(sizes, np.int64))]
        self.nodes.append(helper.make_node("Split", inputs, names, name=names[0], axis=0))
        return names

    def concat(self, names: Sequence[str]) -> str:
        """Join along the first axis."""
        return names[0] if len(names) == 1 else self.add("Concat", *names, axis=0)

    def _name(self) -> str:
        self._count += 1
        return f"{self._prefix}.{self._count}"


class EmittedLinear:
    """A linear layer whose constants are in the graph once, for any number of tiles."""

    def __init__(self, emitter: Emitter, linear: Linear, bias: NDArray[np.float32] | None = None) -> None:
        """Add the constants; `bias` replaces the layer's own."""
        self._emitter = emitter
        weight = emitter.constant(linear.weight)
        own = emitter.constant(linear.bias if bias is None else bias)
        self._is_int8 = linear.scales is not None
        self._constants = [weight, own] if linear.scales is None else [weight, emitter.constant(linear.scales), "", own]

    def __call__(self, rows: str) -> str:
        """Apply it to (rows, C); inputs of int8 weights are quantised, all rows of a tile with one scale."""
        if self._is_int8:
            return self._emitter.add("DynamicQuantizeMatMul", rows, *self._constants, domain=CONTRIB)
        return self._emitter.add("Gemm", rows, *self._constants)


class EmittedNorm:
    """A layer norm whose constants are in the graph once."""

    def __init__(self, emitter: Emitter, norm: Norm) -> None:
        """Add the constants."""
        self._emitter = emitter
        self._norm = norm
        self._constants = [emitter.constant(norm.weight), emitter.constant(norm.bias)]

    def __call__(self, rows: str) -> str:
        """Apply it to (rows, C)."""
        return self._emitter.add("LayerNormalization", rows, *self._constants, axis=-1, epsilon=self._norm.epsilon)
