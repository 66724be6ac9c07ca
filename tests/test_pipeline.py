"""The whole way of the data, with the bundled model on real files."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tallformer_infer.bundle import bundled_models
from tallformer_infer.config import SuppressConfig, preset
from tallformer_infer.errors import ConfigError, DeviceError, MediaError, StoppedError
from tallformer_infer.nms import suppress
from tallformer_infer.pipeline import Detector, Progress
from tallformer_infer.pipeline.candidates import CandidatePool, are_settled
from tallformer_infer.pipeline.encoding import ClipEncoder, EncodedClip
from tallformer_infer.runtime import Cancellation
from tallformer_infer.structures import Action, Candidates
from tallformer_infer.timeline import Clip
from tests.videos import textured_pictures, write_video

pytestmark = pytest.mark.usefixtures("detector")


def demo_with(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of the bundled model, its description changed."""
    copied = Path(shutil.copytree(bundled_models()["demo"], folder / "model"))
    description = json.loads((copied / "bundle.json").read_text())
    description.pop("description_sha256", None)
    change(description)
    (copied / "bundle.json").write_text(json.dumps(description))
    return copied


@pytest.fixture(scope="module")
def detector(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """The bundled model without operating points: with them, pictures without meaning have no actions."""
    model = demo_with(tmp_path_factory.mktemp("demo"), lambda description: description.pop("calibration"))
    return Detector.load(model, device="cpu", threads=1)


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 s at 15 frames per second: three windows, the last partly empty."""
    frames = textured_pictures(1050, height_px=96, width_px=96)
    return write_video(tmp_path_factory.mktemp("video") / "three_windows.mp4", frames, fps=15)


def rows(actions: tuple[Action, ...] | list[Action]) -> list[tuple[str, float, float, float]]:
    return sorted((action.label, action.start_s, action.end_s, action.score) for action in actions)


def test_actions_lie_within_the_video_in_order(detector: Detector, video: Path) -> None:
    result = detector.detect(video)

    assert result.frame_count == 1050
    assert result.duration_s == pytest.approx(70)
    assert result.decode_errors == 0
    assert result.actions
    assert all(0 <= action.start_s < action.end_s <= 70 for action in result.actions)
    starts = [action.start_s for action in result.actions]
    assert starts == sorted(starts)


def test_two_runs_give_the_same_result_bit_for_bit(detector: Detector, video: Path) -> None:
    assert detector.detect(video).actions == detector.detect(video).actions


def test_the_hash_is_that_of_the_file(detector: Detector, video: Path) -> None:
    assert detector.detect(video).video_sha256 == hashlib.sha256(video.read_bytes()).hexdigest()


def test_times_are_on_the_files_own_time_line(detector: Detector, tmp_path: Path) -> None:
    frames = list(textured_pictures(120, height_px=96, width_px=96))
    at_zero = write_video(tmp_path / "zero.mkv", frames, fps=15, codec="ffv1")
    later = write_video(tmp_path / "later.mkv", frames, fps=15, codec="ffv1", start_s=10.0)

    first, second = detector.detect(at_zero), detector.detect(later)

    assert second.video.start_s == pytest.approx(10, abs=1e-3)
    assert [action.start_s + 10 for action in first.actions] == pytest.approx(
        [action.start_s for action in second.actions], abs=1e-3
    )


def test_closing_one_stream_leaves_another_of_the_same_detector_alone(detector: Detector, video: Path) -> None:
    first, second = detector.stream(video), detector.stream(video)
    next(first)
    next(second)

    second.close()

    assert len(list(first)) > 0


def test_what_is_no_option_is_refused(detector: Detector, video: Path) -> None:
    with pytest.raises(ValueError, match="windows='bogus': expected shared or reference"):
        detector.detect(video, windows="bogus")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads=0: expected at least 1"):
        Detector.load(threads=0)
    with pytest.raises(ValueError, match="device='tpu': expected one of auto, cpu, openvino"):
        Detector.load(device="tpu")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="classes='spin left': expected a list of names"):
        detector.detect(video, classes="spin left")


def test_a_cancelled_run_stops_the_clip_that_is_encoded_and_all_later_ones(detector: Detector) -> None:
    side = detector.bundle.recipe.sampling.crop_px
    clips, real = np.zeros((64, 32, side, side, 3), np.uint8), np.full(64, 32)
    cancellation = Cancellation()
    threading.Timer(0.1, cancellation.cancel).start()
    started = time.perf_counter()

    with pytest.raises(StoppedError):
        detector.runtime.encode(clips, real, cancellation)
    with pytest.raises(StoppedError):
        detector.runtime.encode(clips[:1], real[:1], cancellation)
    assert time.perf_counter() - started < 1
    assert detector.runtime.encode(clips[:1], real[:1]).shape[0] == 1


def test_a_cancelled_run_stops_all_calls_that_run_side_by_side() -> None:
    stopped: list[str] = []
    cancellation = Cancellation()

    with cancellation.stopping(lambda: stopped.append("first")):
        with cancellation.stopping(lambda: stopped.append("second")):
            pass
        with cancellation.stopping(lambda: stopped.append("third")):
            cancellation.cancel()

    assert stopped == ["first", "third"]


BROKEN = 31


class SlowRuntime:
    """Encodes two clips side by side, one per call; a clip takes as many hundredths of a second as it has real frames.

    Features are the clip's real frames.
    """

    clips_at_once, clips_per_call = 2, 1

    def __init__(self) -> None:
        self.begun: list[int] = []

    def encode(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation
    ) -> NDArray[np.float32]:
        (frames,) = real_frames.tolist()
        self.begun.append(frames)
        if frames == BROKEN:
            raise StoppedError("as asked")
        time.sleep(frames / 100)
        return np.full((1, 2, 16), frames, np.float32)


def clips_of(*real_frames: int) -> Iterator[Clip]:
    return (Clip(32 * index, np.zeros((32, 4, 4, 3), np.uint8), real) for index, real in enumerate(real_frames))


def test_a_slow_clip_holds_up_neither_the_clips_after_it_nor_their_order() -> None:
    runtime = SlowRuntime()
    encoder = ClipEncoder(runtime, preset("tiny"))  # type: ignore[arg-type]
    started = time.perf_counter()

    encoded = list(encoder.encode(clips_of(30, 10, 11, 1, 2)))

    assert [(one.start_frame, one.real_frames) for one in encoded] == [(0, 30), (32, 10), (64, 11), (96, 1), (128, 2)]
    assert all((one.features == one.real_frames).all() for one in encoded)
    assert runtime.begun[:2] in ([30, 10], [10, 30])
    assert runtime.begun[2] == 11
    assert sorted(runtime.begun[3:]) == [1, 2]  # both threads are free by then
    assert encoder.encode_s <= time.perf_counter() - started < 0.5  # one after the other they take 0.54 s


@pytest.mark.parametrize(("at_once", "per_call"), [(2, 1), (1, 1), (3, 3)])
def test_a_clip_that_equals_the_one_before_is_not_encoded_again(at_once: int, per_call: int) -> None:
    runtime = CountingRuntime()
    runtime.clips_at_once, runtime.clips_per_call = at_once, per_call
    values = [7, 7, 7, 7, 7, 8, 7, 9, 9]
    clips = [Clip(32 * index, np.full((32, 4, 4, 3), value, np.uint8), 32) for index, value in enumerate(values)]
    clips.append(Clip(288, clips[-1].frames, 20))

    encoded = list(ClipEncoder(runtime, preset("tiny")).encode(iter(clips)))  # type: ignore[arg-type]

    assert [float(one.features[0, 0]) for one in encoded] == [*values, 9]
    assert [(one.start_frame, one.real_frames) for one in encoded] == [
        (clip.start_frame, clip.real_frames) for clip in clips
    ]
    assert sorted(runtime.encoded) == [7, 7, 8, 9, 9]  # the last has other real frames


class CountingRuntime:
    """Features are the clip's first pixel."""

    clips_at_once, clips_per_call = 1, 1

    def __init__(self) -> None:
        self.encoded: list[int] = []

    def encode(
        self, clips: NDArray[np.uint8], real_frames: NDArray[np.int64], cancellation: Cancellation
    ) -> NDArray[np.float32]:
        values = clips[:, 0, 0, 0, 0]
        self.encoded += values.tolist()
        return np.broadcast_to(values[:, None, None], (len(values), 2, 16)).astype(np.float32)


def test_a_clip_is_handed_on_while_the_video_goes_on() -> None:
    """As in a stream that is watched live: at most one clip waits for the next."""
    taken: list[int] = []

    def live() -> Iterator[Clip]:
        for index, clip in enumerate(clips_of(*[1] * 6)):
            time.sleep(0.1)
            taken.append(index)
            yield clip

    for index, _ in enumerate(ClipEncoder(SlowRuntime(), preset("tiny")).encode(live())):  # type: ignore[arg-type]
        assert taken[-1] <= index + 1


def test_the_empty_clip_is_encoded_beside_the_last_ones_and_once_for_all_videos() -> None:
    runtime = SlowRuntime()
    encoder = ClipEncoder(runtime, preset("tiny"))  # type: ignore[arg-type]

    def ending() -> Iterator[Clip]:
        yield from clips_of(30, 20)
        encoder.prepare_empty()

    list(encoder.encode(ending()))

    assert sorted(runtime.begun) == [0, 20, 30]
    for one in (encoder, encoder, ClipEncoder(runtime, preset("tiny"))):  # type: ignore[arg-type]
        one.prepare_empty()
        assert (one.encode_empty() == 0).all()
    assert runtime.begun.count(0) == 1
    ClipEncoder(other := SlowRuntime(), preset("tiny")).encode_empty()  # type: ignore[arg-type]
    assert other.begun == [0]


def test_a_clip_that_fails_ends_the_run_and_leaves_no_thread() -> None:
    before = threading.active_count()
    encoder = ClipEncoder(SlowRuntime(), preset("tiny"))  # type: ignore[arg-type]
    found: list[EncodedClip] = []

    with pytest.raises(StoppedError, match="as asked"):
        found.extend(encoder.encode(clips_of(1, 2, BROKEN, 1, 1)))

    assert [clip.real_frames for clip in found] == [1, 2]
    del encoder
    deadline = time.perf_counter() + 5
    while threading.active_count() > before and time.perf_counter() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before


def test_the_same_pictures_at_other_frame_times_give_the_same_actions(detector: Detector, tmp_path: Path) -> None:
    frames = list(textured_pictures(60, height_px=96, width_px=96))
    steady = write_video(tmp_path / "steady.mkv", frames, fps=15, codec="ffv1")
    jitter = np.random.default_rng(0).uniform(-0.012, 0.012, 60)
    times_s = [index / 15 + shift * (index > 0) for index, shift in enumerate(jitter)]
    uneven = write_video(tmp_path / "uneven.mkv", frames, fps=15, codec="ffv1", times_s=times_s)

    assert detector.detect(uneven).frame_count == 60
    assert rows(detector.detect(uneven).actions) == rows(detector.detect(steady).actions)


@pytest.fixture(scope="module")
def uncapped(tmp_path_factory: pytest.TempPathFactory) -> Detector:
    """The bundled model without its limit of actions per video, and with suppression in NumPy."""

    def uncap(description: dict[str, Any]) -> None:
        del description["calibration"], description["graphs"]["suppress"]
        description["recipe"]["suppress"]["max_per_video"] = 1_000_000

    return Detector.load(demo_with(tmp_path_factory.mktemp("uncapped"), uncap), device="cpu", threads=1)


def test_the_stream_yields_the_actions_of_detect_and_some_before_the_end(uncapped: Detector, tmp_path: Path) -> None:
    frames = textured_pictures(15 * 120, height_px=96, width_px=96)
    long_video = write_video(tmp_path / "long.mp4", frames, fps=15)
    reached: list[float] = []

    def note(progress: Progress) -> None:
        reached.append(progress.position_s)

    streamed = [(action, reached[-1]) for action in uncapped.stream(long_video, on_progress=note)]

    assert rows([action for action, _ in streamed]) == rows(uncapped.detect(long_video).actions)
    assert any(position_s < 100 for _, position_s in streamed)
    assert all(action.end_s <= position_s for action, position_s in streamed)


def test_after_every_clip_final_and_provisional_actions_are_those_of_the_video_up_to_there(uncapped: Detector) -> None:
    pictures = np.stack(list(textured_pictures(15 * 40, height_px=96, width_px=96)))
    final: list[Action] = []
    frames, compared = 0, 0

    for step in uncapped.follow(pictures, fps=15, threshold=0.02):
        final += step.final
        frames += 32
        if frames in (32, 320, 544):  # the first clip, within the first window, and behind it
            until_then = uncapped.detect(pictures[:frames], fps=15, threshold=0.02)
            assert rows(final + list(step.provisional)) == rows(until_then.actions)
            assert step.provisional
            compared += 1

    assert compared == 3
    assert rows(final) == rows(list(uncapped.stream(pictures, fps=15, threshold=0.02)))


def test_filters_choose_among_the_same_actions(detector: Detector, video: Path) -> None:
    everything = detector.detect(video).actions
    scores = sorted(action.score for action in everything)
    middle = scores[len(scores) // 2]

    assert detector.detect(video, threshold=middle).actions == tuple(a for a in everything if a.score >= middle)
    assert {action.label for action in detector.detect(video, classes=["bounce"]).actions} <= {"bounce"}
    best = detector.detect(video, top_k=3).actions
    assert sorted(action.score for action in best) == scores[-3:]


def test_wrong_filters_are_refused_before_the_video_is_opened(detector: Detector) -> None:
    with pytest.raises(ConfigError, match=r"threshold=1\.5 must be in \[0, 1\]"):
        detector.detect("no-such.mp4", threshold=1.5)
    with pytest.raises(ConfigError, match="bonce"):
        detector.detect("no-such.mp4", classes=["bonce"])


def test_a_missing_video_is_one_line(detector: Detector) -> None:
    with pytest.raises(MediaError, match=r"no-such\.mp4: no such video"):
        detector.detect("no-such.mp4")


def test_progress_rises_to_the_end(detector: Detector, video: Path) -> None:
    seen: list[Progress] = []

    detector.detect(video, on_progress=seen.append)

    positions = [progress.position_s for progress in seen]
    assert positions == sorted(positions)
    assert positions[-1] == pytest.approx(70)
    assert all(progress.duration_s == pytest.approx(70, abs=0.1) and progress.speed > 0 for progress in seen)


def test_windows_share_features_bit_for_bit(detector: Detector) -> None:
    """What lets clips be encoded once: a clip's features do not depend on the clips beside it."""
    recipe = detector.bundle.recipe
    random = np.random.default_rng(0)
    side = recipe.sampling.crop_px
    clips = random.integers(0, 256, (3, recipe.window.clip_frames, side, side, 3), dtype=np.uint8)
    real = np.full(3, recipe.window.clip_frames, np.int64)

    together = detector.runtime.encode(clips, real)
    alone = np.concatenate([detector.runtime.encode(clips[i : i + 1], real[:1]) for i in range(3)])

    np.testing.assert_allclose(together, alone, atol=2e-5 * float(np.abs(alone).max()), rtol=0)
    np.testing.assert_array_equal(alone[1], detector.runtime.encode(clips[1:2], real[:1])[0])


def test_frames_beyond_the_end_do_not_matter(detector: Detector) -> None:
    recipe = detector.bundle.recipe
    side, frames = recipe.sampling.crop_px, recipe.window.clip_frames
    noise = np.random.default_rng(0).integers(0, 256, (1, frames, side, side, 3), dtype=np.uint8)
    cut = noise.copy()
    cut[:, 10:] = 0

    ten = np.array([10], np.int64)

    np.testing.assert_array_equal(detector.runtime.encode(noise, ten), detector.runtime.encode(cut, ten))
    assert not np.array_equal(detector.runtime.encode(noise, ten), detector.runtime.encode(noise, ten + 1))


def test_a_device_that_cannot_be_had_is_an_error_and_auto_says_why() -> None:
    chosen = Detector.load(device="auto")
    if chosen.device == "cuda":
        pytest.skip("this machine has CUDA")

    with pytest.raises(DeviceError, match=r"device cuda is not available: .* use --device cpu or auto"):
        Detector.load(device="cuda")
    assert "CUDA" in chosen.runtime.device_reason


@st.composite
def candidate_lists(draw: st.DrawFn) -> Candidates:
    count = draw(st.integers(0, 40))
    starts = draw(st.lists(st.integers(0, 300), min_size=count, max_size=count))
    lengths = draw(st.lists(st.integers(0, 60), min_size=count, max_size=count))
    classes = draw(st.lists(st.integers(0, 2), min_size=count, max_size=count))
    scores = np.random.default_rng(draw(st.integers(0, 99))).permutation(count) / (count + 1) + 0.01
    segments = np.array([[s, s + n] for s, n in zip(starts, lengths, strict=True)], np.float32).reshape(-1, 2)
    return Candidates(segments, scores.astype(np.float32), np.array(classes, np.int64))


@settings(max_examples=200, deadline=None)
@given(candidates=candidate_lists(), cut=st.integers(0, 360))
def test_what_is_settled_is_suppressed_as_if_later_candidates_were_there(candidates: Candidates, cut: int) -> None:
    config = SuppressConfig(score_threshold=0, max_per_video=10_000)
    earlier = candidates.take(candidates.segments_frames[:, 0] < cut)
    later = candidates.take(candidates.segments_frames[:, 0] >= cut)
    is_settled = are_settled(earlier, cut)
    settled, waiting = earlier.take(is_settled), earlier.take(~is_settled)

    apart = [suppress(settled, config), suppress(Candidates.concatenate([waiting, later]), config)]
    together = suppress(Candidates.concatenate([settled, waiting, later]), config)

    assert _table(Candidates.concatenate(apart)) == _table(together)


def _table(candidates: Candidates) -> list[tuple[int, float, float, float]]:
    return sorted(
        (int(kind), round(float(score), 5), round(float(start), 3), round(float(end), 3))
        for kind, score, (start, end) in zip(
            candidates.classes, candidates.scores, candidates.segments_frames, strict=True
        )
    )


MEASURE = """
import json, resource, sys
from tallformer_infer.pipeline import Detector
result = Detector.load("demo", device="cpu", threads=1).detect(sys.argv[1])
print(json.dumps({"frames": result.frame_count, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}))
"""


def test_memory_does_not_grow_with_the_length_of_the_video(tmp_path: Path) -> None:
    peaks = []
    for minutes in (2, 20):
        frames = textured_pictures(minutes * 60, height_px=96, width_px=96)  # 1 per second, shown 15 times
        path = write_video(tmp_path / f"{minutes}.mp4", frames, fps=1)
        done = subprocess.run([sys.executable, "-c", MEASURE, path], check=True, capture_output=True, text=True)
        report = json.loads(done.stdout)
        assert report["frames"] == pytest.approx(minutes * 60 * 15, abs=15)
        peaks.append(report["peak"])

    assert peaks[1] < 1.1 * peaks[0]


def test_the_pool_keeps_the_best_in_their_order() -> None:
    pool = CandidatePool(3)
    scores = [0.1, 0.5, 0.3, 0.5, 0.2, 0.5, 0.4, 0.9]
    for index, score in enumerate(scores):
        segment = np.array([[index, index + 1]], np.float32)
        pool.add(Candidates(segment, np.array([score], np.float32), np.zeros(1, np.int64)))

    assert pool.all().segments_frames[:, 0].tolist() == [1, 3, 7]  # of three scores of 0.5 the earlier two


def test_a_pool_without_a_limit_keeps_all() -> None:
    pool = CandidatePool(None)
    parts = [Candidates(np.zeros((n, 2), np.float32), np.ones(n, np.float32), np.zeros(n, np.int64)) for n in (2, 0, 3)]
    for part in parts:
        pool.add(part)

    assert len(pool.all()) == 5
