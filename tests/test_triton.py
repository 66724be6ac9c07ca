"""Model repositories for Triton: what is written, against Triton's own schema and against the graphs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import onnxruntime
import pytest

from tallformer_export.triton import triton_config, write_triton_repository
from tallformer_infer import cli
from tallformer_infer.bundle import GRAPHS, load_bundle

_TYPES = {"tensor(uint8)": "TYPE_UINT8", "tensor(float)": "TYPE_FP32", "tensor(int64)": "TYPE_INT64"}


def schema() -> ModuleType:
    """Triton's `model_config.proto` as its client has it; read alone, since the rest of it needs gRPC."""
    try:
        place = importlib.metadata.distribution("tritonclient").locate_file("tritonclient/grpc/model_config_pb2.py")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("needs Triton's schema: pip install --no-deps tritonclient (it asks for an older ml_dtypes)")
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(text: str) -> Any:
    """A configuration, strictly by the schema."""
    from google.protobuf import text_format  # noqa: PLC0415 (comes with onnx)

    return text_format.Parse(text, schema().ModelConfig())


def full_shape(port: Any, config: Any) -> list[int]:
    """The shape that Triton gives the graph: the batch, then `reshape` if there is one, else `dims`."""
    own = list(port.reshape.shape) if port.HasField("reshape") else list(port.dims)
    return [*([-1] if config.max_batch_size else []), *own]


@pytest.mark.parametrize("model", ["demo", "anet-demo", "kinetics400"])
def test_configurations_fit_the_schema_and_the_graphs(model: str, tmp_path: Path) -> None:
    bundle = load_bundle(model)

    names = write_triton_repository(bundle, tmp_path)

    kinds = type(parsed("")).DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name
    for name in names:
        config = parsed((tmp_path / name / "config.pbtxt").read_text())
        session = onnxruntime.InferenceSession(tmp_path / name / "1" / "model.onnx", providers=["CPUExecutionProvider"])
        assert (config.name, config.backend) == (name, "onnxruntime")
        for ports, known in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
            assert [port.name for port in ports] == [port.name for port in known]
            for port, other in zip(ports, known, strict=True):
                assert port.data_type == kinds[_TYPES[other.type]].number
                assert full_shape(port, config) == [-1 if isinstance(size, str) else size for size in other.shape]
                assert min(len(port.dims), len(other.shape)) > 0


def test_the_configuration_of_an_encoder_is_this_one() -> None:
    text = triton_config(load_bundle("demo").read_graph("encoder"), name="demo_encoder", is_batched=True)

    assert text == (
        'name: "demo_encoder"\n'
        'backend: "onnxruntime"\n'
        "max_batch_size: 8\n"
        "input [\n"
        '  { name: "clips" data_type: TYPE_UINT8 dims: [ 32, 64, 64, 3 ] },\n'
        '  { name: "real_frames" data_type: TYPE_INT64 dims: [ 1 ] reshape: { shape: [ ] } }\n'
        "]\n"
        "output [\n"
        '  { name: "features" data_type: TYPE_FP32 dims: [ 128, 16 ] }\n'
        "]\n"
        "dynamic_batching { max_queue_delay_microseconds: 2000 }\n"
        "instance_group [ { count: 1 kind: KIND_AUTO } ]\n"
    )


def test_graph_3_is_not_batched() -> None:
    text = triton_config(load_bundle("demo").read_graph("suppress"), name="x", is_batched=False)

    assert "max_batch_size: 0" in text
    assert '{ name: "segments" data_type: TYPE_FP32 dims: [ -1, 2 ] }' in text
    assert "dynamic_batching" not in text


def test_a_repository_keeps_other_models_and_replaces_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other" / "1").mkdir(parents=True)
    (tmp_path / "demo_encoder" / "2").mkdir(parents=True)

    assert cli.run(["export", "demo", "--triton", str(tmp_path)]) == 0

    assert f"wrote demo_encoder, demo_localizer and demo_suppress to {tmp_path}" in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == [*(f"demo_{graph}" for graph in GRAPHS), "other"]
    assert not (tmp_path / "demo_encoder" / "2").exists()
    bundle = load_bundle("demo")
    for graph in GRAPHS:
        assert (tmp_path / f"demo_{graph}" / "1" / "model.onnx").read_bytes() == bundle.read_graph(graph)
    assert json.loads((tmp_path / "demo_localizer" / "bundle.json").read_text())["name"] == "demo"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["demo"], 2, "expected --out BUNDLE, or --triton DIR for a bundle"),
        (["nothing", "--triton", "x"], 1, "nothing"),
        (["demo", "--triton", "file"], 1, "file: cannot be written"),
    ],
)
def test_what_cannot_be_written_is_one_line(
    arguments: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")

    assert cli.run(["export", *arguments]) == code
    assert message in capsys.readouterr().err
