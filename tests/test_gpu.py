"""What only a CUDA device can show of ONNX Runtime. Off by default: make test-gpu."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
from numpy.typing import NDArray

from tallformer_infer.bundle import GraphName, load_bundle
from tallformer_infer.errors import DeviceError, StoppedError
from tallformer_infer.files import user_cache_folder
from tallformer_infer.nms import suppress
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Cancellation, OnnxRuntime, WindowBatch
from tallformer_infer.runtime.device_graphs import BoundGraph, DeviceGraphs
from tallformer_infer.runtime.onnx_session import CPU, CUDA, cuda_provider, open_session
from tallformer_infer.structures import Candidates
from tests.device_samples import relu
from tests.videos import textured_pictures, write_video

pytestmark = pytest.mark.gpu

FEATURE_TOLERANCE = 5e-3
"""Relative to the largest feature: CUDA multiplies in TF32 by default, with 10 bits of mantissa."""
ON_CUDA = (cuda_provider(captures=False), CPU)


@pytest.fixture(scope="module")
def detectors() -> tuple[Detector, Detector]:
    return Detector.load(device="cpu"), Detector.load(device="cuda")


@pytest.fixture(scope="module")
def onnx_tensorrt(tmp_path_factory: pytest.TempPathFactory, detectors: tuple[Detector, Detector]) -> Iterator[Detector]:
    """The bundled model, with engines that ONNX Runtime builds in a cache of its own; where there is CUDA."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        try:
            detector = Detector.load(device="onnx-tensorrt")
        except DeviceError as error:
            if os.environ.get("REQUIRE_GPU") == "1" and find_spec("tensorrt") is not None:
                raise
            pytest.skip(str(error))
        yield detector


def clips_of(detector: Detector, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    recipe = detector.bundle.recipe
    side, frames = recipe.sampling.crop_px, recipe.window.clip_frames
    random = np.random.default_rng(count)
    clips = random.integers(0, 256, (count, frames, side, side, 3), dtype=np.uint8)
    return clips, random.integers(0, frames + 1, count)


def windows_of(detector: Detector, count: int) -> WindowBatch:
    recipe = detector.bundle.recipe
    shape = (count, recipe.model.backbone.out_channels, recipe.window_steps)
    features = np.random.default_rng(count).standard_normal(shape).astype(np.float32)
    return WindowBatch(features, np.arange(count) * 100, np.full(count, recipe.window.window_frames))


def assert_close(there: NDArray[np.float32], here: NDArray[np.float32]) -> None:
    assert there.shape == here.shape
    np.testing.assert_allclose(there, here, atol=FEATURE_TOLERANCE * float(np.abs(here).max()), rtol=0)


def assert_same_candidates(there: Candidates, here: Candidates) -> None:
    assert len(there) == pytest.approx(len(here), rel=0.02)
    best = min(len(there), len(here)) // 2
    assert_close(np.sort(there.scores)[::-1][:best], np.sort(here.scores)[::-1][:best])


def files_below(folder: Path, pattern: str) -> dict[Path, int]:
    return {file: file.stat().st_mtime_ns for file in folder.rglob(pattern) if file.stat().st_size}


def test_auto_takes_cuda() -> None:
    detector = Detector.load(device="auto")

    assert detector.device == "cuda"
    assert detector.runtime.device_reason


def test_encoder_and_localizer_run_as_cuda_graphs(detectors: tuple[Detector, Detector]) -> None:
    assert detectors[1].runtime.device_reason == "as asked, with CUDA graphs"


@pytest.mark.parametrize("count", [1, 5, 8, 9, 16, 19], ids=lambda count: f"{count}-clips")
def test_features_on_cuda_equal_those_on_the_cpu(detectors: tuple[Detector, Detector], count: int) -> None:
    cpu, cuda = detectors
    clips, real = clips_of(cpu, count)

    assert_close(cuda.runtime.encode(clips, real), cpu.runtime.encode(clips, real))


def test_results_do_not_change_when_buffers_are_used_again(detectors: tuple[Detector, Detector]) -> None:
    _, cuda = detectors
    clips, real = clips_of(cuda, 19)
    first = cuda.runtime.encode(clips, real)
    kept = first.copy()

    second = cuda.runtime.encode(clips[::-1], real[::-1])[::-1]

    np.testing.assert_array_equal(first, kept)
    assert_close(second, kept)


def test_candidates_on_cuda_equal_those_on_the_cpu(detectors: tuple[Detector, Detector]) -> None:
    cpu, cuda = detectors
    windows = windows_of(cpu, 3)

    assert_same_candidates(cuda.runtime.localize(windows), cpu.runtime.localize(windows))


def test_captured_runs_give_what_plain_ones_give() -> None:
    bundle = load_bundle()

    def opened(name: GraphName, captures: bool) -> ort.InferenceSession:
        return open_session(bundle.read_graph(name), providers=[cuda_provider(captures=captures), CPU])

    captured, as_it_is = (
        DeviceGraphs(opened, {"encoder": 4}, place="cuda", captures=captures) for captures in (True, False)
    )
    assert captured.remark == "with CUDA graphs"
    recipe = bundle.recipe
    for seed in range(5):
        random = np.random.default_rng(seed)
        shape = (4, recipe.window.clip_frames, recipe.sampling.crop_px, recipe.sampling.crop_px, 3)
        inputs = {"clips": random.integers(0, 256, shape, dtype=np.uint8), "real_frames": random.integers(0, 33, 4)}

        (there,), (here,) = (graphs.run("encoder", inputs, ["features"]) for graphs in (captured, as_it_is))

        assert_close(there, here)


def test_outputs_on_the_gpu_are_the_inputs_of_the_next_graph() -> None:
    first = BoundGraph(relu("pixels", "features", providers=ON_CUDA), place="cuda", most=4)
    given = {"features": first.buffer("features")}
    second = BoundGraph(relu("features", "found", providers=ON_CUDA), place="cuda", most=4, given=given)
    addresses = {name: first.buffer(name).data_ptr() for name in ("pixels", "features")}
    for rows in (4, 2, 4):
        pixels = np.random.default_rng(rows).standard_normal((rows, 4)).astype(np.float32)

        first.run({"pixels": pixels}, rows)
        second.run({}, rows)

        np.testing.assert_array_equal(second.result("found", rows), np.maximum(pixels, 0))
    assert "cpu" not in {first.buffer(name).device_name() for name in addresses}
    assert {name: first.buffer(name).data_ptr() for name in addresses} == addresses


def test_fifty_windows_beside_the_encoder_give_what_they_give_alone(detectors: tuple[Detector, Detector]) -> None:
    """As in a video: two threads, of which the encoding one is new for each video."""
    _, cuda = detectors
    clips, real = clips_of(cuda, 19)
    features, starts, frames = windows_of(cuda, 50)
    rows = [slice(row, row + 1) for row in range(50)]
    windows = [WindowBatch(features[row], starts[row], frames[row]) for row in rows]
    alone, localized = cuda.runtime.encode(clips, real), [cuda.runtime.localize(window) for window in windows]
    together: list[NDArray[np.float32]] = []

    for _ in range(3):
        thread = threading.Thread(target=lambda: together.extend(cuda.runtime.encode(clips, real) for _ in range(5)))
        thread.start()
        found = [cuda.runtime.localize(window) for window in windows]
        thread.join()
        for there, here in zip(found, localized, strict=True):
            np.testing.assert_array_equal(there.segments_frames, here.segments_frames)
            np.testing.assert_array_equal(there.scores, here.scores)

    assert len(together) == 15
    for again in together:
        np.testing.assert_array_equal(again, alone)


def test_run_that_is_stopped_says_so_and_leaves_the_runtime_usable(detectors: tuple[Detector, Detector]) -> None:
    _, cuda = detectors
    clips, real = clips_of(cuda, 9)
    expected = cuda.runtime.encode(clips, real)
    cancellation = Cancellation()
    cancellation.cancel()

    with pytest.raises(StoppedError):
        cuda.runtime.encode(clips, real, cancellation)

    assert_close(cuda.runtime.encode(clips, real), expected)


def test_graph_3_on_cuda_equals_what_every_command_does_on_the_host(detectors: tuple[Detector, Detector]) -> None:
    cuda = detectors[1].runtime
    assert isinstance(cuda, OnnxRuntime)
    random = np.random.default_rng(0)
    starts = random.uniform(0, 3000, (5000, 1))
    segments = np.concatenate([starts, starts + random.uniform(1, 400, (5000, 1))], axis=1).astype(np.float32)
    scores = (random.permutation(5000) / 5000 * 0.9 + 0.05).astype(np.float32)
    candidates = Candidates(segments, scores, random.integers(0, 8, 5000))

    here, there = suppress(candidates, load_bundle().recipe.suppress), cuda.suppress_in_graph(candidates)

    np.testing.assert_array_equal(there.classes, here.classes)
    np.testing.assert_allclose(there.scores, here.scores, atol=1e-6)
    np.testing.assert_allclose(there.segments_frames, here.segments_frames, atol=1e-2)


def test_a_video_gives_the_same_number_of_windows_on_both(detectors: tuple[Detector, Detector], tmp_path: Path) -> None:
    path = write_video(tmp_path / "a.mp4", textured_pictures(600, height_px=96, width_px=96), fps=15)

    results = [detector.detect(path) for detector in detectors]

    assert results[0].frame_count == results[1].frame_count == 600
    assert results[1].provenance.device == "cuda"
    assert results[1].actions


def test_second_video_of_a_detector_gives_what_a_new_one_gives(
    detectors: tuple[Detector, Detector], root: Path
) -> None:
    example = root / "docs/example/example.mp4"

    first, second = (detectors[1].detect(example, threshold=0.3) for _ in range(2))

    assert first.actions
    assert second.actions == first.actions


def test_onnxruntime_with_tensorrt_names_it(onnx_tensorrt: Detector) -> None:
    assert onnx_tensorrt.device == "cuda"
    assert onnx_tensorrt.runtime.name.startswith(f"onnxruntime {ort.__version__} with tensorrt ")
    assert "sm" in onnx_tensorrt.runtime.device_reason


@pytest.mark.parametrize("count", [1, 8, 11], ids=lambda count: f"{count}-clips")
def test_features_of_onnxruntime_with_tensorrt_equal_those_on_the_cpu(
    onnx_tensorrt: Detector, detectors: tuple[Detector, Detector], count: int
) -> None:
    clips, real = clips_of(onnx_tensorrt, count)

    assert_close(onnx_tensorrt.runtime.encode(clips, real), detectors[0].runtime.encode(clips, real))


def test_candidates_of_onnxruntime_with_tensorrt_equal_those_on_the_cpu(
    onnx_tensorrt: Detector, detectors: tuple[Detector, Detector]
) -> None:
    windows = windows_of(onnx_tensorrt, 3)

    assert_same_candidates(onnx_tensorrt.runtime.localize(windows), detectors[0].runtime.localize(windows))


def test_engines_and_timings_are_kept_and_used_again(onnx_tensorrt: Detector) -> None:
    folder = user_cache_folder() / "onnx-tensorrt"
    engines, timings = files_below(folder, "*.engine"), files_below(folder, "*.timing")

    again = OnnxRuntime(onnx_tensorrt.bundle, device="onnx-tensorrt")

    assert {file.parents[1].name.partition("_")[0] for file in engines} == {"encoder", "localizer"}
    assert timings
    assert files_below(folder, "*.engine") == engines
    clips, real = clips_of(onnx_tensorrt, 3)
    assert_close(again.encode(clips, real), onnx_tensorrt.runtime.encode(clips, real))


def test_example_has_the_same_actions_with_tensorrt_in_onnxruntime(
    onnx_tensorrt: Detector, detectors: tuple[Detector, Detector], root: Path
) -> None:
    example = root / "docs/example/example.mp4"

    there, here = (detector.detect(example, threshold=0.3) for detector in (onnx_tensorrt, detectors[0]))

    assert [action.label for action in there.actions] == [action.label for action in here.actions]
    for one, other in zip(there.actions, here.actions, strict=True):
        assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=0.1)
        assert one.score == pytest.approx(other.score, abs=0.01)


def test_session_that_asks_for_cuda_gets_it() -> None:
    assert relu("a", "b", providers=ON_CUDA).get_providers()[0] == CUDA
