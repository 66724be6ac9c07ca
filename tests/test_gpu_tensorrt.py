"""What TensorRT engines do on a GPU. Off by default: make test-gpu."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tallformer_infer.bundle import Bundle, load_bundle
from tallformer_infer.console import speaking
from tallformer_infer.diagnosis import diagnose
from tallformer_infer.errors import EngineError, ExtraError, StoppedError
from tallformer_infer.files import user_cache_folder
from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Cancellation, OnnxRuntime, TensorRTRuntime, WindowBatch
from tallformer_infer.runtime.tensorrt.building import EngineOptions, build_engines
from tallformer_infer.runtime.tensorrt.keys import BatchProfile, load_library
from tallformer_infer.runtime.tensorrt.store import stored_engines

pytestmark = pytest.mark.gpu

TOLERANCE = 5e-3
"""Relative to the largest number: TensorRT multiplies in TF32 by default, with 10 bits of mantissa."""
CLIPS = BatchProfile(least=2, best=4, most=4)
"""A small batch, so that a few clips are several; a single one is filled up."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bundle]:
    """The bundled model, with engines for this GPU in a cache of its own."""
    try:
        load_library()
    except ExtraError as error:
        if os.environ.get("REQUIRE_GPU") == "1":
            raise
        pytest.skip(str(error))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        found = load_bundle()
        with speaking(quiet=True, json_logs=False) as speaker:
            build_engines(found, EngineOptions(clips=CLIPS), speaker)
        yield found


@pytest.fixture(scope="module")
def engines(bundle: Bundle) -> TensorRTRuntime:
    return TensorRTRuntime(bundle)


@pytest.fixture(scope="module")
def cpu(bundle: Bundle) -> OnnxRuntime:
    return OnnxRuntime(bundle, device="cpu")


def clips_of(bundle: Bundle, count: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    side, frames = bundle.recipe.sampling.crop_px, bundle.recipe.window.clip_frames
    random = np.random.default_rng(count)
    clips = random.integers(0, 256, (count, frames, side, side, 3), dtype=np.uint8)
    return clips, random.integers(0, frames + 1, count)


def windows_of(bundle: Bundle, count: int) -> WindowBatch:
    recipe = bundle.recipe
    shape = (count, recipe.model.backbone.out_channels, recipe.window_steps)
    features = np.random.default_rng(count).standard_normal(shape).astype(np.float32)
    return WindowBatch(features, np.arange(count) * 100, np.full(count, recipe.window.window_frames))


def assert_close(there: NDArray[np.float32], here: NDArray[np.float32]) -> None:
    assert there.shape == here.shape
    np.testing.assert_allclose(there, here, atol=TOLERANCE * float(np.abs(here).max()), rtol=0)


@pytest.mark.parametrize("count", [1, 2, 4, 5, 9, 18], ids=lambda count: f"{count}-clips")
def test_features_equal_those_on_the_cpu_in_any_number_of_batches(
    bundle: Bundle, engines: TensorRTRuntime, cpu: OnnxRuntime, count: int
) -> None:
    clips, real = clips_of(bundle, count)

    assert_close(engines.encode(clips, real), cpu.encode(clips, real))


def test_no_clips_give_no_features(bundle: Bundle, engines: TensorRTRuntime) -> None:
    clips, real = clips_of(bundle, 1)

    assert engines.encode(clips[:0], real[:0]).shape == (0, *engines.encode(clips, real).shape[1:])


def test_results_do_not_change_when_buffers_are_used_again(bundle: Bundle, engines: TensorRTRuntime) -> None:
    clips, real = clips_of(bundle, 18)

    first, second = engines.encode(clips, real), engines.encode(clips[::-1], real[::-1])[::-1]

    assert_close(second, first)


def test_candidates_equal_those_on_the_cpu(bundle: Bundle, engines: TensorRTRuntime, cpu: OnnxRuntime) -> None:
    windows = windows_of(bundle, 3)

    there, here = engines.localize(windows), cpu.localize(windows)

    assert len(there) == pytest.approx(len(here), rel=0.02)
    best = min(len(there), len(here)) // 2
    assert_close(np.sort(there.scores)[::-1][:best], np.sort(here.scores)[::-1][:best])


def test_fifty_windows_beside_the_encoder_give_what_they_give_alone(bundle: Bundle, engines: TensorRTRuntime) -> None:
    """As in a video: two threads, one stream, and one memory that both engines compute in."""
    clips, real = clips_of(bundle, 16)
    features, starts, frames = windows_of(bundle, 50)
    rows = [slice(row, row + 1) for row in range(50)]
    windows = [WindowBatch(features[row], starts[row], frames[row]) for row in rows]
    alone, localized = engines.encode(clips, real), [engines.localize(window) for window in windows]
    ended = threading.Event()
    together: list[NDArray[np.float32]] = []

    def encode() -> None:
        while not ended.is_set():
            together.append(engines.encode(clips, real))

    thread = threading.Thread(target=encode)
    thread.start()
    try:
        found = [engines.localize(window) for window in windows]
    finally:
        ended.set()
        thread.join()

    assert len(together) > 1
    for again in together:
        np.testing.assert_array_equal(again, alone)
    for there, here in zip(found, localized, strict=True):
        np.testing.assert_array_equal(there.segments_frames, here.segments_frames)
        np.testing.assert_array_equal(there.scores, here.scores)


def test_run_that_is_stopped_says_so_and_leaves_the_runtime_usable(bundle: Bundle, engines: TensorRTRuntime) -> None:
    clips, real = clips_of(bundle, 9)
    expected = engines.encode(clips, real)
    cancellation = Cancellation()
    cancellation.cancel()

    with pytest.raises(StoppedError):
        engines.encode(clips, real, cancellation)

    np.testing.assert_array_equal(engines.encode(clips, real), expected)


def test_a_video_gives_the_actions_of_the_cpu(bundle: Bundle, root: Path) -> None:
    example = root / "docs/example/example.mp4"

    there, here = (
        Detector.load(bundle, device=device).detect(example, threshold=0.3) for device in ("tensorrt", "cpu")
    )

    assert there.provenance.device == "cuda"
    assert there.provenance.runtime.startswith("tensorrt")
    assert [action.label for action in there.actions] == [action.label for action in here.actions]
    for one, other in zip(there.actions, here.actions, strict=True):
        assert (one.start_s, one.end_s) == pytest.approx((other.start_s, other.end_s), abs=0.1)
        assert one.score == pytest.approx(other.score, abs=0.01)


def test_damaged_engine_is_refused_before_tensorrt_sees_it(bundle: Bundle, engines: TensorRTRuntime) -> None:
    stored = stored_engines(bundle)[0]
    content = stored.path.read_bytes()
    try:
        stored.path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        with pytest.raises(EngineError, match="was changed or damaged after it was built"):
            TensorRTRuntime(bundle)
    finally:
        stored.path.write_bytes(content)


def test_full_tensorrt_keeps_what_it_measured(bundle: Bundle) -> None:
    if load_library().flavour != "tensorrt":
        pytest.skip("TensorRT-RTX measures nothing")

    assert [file for file in (user_cache_folder() / "engines").glob("timing_*.cache") if file.stat().st_size]


def test_doctor_runs_an_engine(bundle: Bundle) -> None:
    (verdict,) = diagnose(["tensorrt"]).devices

    assert verdict.works, verdict.text
    assert verdict.runs_on == "cuda"
