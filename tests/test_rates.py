"""Several rates over the same clips: features averaged by hand, times scaled back, one suppression."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import re
import tracemalloc
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from typer.testing import CliRunner

from tallformer_infer.cli import app
from tallformer_infer.config import WindowConfig, preset
from tallformer_infer.errors import ConfigError
from tallformer_infer.pipeline import Detector, choose_layout
from tallformer_infer.pipeline.candidates import CandidatePools, in_video_frames, length_ranges
from tallformer_infer.pipeline.choices import rates_of
from tallformer_infer.results import actions_document, load_schema
from tallformer_infer.runtime import Runtime, WindowBatch
from tallformer_infer.structures import Action, Candidates, Layout, Result
from tallformer_infer.timeline import FeatureWindow, Timeline, Timelines, pool_steps, step_frames
from tests.archive_runs import content_of, label
from tests.small_bundle import FOUND, write_bundle
from tests.videos import textured_pictures, write_video

SMALL = WindowConfig(window_frames=24, clip_frames=4, overlap=0.25)
"""Windows of 24 frames every 16; clips of two feature steps."""
THUMOS14 = preset("thumos14-swin-t-112")


def lay(timeline: Timeline | Timelines, count: int) -> list[FeatureWindow]:
    """The windows of a video whose every feature step is its own number; those beyond the end are -1."""
    laid: list[FeatureWindow] = []
    for start in range(0, count, 4):
        steps = np.array([[start / 2, start / 2 + 1]], np.float32)
        laid += timeline.add(start, min(4, count - start), steps)
    laid += timeline.finish(lambda: np.full((1, 2), -1, np.float32))
    return laid


def test_averages_are_those_worked_out_by_hand() -> None:
    features = np.array([[1, 2, 6, 4, 4, 1], [0, 0, 3, -3, 0, 6]], np.float32)

    np.testing.assert_array_equal(pool_steps(features, 3), np.array([[3, 3], [1, 1]], np.float32))
    np.testing.assert_array_equal(pool_steps(features, 1), features)


@given(count=st.integers(1, 300), factor=st.sampled_from([2, 3, 5, 9]))
def test_windows_of_a_lower_rate_hold_averages_of_the_videos_steps(count: int, factor: int) -> None:
    clips = -(-count // 4)
    steps = np.concatenate([np.arange(2 * clips), np.full(24 * factor, -1)]).astype(np.float32)

    laid = lay(Timelines(SMALL, 16, (factor,)), count)

    slow = -(-count // factor)  # frames of the lower rate
    assert [window.start_frame for window in laid] == list(range(0, max(slow - 24, 0) + 16, 16))[: len(laid)]
    assert laid[-1].start_frame + laid[-1].real_frames == slow
    for window in laid:
        assert window.factor == factor
        first = window.start_frame // 2 * factor
        expected = steps[first : first + 12 * factor].reshape(12, factor).mean(axis=1)
        np.testing.assert_allclose(window.features[0], expected, rtol=1e-6)


@given(count=st.integers(1, 200))
def test_windows_of_the_recipes_own_rate_stay_as_they_are(count: int) -> None:
    alone, among = lay(Timeline(SMALL, 16), count), lay(Timelines(SMALL, 16, (1, 3)), count)

    own = [window for window in among if window.factor == 1]
    assert [(window.start_frame, window.real_frames) for window in own] == [
        (window.start_frame, window.real_frames) for window in alone
    ]
    for window, other in zip(own, alone, strict=True):
        np.testing.assert_array_equal(window.features, other.features)


def test_the_empty_clip_is_encoded_once_for_all_rates() -> None:
    timelines, calls = Timelines(SMALL, 16, (1, 3, 9)), []

    def empty() -> NDArray[np.float32]:
        calls.append(1)
        return np.zeros((1, 2), np.float32)

    list(timelines.add(0, 4, np.ones((1, 2), np.float32)))
    list(timelines.finish(empty))

    assert len(calls) == 1


def test_what_a_window_to_come_may_look_at_is_told_by_the_slowest_rate() -> None:
    timelines = Timelines(SMALL, 16, (1, 3))

    told = [
        (window.factor, timelines.next_start_frame)
        for start in range(0, 92, 4)
        for window in timelines.add(start, 4, np.zeros((1, 2), np.float32))
    ]

    assert told == [(1, 0), (1, 0), (1, 0), (1, 0), (3, 48), (1, 48)]  # after 24, 40, 56, 72, 72 and 88 frames


def test_features_are_kept_no_longer_than_windows_need_them() -> None:
    peaks = []
    for clips in (300, 3000):
        timelines = Timelines(SMALL, 16, (1, 3, 9))
        tracemalloc.start()
        for index in range(clips):
            for _ in timelines.add(4 * index, 4, np.zeros((512, 2), np.float32)):
                pass
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()

    assert peaks[1] < 1.05 * peaks[0]


@pytest.mark.parametrize(
    ("rates", "factors"),
    [((15.0, 5.0, 1.67), (1, 3, 9)), ((1.6667, 15, 5), (1, 3, 9)), ((7.5,), (2,)), ((15, 15.0), (1,)), (None, (1,))],
)
def test_rates_are_the_recipes_own_over_whole_numbers(
    rates: tuple[float, ...] | None, factors: tuple[int, ...]
) -> None:
    assert choose_layout(THUMOS14, "shared", rates) == Layout("shared", factors)


def test_rates_are_noted_unless_there_is_only_the_recipes_own() -> None:
    assert rates_of(Layout("shared", (1, 3)), THUMOS14) == (15.0, 5.0)
    assert rates_of(Layout("shared", (1,)), THUMOS14) is None


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ((15, 1.7), "1.7 is not the recipe's 15 frames per second over a whole number; nearest: 1.875 and 1.667"),
        ((30,), "30 is not the recipe's 15 frames per second over a whole number; nearest: 15"),
        ((0.0,), "0 must be above 0"),
        ((-5,), "-5 must be above 0"),
        ((float("nan"),), "nan must be above 0"),
        ((0.1,), "0.1 must be at least 0.15 for this recipe"),
        ((), "expected at least one rate"),
    ],
)
def test_other_rates_are_refused(rates: tuple[float, ...], message: str) -> None:
    with pytest.raises(ConfigError, match=f"rates: {re.escape(message)}$"):
        choose_layout(THUMOS14, "shared", rates)


def test_models_whose_windows_share_no_clips_have_one_rate() -> None:
    with pytest.raises(
        ConfigError, match="the recipe anet-swin-b processes whole videos at once; its localizer has one rate"
    ):
        choose_layout(preset("anet-swin-b"), "shared", (30, 10))
    with pytest.raises(
        ConfigError, match="other than 15 need windows that share their clips; windows=reference does not"
    ):
        choose_layout(THUMOS14, "reference", (15, 5))
    with pytest.raises(ConfigError, match="windows of the recipe thumos14-opentad-swin-t share none"):
        choose_layout(preset("thumos14-opentad-swin-t"), "shared", (15, 5))
    assert choose_layout(THUMOS14, "reference", (15,)) == Layout("reference")


def candidates(*segments: tuple[float, float]) -> Candidates:
    rows = len(segments)
    return Candidates(np.array(segments, np.float32), np.full(rows, 0.5, np.float32), np.zeros(rows, np.int64))


def test_rates_answer_for_lengths_that_overlap() -> None:
    window, step = THUMOS14.window, step_frames(THUMOS14.window, "shared")

    assert length_ranges(window, step, (1, 3, 9)) == {1: (0, 240), 3: (128, 720), 9: (384, math.inf)}
    assert length_ranges(window, step, (3, 9)) == {3: (0, 720), 9: (384, math.inf)}
    assert length_ranges(window, step, (1,)) == {1: (0, math.inf)}


@given(overlap=st.floats(0, 0.99), factors=st.sets(st.integers(1, 20), min_size=1))
def test_no_length_is_left_to_nobody(overlap: float, factors: set[int]) -> None:
    window = WindowConfig(window_frames=480, clip_frames=32, overlap=overlap)

    ranges = list(length_ranges(window, step_frames(window, "shared"), tuple(sorted(factors))).values())

    assert (ranges[0][0], ranges[-1][1]) == (0, math.inf)
    assert all(longest >= shortest for (_, longest), (shortest, _) in itertools.pairwise(ranges))


def test_segments_come_back_in_frames_of_the_video_and_end_with_it() -> None:
    given_frames = candidates((10, 20), (100, 143), (100, 144), (0, 144))

    found = in_video_frames(given_frames, 3, lengths_frames=(100, 300), frames=430)

    assert found.segments_frames.tolist() == [[300.0, 429.0], [300.0, 430.0]]


def test_no_rate_crowds_out_another() -> None:
    pools = CandidatePools(2, (1, 3))
    for start in range(5):
        pools.add(1, candidates((start, start + 1)))
    pools.add(3, dataclasses.replace(candidates((7, 9)), scores=np.array([0.1], np.float32)))

    assert pools.all().segments_frames.tolist() == [[0, 1], [1, 2], [7, 9]]


def test_what_is_not_settled_waits_in_the_pool_of_its_rate() -> None:
    pools = CandidatePools(None, (1, 3))
    pools.add(1, candidates((0, 5), (20, 30)))
    pools.add(3, candidates((8, 12), (25, 40)))

    assert pools.take_settled(21).segments_frames.tolist() == [[0, 5], [8, 12]]
    pools.add(1, candidates((50, 60)))
    assert pools.all().segments_frames.tolist() == [[20, 30], [50, 60], [25, 40]]


@pytest.fixture(scope="module")
def video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """100 s at 15 frames per second: 1500 frames, 500 of rate 5, 167 of rate 1.67."""
    frames = textured_pictures(1500, height_px=48, width_px=48)
    return write_video(tmp_path_factory.mktemp("video") / "long.mp4", frames, fps=15)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Finds `FOUND` in every window, whatever it shows."""
    return write_bundle(tmp_path_factory.mktemp("small") / "bundle")


class Counting:
    """A runtime that counts clips and windows."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.clips = self.windows = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._runtime, name)

    def encode(self, clips: NDArray[np.uint8], *rest: object) -> NDArray[np.float32]:
        self.clips += len(clips)
        return self._runtime.encode(clips, *rest)  # type: ignore[arg-type]

    def localize(self, windows: WindowBatch) -> Candidates:
        self.windows += 1
        return self._runtime.localize(windows)


def rows(actions: tuple[Action, ...] | list[Action]) -> list[tuple[float, float, str, float]]:
    return sorted((action.start_s, action.end_s, action.label, action.score) for action in actions)


def without_times(result: Result) -> Result:
    return dataclasses.replace(result, timings=None)  # type: ignore[arg-type]


def test_the_recipes_own_rate_gives_what_none_gives(video: Path) -> None:
    detector = Detector.load(device="cpu", threads=1)

    assert without_times(detector.detect(video, rates=(15,))) == without_times(detector.detect(video))


def test_times_of_a_lower_rate_are_those_worked_out_by_hand(small: Path, video: Path) -> None:
    found = Detector.load(small, device="cpu").detect(video, rates=(5,)).actions

    # 500 frames of rate 5 are windows from 0 and from 352 on; what begins behind the end of the video is no action.
    expected = [
        ((offset + start) / 5, (offset + end) / 5, name)
        for offset in (0, 352)
        for (start, end), _, name in FOUND
        if (offset + start) / 5 < 100
    ]
    assert [(action.start_s, action.end_s, action.label) for action in found] == [
        (pytest.approx(start), pytest.approx(end), name) for start, end, name in sorted(expected)
    ]


def test_every_clip_is_encoded_once_for_all_rates(small: Path, video: Path) -> None:
    counts = []
    for rates in (None, (15, 5, 1.67)):
        detector = Detector.load(small, device="cpu")
        detector.runtime = counting = Counting(detector.runtime)  # type: ignore[assignment]
        detector.detect(video, rates=rates)
        counts.append((counting.clips, counting.windows))

    assert counts == [(47 + 1, 4), (47 + 1, 4 + 2 + 1)]  # with the empty clip behind the end


def test_the_stream_yields_the_actions_of_detect(small: Path, video: Path) -> None:
    detector = Detector.load(small, device="cpu")

    for rates in ((15, 5), (15, 5, 1.67), (1.67,)):
        assert rows(list(detector.stream(video, rates=rates))) == rows(detector.detect(video, rates=rates).actions)


def test_the_document_tells_the_rates(small: Path, video: Path) -> None:
    document = actions_document([Detector.load(small, device="cpu").detect(video, rates=(1.67, 15))])

    jsonschema.Draft202012Validator(load_schema()).validate(document)
    assert document["settings"]["rates"] == [15.0, 1.666667]


def test_more_rates_need_only_the_localizer_again(small: Path, video: Path, tmp_path: Path) -> None:
    first = label(video, out=tmp_path / "one", model=small)
    again = label(video, out=tmp_path / "one", model=small, factors=(1, 3))
    same = label(video, out=tmp_path / "one", model=small, factors=(1, 3))
    label(video, out=tmp_path / "new", model=small, factors=(1, 3))

    assert (first.encoded, again.encoded, same.encoded) == (47, 0, 0)
    assert same.engine.tasks == []
    found, fresh = (content_of(tmp_path / name) for name in ("one", "new"))
    assert found == fresh
    (document,) = found[1].values()
    assert document["settings"]["rates"] == [15.0, 5.0]


def test_the_archive_has_what_detect_finds(small: Path, video: Path, tmp_path: Path) -> None:
    label(video, out=tmp_path, model=small, factors=(1, 3, 9))

    (row,) = content_of(tmp_path)[0].values()
    detected = Detector.load(small, device="cpu").detect(video, rates=(15, 5, 1.67))
    assert rows(row["actions"]) == [pytest.approx(action) for action in rows(detected.actions)]


@pytest.mark.parametrize(
    ("rates", "message"),
    [
        ("15,1.7", "nearest: 1.875 and 1.667"),
        ("15;5", "invalid value for '--rates': '15;5'; expected frames per second, such as 15,5,1.67"),
    ],
)
@pytest.mark.parametrize("command", ["detect", "label"])
def test_wrong_rates_are_an_error_of_use(rates: str, message: str, command: str, video: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, [command, str(video), "--rates", rates, "--out", str(tmp_path / "out.json")])

    assert done.exit_code == 2
    assert message in " ".join(re.sub(r"[│╭╮╰╯─]", " ", done.output).split())


def test_the_command_takes_rates(small: Path, video: Path, tmp_path: Path) -> None:
    out = tmp_path / "actions.json"

    done = CliRunner().invoke(
        app, ["detect", str(video), "--model", str(small), "--rates", "15,5,1.67", "--out", str(out)]
    )

    assert done.exit_code == 0, done.output
    assert json.loads(out.read_text())["settings"]["rates"] == [15.0, 5.0, 1.666667]
