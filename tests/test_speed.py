"""What speed is measured with: turns, ceilings, the arithmetic of a graph, and videos to measure on."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tallformer_export.graphs import EncoderGraph
from tallformer_export.precision import quantised
from tallformer_infer.bundle import load_bundle
from tallformer_infer.bundle.onnx_files import Constant, Node, Value, write_graph
from tallformer_infer.config import preset
from tallformer_infer.diagnosis import stages
from tallformer_infer.diagnosis.sample_video import copy_packets, first_seconds
from tallformer_infer.diagnosis.stages import (
    MatrixProduct,
    Speed,
    Trial,
    decode_bare,
    gigaflop_of_graph,
    measure_stages,
)
from tallformer_infer.diagnosis.turns import Call, Spread, Timing, clocked, paired, take_turns
from tallformer_infer.errors import DeviceError, MediaError
from tallformer_infer.media import probe
from tallformer_infer.pipeline import Detector
from tests.small_detector import build
from tests.videos import noise_pictures, write_video


@pytest.fixture
def video(tmp_path: Path) -> Path:
    """Four seconds, a key frame every second."""
    pictures = noise_pictures(40, height_px=48, width_px=64)
    return write_video(tmp_path / "a.mp4", pictures, fps=10, codec_options={"g": "10", "bf": "2"})


def test_ways_take_turns_and_the_warm_up_does_not_count() -> None:
    seen: list[str] = []
    ways = {name: lambda number, name=name: seen.append(name) or f"{name}{number}" for name in "AB"}

    given = take_turns(ways, rounds=3, warmups=1)

    assert "".join(seen) == "ABABABAB"
    assert given == {"A": ["A0", "A1", "A2"], "B": ["B0", "B1", "B2"]}


def test_no_further_round_is_begun_after_so_many_seconds() -> None:
    given = take_turns({"A": lambda _: 1, "B": lambda _: 2}, rounds=5, warmups=0, at_most_s=0.0)

    assert given == {"A": [1], "B": [2]}


def test_a_ratio_is_taken_round_by_round() -> None:
    """A machine twice as slow in one round does not change it."""
    spread = paired([2.0, 4.0, 2.0], [1.0, 2.0, 1.0])

    assert spread == Spread(2.0, 2.0, 2.0)


def test_quartiles_lie_around_the_median() -> None:
    timing = Timing.of([Call(wall, 0.0) for wall in (1.0, 2.0, 3.0, 4.0, 5.0)])

    assert timing.spread == Spread(median=3.0, low=2.0, high=4.0)


def test_a_clocked_way_counts_processor_time_of_its_own_work() -> None:
    call = clocked(lambda: sum(range(2_000_000)))(0)

    assert call.cpu_s > 0
    assert call.wall_s > 0


@pytest.mark.parametrize(("precision", "near"), [("fp32", 1e-3), ("int8", 0.0)])
def test_the_product_of_matrices_is_right(monkeypatch: pytest.MonkeyPatch, precision: str, near: float) -> None:
    monkeypatch.setitem(stages._SIDES, "cpu", 96)
    product = MatrixProduct(precision, threads=1)

    product.run()

    wanted = product.left.astype(np.float64) @ product.right.astype(np.float64)
    assert np.abs(product.product() - wanted).max() <= near
    assert product.gigaflop == pytest.approx(stages.RUNS * 2 * 96**3 / 1e9)


@pytest.mark.skipif("CUDAExecutionProvider" in ort.get_available_providers(), reason="there is CUDA here")
def test_a_product_on_a_device_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages._SIDES, "cuda", 8)

    with pytest.raises(DeviceError, match="not placed on cuda"):
        MatrixProduct("fp16", device="cuda")


@pytest.mark.parametrize("threads", [1, 2])
def test_bare_decoding_gives_every_frame(video: Path, threads: int) -> None:
    assert decode_bare(video, threads=threads) == 40


def test_bare_decoding_goes_on_after_damage(video: Path) -> None:
    content = bytearray(video.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 400] = bytes(400)
    video.write_bytes(content)

    assert 20 <= decode_bare(video, threads=1) <= 40


def test_what_is_no_video_cannot_be_decoded_bare(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_text("no video")

    with pytest.raises(MediaError, match=r"a\.mp4: "):
        decode_bare(tmp_path / "a.mp4")


@pytest.mark.usefixtures("one_thread")
def test_the_arithmetic_of_a_graph_is_what_torch_counts() -> None:
    graph = load_bundle("demo").read_graph("encoder")
    recipe = preset("demo")
    side, frames = recipe.sampling.crop_px, recipe.window.clip_frames
    clips = torch.zeros(1, frames, side, side, 3, dtype=torch.uint8)
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        EncoderGraph(build(recipe).eval())(clips, torch.tensor([frames]))

    int8 = quantised(onnx.load_from_string(graph)).SerializeToString()

    counted = [gigaflop_of_graph(content) for content in (graph, int8)]

    assert counted == pytest.approx([counter.get_total_flops() / 1e9] * 2)


def test_sizes_that_a_graph_computes_are_counted_too() -> None:
    """Torch counted 222.3 GFLOP for this encoder (benchmarks/results/encoder.jsonl)."""
    graph = load_bundle("kinetics400").read_graph("encoder")

    assert gigaflop_of_graph(graph) == pytest.approx(222.3, abs=0.05)


def test_a_written_graph_is_valid_onnx_and_has_its_constants() -> None:
    right = np.arange(6, dtype=np.float32).reshape(2, 3)
    graph = write_graph(
        "small",
        [Node("MatMul", ("left", "right"), "product")],
        inputs=[Value("left", (4, 2))],
        outputs=[Value("product", (4, 3))],
        constants=[Constant("right", (2, 3), right.tobytes())],
    )

    model = onnx.load_from_string(graph)
    onnx.checker.check_model(model, full_check=True)
    assert np.array_equal(onnx.numpy_helper.to_array(model.graph.initializer[0]), right)


def test_the_first_seconds_of_a_video_are_its_first_frames(video: Path, tmp_path: Path) -> None:
    first_seconds(str(video), tmp_path / "part.mkv", seconds=2.0)

    assert 20 <= decode_bare(tmp_path / "part.mkv") <= 22
    assert probe(tmp_path / "part.mkv").width_px == 64


def test_a_stream_without_times_has_no_first_seconds(tmp_path: Path) -> None:
    pictures = noise_pictures(10, height_px=48, width_px=64)
    bare = write_video(tmp_path / "a.h264", pictures, fps=10, container_format="h264")

    with pytest.raises(MediaError, match=r"a\.h264: its first 1 s cannot be copied .* --seconds 0 takes all"):
        first_seconds(str(bare), tmp_path / "part.mkv", seconds=1.0)


def test_a_copy_several_times_over_is_as_long(video: Path, tmp_path: Path) -> None:
    copy_packets(video, tmp_path / "long.mp4", times=3)

    assert decode_bare(tmp_path / "long.mp4") == 120
    assert probe(tmp_path / "long.mp4").duration_s == pytest.approx(12.0)


def test_the_least_of_detect_is_the_slower_stage_or_the_work_of_both_over_the_cores() -> None:
    def timing(wall_s: float, cpu_s: float) -> Timing:
        return Timing(wall_s=(wall_s, wall_s), cpu_s=(cpu_s, cpu_s))

    measured = {"decode": timing(2.0, 3.0), "encode": timing(4.0, 8.0), "detect": timing(6.6, 12.0)}
    speed = Speed(
        timings=measured,
        stages=(),
        source_frames=1,
        frames=1,
        duration_s=1.0,
        clips=1,
        clips_at_once=1,
        gigaflop_per_clip=None,
        gigaflop_per_product=None,
        clips_timed=1,
    )

    assert speed.over_slower_stage.median == pytest.approx(6.6 / 4.0)
    assert speed.over_least(2).median == pytest.approx(6.6 / 5.5)  # 11 s of processor time on 2 cores
    assert speed.over_least(4).median == pytest.approx(6.6 / 4.0)


def test_stages_are_measured_alone_together_and_against_ceilings(video: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(stages._SIDES, "cpu", 128)
    detector = Detector.load("demo", device="cpu", threads=1)

    speed = measure_stages(detector, str(video), Trial(threads=1, rounds=2, most_clips=1))

    assert (speed.source_frames, speed.frames, speed.clips, speed.clips_timed) == (40, 60, 2, 1)
    assert len(speed.stages) == 2
    assert all(len(timing.wall_s) == 2 for timing in speed.timings.values())
    slower = max(speed.timings[name].spread.median for name in ("decode", "encode"))
    assert speed.timings[speed.binding].spread.median == slower
    assert speed.over_slower_stage.median > 0.5
    assert all(
        share is not None and share.median > 0 for share in map(speed.ceiling_share, ("decode", "encode", "detect"))
    )


def test_an_encoder_in_bfloat16_is_not_held_against_products_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    detector = Detector.load("demo", device="cpu", threads=1)
    monkeypatch.setattr(type(detector.runtime), "precision", "bf16")

    assert stages._product(detector, 1) is None
