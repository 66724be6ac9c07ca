"""Engines are really built, ahead of time: TensorRT-RTX needs neither GPU nor driver for that.

What runs here is the code that builds with the full TensorRT: the library is handed to it.
"""

from __future__ import annotations

import re

import numpy as np
import onnxruntime as ort
import pytest

from tallformer_infer.bundle import GraphName, load_bundle
from tallformer_infer.errors import EngineError, ExtraError, StoppedError
from tallformer_infer.runtime.tensorrt.building import BuilderLog, BuiltEngine, build_engine
from tallformer_infer.runtime.tensorrt.keys import (
    ENGINE_GRAPHS,
    PORTABLE,
    BatchProfile,
    Library,
    engine_key,
    load_library,
)
from tests.engine_graphs import SIDE, halved, one_node, quantised

FREE = BatchProfile(least=1, best=4, most=8)
FIXED = BatchProfile(least=4, best=4, most=4)
BUNDLE = load_bundle("demo")


@pytest.fixture(scope="module")
def library() -> Library:
    try:
        return load_library("tensorrt_rtx")
    except ExtraError as error:
        pytest.skip(str(error))


def build(
    library: Library, content: bytes, batch: BatchProfile = FREE, *, target: str = PORTABLE
) -> tuple[BuiltEngine, BuilderLog]:
    log = BuilderLog()
    return build_engine(library, content, batch, target=target, log=log), log


def weights_bytes(log: BuilderLog) -> int:
    found = re.search(r"Total Weights Memory: (\d+) bytes", log.text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(("batch", "shown"), [(FREE, "-1"), (FIXED, "4")], ids=["free", "fixed"])
@pytest.mark.parametrize("graph", ENGINE_GRAPHS)
def test_graphs_of_the_bundled_model_become_engines(
    library: Library, graph: GraphName, batch: BatchProfile, shown: str
) -> None:
    built, log = build(library, BUNDLE.read_graph(graph), batch)

    assert len(built.content) > weights_bytes(log) > 1_000_000
    assert built.build_s > 0
    assert built.timing_cache is None  # TensorRT-RTX measures nothing
    (layer,) = re.findall(r"^Layer\(.*$", log.text(), re.MULTILINE)  # one: nothing is left outside the compiled part
    for name, shape in (BUNDLE.graphs[graph].inputs | BUNDLE.graphs[graph].outputs).items():
        assert re.search(rf"\b{name} \(\w+\[{','.join([shown, *map(str, shape[1:])])}\]\)", layer)


@pytest.mark.parametrize("graph", ENGINE_GRAPHS)
def test_float16_graphs_become_engines_of_half_the_weights(library: Library, graph: GraphName) -> None:
    content = BUNDLE.read_graph(graph)

    (single, single_log), (half, half_log) = (build(library, file) for file in (content, halved(content)))

    assert weights_bytes(half_log) == pytest.approx(weights_bytes(single_log) / 2, rel=0.1)
    assert len(half.content) < len(single.content)


def test_the_float16_graphs_of_these_tests_compute_what_the_float32_ones_do() -> None:
    side, frames = BUNDLE.recipe.sampling.crop_px, BUNDLE.recipe.window.clip_frames
    clips = np.random.default_rng(0).integers(0, 256, (1, frames, side, side, 3), dtype=np.uint8)
    inputs = {"clips": clips, "real_frames": np.array([frames])}
    content = BUNDLE.read_graph("encoder")

    single, half = (ort.InferenceSession(file).run(None, inputs)[0] for file in (content, halved(content)))

    assert np.abs(half - single).max() < 0.01 * np.abs(single).max()


def test_weights_in_int8_between_quantise_and_dequantise_nodes_stay_int8(library: Library) -> None:
    side = 512  # those of small products are made float32 again

    _, log = build(library, quantised(side))

    assert side**2 <= weights_bytes(log) < 1.1 * side**2


def test_engine_for_several_gpus_is_built(library: Library) -> None:
    built, _ = build(library, one_node("Relu"), target="sm86+sm89")

    assert built.content


def test_gpu_that_the_library_does_not_know_is_refused(library: Library) -> None:
    with pytest.raises(EngineError, match="cannot build for sm90"):
        build(library, one_node("Relu"), target="sm90")


def test_unsupported_operator_is_named_with_its_node(library: Library) -> None:
    with pytest.raises(EngineError, match=r"cannot read the graph: operator Det \(node 'the_node'\): UNSUPPORTED_NODE"):
        build(library, one_node("Det"))


@pytest.mark.parametrize("content", [b"", b"not ONNX at all"])
def test_file_that_is_no_graph_is_refused(library: Library, content: bytes) -> None:
    with pytest.raises(EngineError, match="cannot read the graph: "):
        build(library, content)


def test_batch_that_the_graph_has_fixed_otherwise_is_refused(library: Library) -> None:
    with pytest.raises(EngineError, match="batch 4,4,4 does not fit input 'x', whose batch is fixed to 2"):
        build(library, one_node("Relu", shape=(2, SIDE, SIDE)), FIXED)


def test_batch_that_the_graph_has_fixed_alike_is_built(library: Library) -> None:
    assert build(library, one_node("Relu", shape=(4, SIDE, SIDE)), FIXED)[0].content


def test_graph_with_two_free_dimensions_is_refused(library: Library) -> None:
    with pytest.raises(EngineError, match=r"input 'x' is \(-1, -1, 16\): expected a free batch first"):
        build(library, one_node("Relu", shape=("N", "T", SIDE)))


def test_failed_build_leaves_what_tensorrt_said(library: Library) -> None:
    log = BuilderLog()

    with pytest.raises(EngineError):
        build_engine(library, one_node("Det"), FREE, target=PORTABLE, log=log)

    assert "Det" in log.text()
    assert log.errors


def test_build_that_is_told_to_stop_gives_no_engine(library: Library) -> None:
    log = BuilderLog()
    log.stop()

    with pytest.raises(StoppedError, match="stopped before the engine was built"):
        build_engine(library, BUNDLE.read_graph("localizer"), FREE, target=PORTABLE, log=log)
    assert "Total Weights Memory" not in log.text()  # it did not go on to the end


def test_the_same_request_has_the_same_key(library: Library) -> None:
    one, same = (engine_key(load_bundle(), "encoder", library, target="sm86", batch=FREE) for _ in range(2))

    assert (one, one.stem) == (same, same.stem)
