"""A block of the encoder cut into tiles whose intermediate results stay in a core's cache.

Note [why tiles]
    The probabilities of one block of Swin-T at 224 px are 236 MB, written and read again by four operators in turn; an
    MLP's hidden layer is 77 MB. Small enough for the cache, the same operators take half the time (measured one by
    one). A tile is some windows, and in its attention some heads; all of the block is computed for a tile before the
    next one begins.

Note [rows instead of maps]
    Shifting, padding and cutting into windows only move positions, and so does the way back. What each row of a tile
    is was found in the graph (`attention.py`), so one `Gather` takes it from wherever the block before left it; maps
    are only put together again where something else than a block reads them.

Note [mask]
    A mask of -100 makes probabilities of 1e-44, denormal numbers, for which processors take about a hundred times as
    long. With -60 they stay normal, and results are the same in float32 as long as no masked logit is more than
    40 above all others of its row.

Note [biases of key and value]
    A bias of the keys adds the same to all logits of a query, which the softmax takes away again. A bias of the values
    goes through the attention as it is, as probabilities sum to 1, so it is added to the output's bias.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.runtime.cpu_graph.attention import Attention
from tallformer_infer.runtime.cpu_graph.block import Block
from tallformer_infer.runtime.cpu_graph.emitter import CONTRIB, EmittedLinear, EmittedNorm, Emitter
from tallformer_infer.runtime.cpu_graph.linear import Linear

PROBABILITY_BYTES = 2**22
"""Of one tile. Of 2, 4, 8 and 16 MB, 4 was the fastest with 2 MB of cache per core and two threads."""
_MASK = -60.0


@dataclass(frozen=True)
class Rows:
    """A map as rows."""

    name: str
    """Tensor, shape (rows, C)."""
    of_position: NDArray[np.int64]
    """Row of each position of the map, shape (positions,)."""


def gains_by_tiles(block: Block) -> bool:
    """Whether a block is more than one tile."""
    windows, heads = _sizes(block.attention)
    return windows < len(block.attention.cut) or heads > 1


def rows_of_map(name: str, shape: tuple[int, ...], emitter: Emitter) -> Rows:
    """The rows of a map (1, …, C), in its own order."""
    positions = int(np.prod(shape[:-1]))
    return Rows(emitter.reshape(name, positions, shape[-1]), np.arange(positions))


def emit_block(block: Block, rows: Rows, emitter: Emitter) -> Rows:
    """Emit a block in tiles.

    Args:
        block: What to compute.
        rows: Its source.
        emitter: Takes the nodes.

    Returns:
        Its result; the map `block.result` is emitted too, for whatever reads it.
    """
    cut, join = block.attention.cut, block.attention.join
    positions, channels = len(join), block.shape[-1]
    source, of_position = rows.name, np.append(rows.of_position, -1)
    tile = _Tile(block, emitter)
    parts = np.array_split(np.arange(len(cut)), -(-len(cut) // tile.windows_at_once))
    is_real = cut < positions
    # Rows that pad a window are zero after the norm, whatever is taken for them; nothing reads what becomes of them.
    taken = np.maximum(of_position[cut], 0)
    results = [tile(emitter.gather(source, taken[part]), part, is_real[part]) for part in parts]
    result = Rows(emitter.concat(results), join)
    emitter.reshape(emitter.gather(result.name, join), *block.shape[:-1], channels, result=block.result)
    return result


class _Tile:
    """What all tiles of one block share."""

    def __init__(self, block: Block, emitter: Emitter) -> None:
        self._emitter = emitter
        self._norm1, self._norm2 = EmittedNorm(emitter, block.norm1), EmittedNorm(emitter, block.norm2)
        self._fc1, self._fc2 = EmittedLinear(emitter, block.fc1), EmittedLinear(emitter, block.fc2)
        self._attend = _TiledAttention(block.attention, emitter)
        self.windows_at_once = self._attend.windows_at_once

    def __call__(self, rows: str, windows: NDArray[np.int64], is_real: NDArray[np.bool_]) -> str:
        """Emit the block for the rows (windows * tokens, C) of some windows."""
        emitter = self._emitter
        normed = self._norm1(rows)
        if not is_real.all():
            normed = emitter.add("Mul", normed, emitter.constant(is_real.reshape(-1, 1).astype(np.float32)))
        rows = emitter.add("Add", rows, self._attend(normed, windows))
        return emitter.add("Add", rows, self._fc2(emitter.add("Gelu", self._fc1(self._norm2(rows)))))


class _TiledAttention:
    """Attention of some windows at a time, some heads at a time where those of one window are too many."""

    def __init__(self, attention: Attention, emitter: Emitter) -> None:
        self._attention = attention
        self._emitter = emitter
        self._tokens = attention.cut.shape[1]
        self.windows_at_once, groups = _sizes(attention)
        self._groups = np.array_split(np.arange(attention.heads), groups)
        channels = attention.qkv.weight.shape[0]
        query_bias, _, value_bias = np.split(attention.qkv.bias, 3)
        no_bias = np.zeros(2 * channels, np.float32)
        self._qkv = EmittedLinear(emitter, attention.qkv, np.concatenate([query_bias, no_bias]))
        self._proj = EmittedLinear(emitter, attention.proj, attention.proj.bias + value_bias @ _weight(attention.proj))
        self._biases = [emitter.constant(attention.bias[group]) for group in self._groups]

    def __call__(self, rows: str, windows: NDArray[np.int64]) -> str:
        """Emit the attention for the rows (windows * tokens, C) of some windows."""
        emitter, tokens, heads = self._emitter, self._tokens, self._attention.heads
        count, groups = len(windows), len(self._groups)
        qkv = emitter.reshape(self._qkv(rows), count, tokens, 3, heads, -1)
        apart = emitter.reshape(emitter.add("Transpose", qkv, perm=[2, 0, 3, 1, 4]), 3 * count * heads, tokens, -1)
        sizes = [count * heads] if groups == 1 else [len(group) for group in self._groups]
        parts = emitter.split(apart, 3 * sizes)
        mask = self._mask(windows)
        mixed = [self._mix(parts[index::groups], index, count, mask) for index in range(groups)]
        together = emitter.reshape(emitter.concat(mixed), count, heads, tokens, -1)
        turned = emitter.add("Transpose", together, perm=[0, 2, 1, 3])
        return self._proj(emitter.reshape(turned, count * tokens, -1))

    def _mix(self, parts: list[str], group: int, count: int, mask: str | None) -> str:
        """Values mixed by the probabilities of a group of heads, from (count * heads, tokens, D) each."""
        emitter, tokens, heads = self._emitter, self._tokens, len(self._groups[group])
        query, key, value = parts
        logits = emitter.add("FusedMatMul", query, key, domain=CONTRIB, transB=1, alpha=self._attention.scale)
        logits = emitter.add("Add", emitter.reshape(logits, count, heads, tokens, tokens), self._biases[group])
        if mask:
            logits = emitter.add("Add", logits, mask)
        logits = emitter.reshape(logits, count * heads, tokens, tokens)
        return emitter.add("MatMul", emitter.add("Softmax", logits, axis=-1), value)

    def _mask(self, windows: NDArray[np.int64]) -> str | None:
        """Mask of some windows, (windows or 1, 1, tokens, tokens); None where nothing is masked. See Note [mask]."""
        if self._attention.mask is None:
            return None
        mask = np.maximum(self._attention.mask[windows % len(self._attention.mask)], _MASK)[:, None]
        if not mask.any():
            return None
        return self._emitter.constant(mask[:1] if (mask == mask[:1]).all() else mask)


def _sizes(attention: Attention) -> tuple[int, int]:
    """Windows of a tile, and groups that its heads are computed in."""
    window_bytes = 4 * attention.heads * attention.cut.shape[1] ** 2
    groups = min(attention.heads, -(-window_bytes // PROBABILITY_BYTES))
    return max(1, PROBABILITY_BYTES // window_bytes), groups


def _weight(linear: Linear) -> NDArray[np.float32]:
    weight: NDArray[np.float32] = linear.weight.astype(np.float32)
    return weight if linear.scales is None else weight * linear.scales
