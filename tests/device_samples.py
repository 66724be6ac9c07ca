"""Small graphs, and items for graphs of bundles."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper

from tallformer_infer.runtime.device_graphs import ports_of
from tallformer_infer.runtime.onnx_session import CPU, ProviderWithOptions, open_session


def items_of(session: ort.InferenceSession, count: int, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """So many items for a graph of a bundle."""
    random = np.random.default_rng(seed)
    ports = [port for port in ports_of(session) or () if port.is_input]
    return {
        port.name: random.integers(0, 33, (count, *port.item_shape)).astype(port.dtype)
        if port.dtype.kind in "iu"
        else random.standard_normal((count, *port.item_shape)).astype(port.dtype)
        for port in ports
    }


def plain(*nodes: onnx.NodeProto, shapes: dict[str, list[str | int | None]], outputs: int = 1) -> bytes:
    """A graph of float32 values; the last of `shapes` are its outputs."""
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()]
    graph = helper.make_graph(nodes, "plain", values[:-outputs], values[-outputs:])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()  # type: ignore[no-any-return]


def relu(name: str, result: str, *, providers: Sequence[ProviderWithOptions] = (CPU,)) -> ort.InferenceSession:
    """A graph of one operator, on four numbers per item."""
    content = plain(helper.make_node("Relu", [name], [result]), shapes={name: ["N", 4], result: ["N", 4]})
    return open_session(content, providers=providers, threads=1)
