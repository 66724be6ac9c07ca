"""An encoder cut into tiles gives what it gave whole, and is made once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import QuantType, quantize_dynamic

from tallformer_export.graphs import encoder_onnx
from tallformer_infer.config import RECIPES, SamplingConfig, preset
from tallformer_infer.runtime import Cancellation, cpu_graph
from tallformer_infer.runtime.cpu_graph import cpu_encoder_graph, tiles
from tallformer_infer.runtime.cpu_graph.tiles import tile_encoder
from tallformer_infer.runtime.onnx import CpuEncoder
from tallformer_infer.runtime.onnx_session import CPU, open_session
from tallformer_infer.runtime.protocol import most_clips
from tallformer_training.model import Detector
from tests.point_recipe import WHOLE_WINDOW
from tests.small_detector import build

PADDED = dataclasses.replace(preset("tiny"), sampling=SamplingConfig(resize_px=48, crop_px=48))
"""Maps of 12, 6, 3 and 2: shifted, padded and shrunken windows."""
ONE_WINDOW, SOME_WINDOWS, WHOLE = 1, 2**15, 2**30


@pytest.fixture(scope="module")
def encoder() -> bytes:
    """An encoder whose biases and position tables all matter."""
    torch.manual_seed(3)
    detector = Detector(PADDED).eval()
    with torch.no_grad():
        for name, weight in detector.backbone.named_parameters():
            if weight.ndim == 1 or "table" in name:
                weight.add_(torch.randn_like(weight) * 0.5)
    return encoder_onnx(detector).SerializeToString()


@pytest.fixture(scope="module")
def int8_encoder(encoder: bytes, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder = tmp_path_factory.mktemp("int8")
    (folder / "fp32.onnx").write_bytes(encoder)
    options = {"MatMulConstBOnly": True}
    quantize_dynamic(
        folder / "fp32.onnx",
        folder / "int8.onnx",
        op_types_to_quantize=["MatMul"],
        per_channel=True,
        weight_type=QuantType.QInt8,
        extra_options=options,
    )
    return (folder / "int8.onnx").read_bytes()


@pytest.fixture
def clips() -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (3, 32, 48, 48, 3), dtype=np.uint8)


def encode(graph: bytes, clips: NDArray[np.uint8], real_frames: int = 32) -> NDArray[np.float32]:
    session = open_session(graph, providers=[CPU], threads=1)
    feeds = [{"clips": clip[None], "real_frames": np.array([real_frames])} for clip in clips]
    return np.concatenate([session.run(None, feed)[0] for feed in feeds])


def operators(graph: bytes) -> list[str]:
    return [node.op_type for node in onnx.load_from_string(graph).graph.node]


@pytest.mark.parametrize(("bytes_per_head", "most_heads"), [(1, 10_000), (2**18, 10_000), (1, 0)])
@pytest.mark.parametrize("bytes_per_tile", [ONE_WINDOW, 2**13, SOME_WINDOWS])
@pytest.mark.parametrize("real_frames", [32, 19, 0])
def test_tiles_give_what_the_whole_gives(
    encoder: bytes,
    clips: NDArray[np.uint8],
    bytes_per_head: int,
    most_heads: int,
    bytes_per_tile: int,
    real_frames: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", bytes_per_tile)
    monkeypatch.setattr(tiles, "HEAD_BYTES", bytes_per_head)
    monkeypatch.setattr(tiles, "MOST_HEADS", most_heads)
    tiled = tile_encoder(encoder)
    assert tiled is not None
    assert operators(tiled).count("Softmax") > operators(encoder).count("Softmax")

    whole = encode(encoder, clips, real_frames)

    np.testing.assert_allclose(encode(tiled, clips, real_frames), whole, atol=1e-5 * abs(whole).max())


def test_a_long_clip_is_cut_into_tiles_too_and_has_each_constant_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its blocks come slab by slab, with one mask for all windows of a slab."""
    torch.manual_seed(4)
    whole = encoder_onnx(build(WHOLE_WINDOW).eval()).SerializeToString()
    clips = np.random.default_rng(0).integers(0, 256, (2, 64, 32, 32, 3), dtype=np.uint8)
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)

    tiled = tile_encoder(whole)

    assert tiled is not None
    graph = onnx.load_from_string(tiled).graph
    assert all(node.name.startswith("block.") for node in graph.node if node.op_type == "Softmax")
    emitted = [(*item.dims, item.raw_data) for item in graph.initializer if item.name.startswith("constant.")]
    assert len(set(emitted)) == len(emitted) > 100
    for real_frames in (64, 37, 0):
        expected = encode(whole, clips, real_frames)
        np.testing.assert_allclose(encode(tiled, clips, real_frames), expected, atol=1e-5 * abs(expected).max())


def test_no_map_is_rolled_or_cut_any_more(encoder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    tiled = tile_encoder(encoder)
    assert tiled is not None

    assert operators(encoder).count("Slice") > operators(tiled).count("Slice")
    whole_maps = [node for node in onnx.load_from_string(tiled).graph.node if node.op_type == "Transpose"]
    assert max(len(node.attribute[0].ints) for node in whole_maps) <= 7  # merging has 7 axes, windows have 8


def test_tiles_of_int8_differ_only_by_the_scale_of_their_inputs(
    encoder: bytes, int8_encoder: bytes, clips: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", SOME_WINDOWS)
    tiled = tile_encoder(int8_encoder)
    assert tiled is not None
    assert "DynamicQuantizeMatMul" in operators(tiled)

    exact, whole, cut = (encode(graph, clips) for graph in (encoder, int8_encoder, tiled))

    error = abs(whole - exact).mean()
    assert 0 < error < 0.05 * abs(exact).max()
    assert abs(cut - exact).mean() < 1.5 * error


def test_a_graph_whose_blocks_fit_the_cache_stays_as_it_is(encoder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", WHOLE)

    assert tile_encoder(encoder) is None


def test_an_attention_that_is_not_as_expected_is_left_alone(encoder: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    model = onnx.load_from_string(encoder)
    for node in model.graph.node:
        if node.op_type == "Softmax":
            node.attribute[0].i = 2  # over queries

    assert tile_encoder(model.SerializeToString()) is None


@pytest.mark.parametrize("first", [0, 1])
def test_exchanged_queries_keys_and_values_are_left_alone(
    encoder: bytes, first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    model = onnx.load_from_string(encoder)
    taken = [node for node in model.graph.node if node.op_type == "Squeeze"]
    assert len(taken) % 3 == 0
    for row in range(0, len(taken), 3):
        one, other = taken[row + first], taken[row + first + 1]
        one.input[0], other.input[0] = other.input[0], one.input[0]

    assert tile_encoder(_in_order(model).SerializeToString()) is None


def _in_order(model: onnx.ModelProto) -> onnx.ModelProto:
    """Nodes sorted so that each comes after those that it needs."""
    made = {value.name for value in (*model.graph.input, *model.graph.initializer)}
    left = list(model.graph.node)
    del model.graph.node[:]
    while left:
        ready = [node for node in left if made.issuperset(name for name in node.input if name)]
        model.graph.node.extend(ready)
        made.update(name for node in ready for name in node.output)
        left = [node for node in left if node not in ready]
    return model


def test_a_graph_is_made_once(encoder: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    made = cpu_encoder_graph(encoder, folder=tmp_path)
    assert made is not None

    (file,) = tmp_path.glob("*.onnx")
    monkeypatch.setattr(cpu_graph, "_optimised", lambda tiled: pytest.fail("made again"))
    assert cpu_encoder_graph(encoder, folder=tmp_path) == made
    assert file.read_bytes() == made


def test_a_kept_graph_that_was_changed_is_made_again(
    encoder: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    made = cpu_encoder_graph(encoder, folder=tmp_path)
    (file,) = tmp_path.glob("*.onnx")
    file.write_bytes(file.read_bytes()[:-1] + b"x")

    assert cpu_encoder_graph(encoder, folder=tmp_path) == made
    assert [one.read_bytes() for one in tmp_path.glob("*.onnx")] == [made]


def test_that_nothing_is_to_be_gained_is_kept_too(
    encoder: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", WHOLE)

    assert cpu_encoder_graph(encoder, folder=tmp_path) is None
    assert [file.stat().st_size for file in tmp_path.glob("*.onnx")] == [0]
    assert cpu_encoder_graph(encoder, folder=tmp_path) is None


def test_a_cache_that_cannot_be_written_changes_nothing(
    encoder: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    (tmp_path / "file").touch()

    assert cpu_encoder_graph(encoder, folder=tmp_path / "file" / "graphs") is not None


def test_the_oldest_graphs_go_when_they_are_too_many(
    encoder: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    (tmp_path / "old-1.onnx").write_bytes(bytes(1000))
    monkeypatch.setattr(cpu_graph, "MOST_BYTES", 500)

    made = cpu_encoder_graph(encoder, folder=tmp_path)

    assert [file.read_bytes() for file in tmp_path.glob("*.onnx")] == [made]


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_clips_at_once_are_what_they_are_one_by_one(
    encoder: bytes, clips: NDArray[np.uint8], threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(tiles, "PROBABILITY_BYTES", ONE_WINDOW)
    together = CpuEncoder(encoder, threads=threads)
    real_frames = np.array([32, 20, 1])
    assert together.clips_at_once == threads

    at_once = together.run(clips, real_frames, Cancellation())

    alone = [together.run(clips[row : row + 1], real_frames[row : row + 1], Cancellation()) for row in range(3)]
    np.testing.assert_array_equal(at_once, np.concatenate(alone))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_share_a_clip_where_only_one_may_be_seen_at_once(
    encoder: bytes, clips: NDArray[np.uint8], threads: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one = CpuEncoder(encoder, threads=threads, most_clips=1)

    assert one.clips_at_once == 1
    assert one.session.get_session_options().intra_op_num_threads == threads
    assert one.run(clips, np.array([32, 20, 1]), Cancellation()).shape[0] == 3


def test_only_clips_of_a_minute_go_through_an_encoder_alone() -> None:
    assert {name: most_clips(recipe) for name, recipe in RECIPES.items() if most_clips(recipe) < 8} == {
        "thumos14-opentad-swin-t": 1
    }
