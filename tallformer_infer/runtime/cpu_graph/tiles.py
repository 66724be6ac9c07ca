"""A block of the encoder cut into tiles whose intermediate results stay in a core's cache.

Note [why tiles]
    The probabilities of one block of Swin-T at 224 px are 236 MB, written and read again by four operators in turn; an
    MLP's hidden layer is 77 MB. Small enough for the cache, the same operators take half the time (measured one by
    one). A tile is some windows; all of the block is computed for a tile before the next one begins.

Note [one head at a time]
    The probabilities of one window and head are 0.6 MB in Swin, those of all heads up to 15: one after the other they
    stay in the cache. As matrices of two axes they are also what `Gemm` can make, which begins with the bias and adds
    the product to it, so that the bias costs no pass of its own. Together that takes 9 % off the time of an encoder.

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

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.runtime.cpu_graph.attention import Attention
from tallformer_infer.runtime.cpu_graph.block import Block
from tallformer_infer.runtime.cpu_graph.emitter import CONTRIB, EmittedLinear, EmittedNorm, Emitter
from tallformer_infer.runtime.cpu_graph.linear import Linear

PROBABILITY_BYTES = 2**21
"""Of one tile, all heads together. Of 2, 4 and 8 MB, 2 was the fastest with 1 MB of cache per core."""
HEAD_BYTES = 2**18
"""Of one window and head; less than that is not worth operators of its own."""
MOST_HEADS = 10_000
"""Windows times heads of a graph that is cut so finely. A clip of a minute has 58,000: loading its 400,000 operators
took 40 s, and saved none when they ran; cut as `Grain.of` does, it takes 15."""
_MASK = -60.0


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
