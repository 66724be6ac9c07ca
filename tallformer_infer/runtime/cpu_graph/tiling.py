"""An encoder's graph with its blocks in tiles, for one clip at a time."""

from __future__ import annotations

from collections.abc import Mapping

import onnx

from tallformer_infer.runtime.cpu_graph.block import find_blocks
from tallformer_infer.runtime.cpu_graph.emitter import CONTRIB, Constants, Emitter
from tallformer_infer.runtime.cpu_graph.graph import Graph
from tallformer_infer.runtime.cpu_graph.tiles import Grain, Rows, emit_block, rows_of_map


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
