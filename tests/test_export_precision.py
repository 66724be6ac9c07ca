"""Other precisions of the encoder: what is reduced, that it runs, and how far it may be from torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from tallformer_export.exporting import ExportOptions, export_random
from tallformer_export.parity import LIMITS
from tallformer_export.precision import precision_of
from tallformer_infer.bundle import Bundle, Precision, load_bundle
from tallformer_infer.config import SamplingConfig, preset
from tallformer_infer.errors import DeviceError, EngineError, ExtraError
from tallformer_infer.runtime import OnnxRuntime, cpu_graph
from tallformer_infer.runtime.tensorrt.building import BuilderLog, build_engine
from tallformer_infer.runtime.tensorrt.keys import PORTABLE, BatchProfile, Library, load_library

SMALLER = dataclasses.replace(preset("tiny"), name="smaller", sampling=SamplingConfig(resize_px=48, crop_px=48))
BATCH = BatchProfile(least=1, best=4, most=8)
REDUCED: tuple[Precision, ...] = ("fp16", "bf16", "int8", "int8-static")


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[Precision, Bundle]:
    folder = tmp_path_factory.mktemp("precisions")
    for precision in ("fp32", *REDUCED):
        options = ExportOptions(precision=precision)
        export_random(SMALLER, folder / precision, options=options, on_step=lambda _: None)
    return {precision: load_bundle(folder / precision) for precision in ("fp32", *REDUCED)}


def graph_of(bundle: Bundle) -> onnx.ModelProto:
    return onnx.load_from_string(bundle.read_graph("encoder"))


@pytest.mark.parametrize("precision", REDUCED)
def test_the_encoder_is_reduced_and_the_localizer_is_not(
    bundles: dict[Precision, Bundle], precision: Precision
) -> None:
    bundle = bundles[precision]

    assert {name: graph.precision for name, graph in bundle.graphs.items() if name != "suppress"} == {
        "encoder": precision,
        "localizer": "fp32",
    }
    assert precision_of(graph_of(bundle)) == precision
    assert len(bundle.read_graph("encoder")) < 0.95 * len(bundles["fp32"].read_graph("encoder"))


@pytest.mark.parametrize("precision", REDUCED)
def test_features_are_near_those_of_float32_but_not_the_same(
    bundles: dict[Precision, Bundle], precision: Precision
) -> None:
    clips = np.random.default_rng(1).integers(0, 256, (2, 32, 48, 48, 3), dtype=np.uint8)
    real_frames = np.array([32, 11])
    exact, reduced = (
        OnnxRuntime(bundles[one], device="cpu", threads=1).encode(clips, real_frames) for one in ("fp32", precision)
    )

    assert reduced.dtype == np.float32
    assert 0 < np.abs(reduced - exact).max() / np.abs(exact).max() < LIMITS[precision].features


@pytest.mark.parametrize("precision", ["fp32", *REDUCED])
def test_every_precision_has_a_parity_report_within_its_limits(
    bundles: dict[Precision, Bundle], precision: Precision
) -> None:
    parity = bundles[precision].parity

    assert parity is not None
    assert parity.beyond == ()
    assert parity.differences["encoder.features"].limit == LIMITS[precision].features


@pytest.mark.parametrize(("precision", "kind"), [("fp16", TensorProto.FLOAT16), ("bf16", TensorProto.BFLOAT16)])
def test_pixels_and_the_stem_stay_in_float32(bundles: dict[Precision, Bundle], precision: Precision, kind: int) -> None:
    model = onnx.shape_inference.infer_shapes(graph_of(bundles[precision]))
    kinds = {value.name: value.type.tensor_type.elem_type for value in model.graph.value_info}
    kinds |= {item.name: item.data_type for item in model.graph.initializer}

    of_conv = {kinds[name] for node in model.graph.node if node.op_type == "Conv" for name in node.input}
    of_products = {kinds[name] for node in model.graph.node if node.op_type == "MatMul" for name in node.input}

    assert of_conv == {TensorProto.FLOAT}
    assert of_products == {kind}


def test_int8_weights_have_a_scale_for_every_output(bundles: dict[Precision, Bundle]) -> None:
    model = graph_of(bundles["int8"])
    items = {item.name: item for item in model.graph.initializer}
    weights = [items[node.input[1]] for node in model.graph.node if node.op_type == "MatMulInteger"]

    assert weights
    assert {item.data_type for item in weights} == {TensorProto.INT8}
    outputs = {item.dims[1] for item in weights}
    scales = {dim for name, item in items.items() if name.endswith("_scale") for dim in item.dims}
    assert outputs <= scales


def test_a_bf16_encoder_without_the_package_onnx_says_what_to_install(
    bundles: dict[Precision, Bundle], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cpu_graph, "find_spec", lambda name: None)

    with pytest.raises(DeviceError, match=r"package onnx: .*pip install .*\[cpu\]'"):
        OnnxRuntime(bundles["bf16"], device="cpu")


@pytest.mark.parametrize("precision", ["fp16", "bf16", "int8-static"])
def test_reduced_encoders_become_engines(bundles: dict[Precision, Bundle], precision: Precision) -> None:
    library = _tensorrt_rtx()

    built = build_engine(library, bundles[precision].read_graph("encoder"), BATCH, target=PORTABLE, log=BuilderLog())

    assert len(built.content) > 100_000


def test_an_int8_encoder_is_for_cpus_and_an_engine_of_it_is_refused(bundles: dict[Precision, Bundle]) -> None:
    library = _tensorrt_rtx()

    with pytest.raises(EngineError, match="DynamicQuantizeLinear"):
        build_engine(library, bundles["int8"].read_graph("encoder"), BATCH, target=PORTABLE, log=BuilderLog())


def _tensorrt_rtx() -> Library:
    try:
        return load_library("tensorrt_rtx")
    except ExtraError as error:
        pytest.skip(str(error))
