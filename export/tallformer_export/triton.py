"""Write a bundle as a model repository of NVIDIA Triton: one model per graph, for its ONNX Runtime backend.

Note [batches of Triton]
    Triton batches the first dimension and omits it in a configuration; at least one dimension must remain. Scalars per
    clip or window (`real_frames`, `start_frames`) therefore have `dims: [ 1 ]` for clients, and a `reshape` to none for
    the graph. The rows of graph 3 are candidates of one video, so it is not batched.

Source: `model_config.proto` of triton-inference-server/common, and Triton's documentation of model configurations.
"""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path

import onnx

from tallformer_infer.bundle import DESCRIPTION, GRAPHS, Bundle, GraphName
from tallformer_infer.files import replace_folder, writing

MOST_ROWS = 8
"""Largest batch of clips or windows."""
_DELAY_US = 2000
"""Longest wait of a request for a batch, in microseconds."""
_TYPES = {
    int(onnx.TensorProto.FLOAT): "TYPE_FP32",
    int(onnx.TensorProto.FLOAT16): "TYPE_FP16",
    int(onnx.TensorProto.UINT8): "TYPE_UINT8",
    int(onnx.TensorProto.INT32): "TYPE_INT32",
    int(onnx.TensorProto.INT64): "TYPE_INT64",
}
_Port = tuple[str, str, tuple[int, ...]]
"""Name, Triton type, and shape with -1 for dynamic sizes."""


def write_triton_repository(bundle: Bundle, folder: Path) -> tuple[str, ...]:
    """Write a model for each graph of a bundle into a repository, which may contain other models.

    Models of the same names are replaced. The model of graph 2 contains `bundle.json`, with frame rate, picture size,
    windows and classes for clients.

    Args:
        bundle: Bundle to serve.
        folder: The repository, created if missing.

    Returns:
        Names of the models.

    Raises:
        OutputError: It cannot be written.
    """
    name = re.sub(r"[^A-Za-z0-9_.-]", "_", bundle.name)
    names = []
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for graph in (graph for graph in GRAPHS if graph in bundle.graphs):
            names.append(f"{name}_{graph}")
            _write_model(bundle, graph, folder / names[-1])
    return tuple(names)


def triton_config(content: bytes, *, name: str, is_batched: bool) -> str:
    """The configuration (`config.pbtxt`) of an ONNX graph.

    Args:
        content: The graph.
        name: Name of the model and its folder.
        is_batched: Whether the first dimension of all inputs and outputs is a batch of independent rows.

    Raises:
        ValueError: Triton has no such type.
    """
    graph = onnx.load_from_string(content).graph
    held = {constant.name for constant in graph.initializer}
    inputs = [_port(value) for value in graph.input if value.name not in held]
    outputs = [_port(value) for value in graph.output]
    lines = [f'name: "{name}"', 'backend: "onnxruntime"', f"max_batch_size: {MOST_ROWS if is_batched else 0}"]
    lines += [*_ports("input", inputs, is_batched), *_ports("output", outputs, is_batched)]
    if is_batched:
        lines.append(f"dynamic_batching {{ max_queue_delay_microseconds: {_DELAY_US} }}")
    lines.append("instance_group [ { count: 1 kind: KIND_AUTO } ]")  # a GPU if Triton has one, else the CPU
    return "\n".join(lines) + "\n"


def _write_model(bundle: Bundle, graph: GraphName, place: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".tallformer-", dir=place.parent) as temporary:
        made = Path(temporary) / place.name
        (made / "1").mkdir(parents=True)
        content = bundle.read_graph(graph)
        (made / "1" / "model.onnx").write_bytes(content)
        config = triton_config(content, name=place.name, is_batched=graph != "suppress")
        (made / "config.pbtxt").write_text(config, encoding="utf-8")
        if graph == "localizer":
            description = json.dumps(bundle.description.as_json(), indent=2, ensure_ascii=False)
            (made / DESCRIPTION).write_text(description, encoding="utf-8")
        replace_folder(made, place)


def _port(value: onnx.ValueInfoProto) -> _Port:
    kind = value.type.tensor_type
    data_type = _TYPES.get(int(kind.elem_type))
    if data_type is None:
        raise ValueError(f"{value.name}: type {kind.elem_type} of ONNX has no Triton type here")
    shape = tuple(size.dim_value if size.HasField("dim_value") else -1 for size in kind.shape.dim)
    return value.name, data_type, shape


def _ports(kind: str, ports: Sequence[_Port], is_batched: bool) -> list[str]:
    """Inputs or outputs; see Note [batches of Triton]."""
    rows = []
    for name, data_type, shape in ports:
        own = shape[1:] if is_batched else shape
        dims = ", ".join(str(size) for size in own or (1,))
        reshape = "" if own else " reshape: { shape: [ ] }"
        rows.append(f'  {{ name: "{name}" data_type: {data_type} dims: [ {dims} ]{reshape} }}')
    return [f"{kind} [", ",\n".join(rows), "]"]
