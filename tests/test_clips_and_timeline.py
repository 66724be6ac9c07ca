"""Clips, windows, and what neighbouring windows share."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.config import WindowConfig
from tallformer_infer.errors import ConfigError
from tallformer_infer.structures import Windows
from tallformer_infer.timeline import Clip, FeatureWindow, Timeline, Timelines, cut_clips, step_frames

SMALL = WindowConfig(window_frames=24, clip_frames=4, overlap=0.25)


def numbered_frames(count: int) -> list[np.ndarray]:
    return [np.full((1, 1, 3), index % 251 + 1, np.uint8) for index in range(count)]


def lay_windows(count: int, window: WindowConfig, windows: Windows) -> tuple[list[Clip], list[FeatureWindow]]:
    """All clips and windows of a video whose every feature step is its frame number (2 frames per step)."""
    timeline = Timeline(window, step_frames(window, windows))
    clips = list(cut_clips(numbered_frames(count), window, windows))
    laid = []
    for clip in clips:
        steps = np.arange(clip.start_frame, clip.start_frame + window.clip_frames, 2, dtype=np.float32)
        laid += timeline.add(clip.start_frame, clip.real_frames, steps[None])
    laid += timeline.finish(lambda: np.full((1, window.clip_frames // 2), -1, np.float32))
    return clips, laid


def expected_starts(count: int, step: int, window_frames: int) -> list[int]:
    """The official tiling, spec §4.4."""
    starts = [0]
    while starts[-1] + window_frames < count:
        starts.append(starts[-1] + step)
    return starts


@given(
    count=st.integers(0, 200),
    layout=st.sampled_from([("shared", (1,)), ("reference", (1,)), ("shared", (1, 3))]),
    overlap=st.sampled_from([0, 0.25, 0.6]),
    ends_partly=st.booleans(),
)
def test_whether_an_empty_clip_is_needed_is_known_from_the_length(
    count: int, layout: tuple[Windows, tuple[int, ...]], overlap: float, ends_partly: bool
) -> None:
    windows, factors = layout
    window = WindowConfig(window_frames=24, clip_frames=12, overlap=overlap, ends_partly=ends_partly)
    timelines = Timelines(window, step_frames(window, windows), factors)
    asked: list[int] = []

    def empty() -> np.ndarray:
        asked.append(count)
        return np.zeros((1, 6), np.float32)

    for clip in cut_clips(numbered_frames(count), window, windows):
        list(timelines.add(clip.start_frame, clip.real_frames, np.zeros((1, 6), np.float32)))
    list(timelines.finish(empty))

    if len(factors) == 1:
        assert timelines.needs_empty(count) == bool(asked)
    else:
        assert timelines.needs_empty(count) or not asked


@given(
    count=st.integers(1, 200), windows=st.sampled_from(["shared", "reference"]), overlap=st.sampled_from([0, 0.25, 0.6])
)
def test_windows_tile_the_video_as_the_official_code_does(count: int, windows: Windows, overlap: float) -> None:
    window = WindowConfig(window_frames=24, clip_frames=4, overlap=overlap)
    _, laid = lay_windows(count, window, windows)
    step = step_frames(window, windows)

    assert [item.start_frame for item in laid] == expected_starts(count, step, 24)
    for item in laid:
        assert item.real_frames == min(24, count - item.start_frame)
        for index, value in enumerate(item.features[0]):
            frame = item.start_frame + 2 * index
            clip_start = item.start_frame + index // 2 * 4
            assert value == (frame if clip_start < count else -1)


@given(count=st.integers(1, 200), overlap=st.sampled_from([0, 0.25, 2 / 3]))
def test_with_ends_partly_the_last_window_and_no_other_reaches_beyond_the_end(count: int, overlap: float) -> None:
    window = WindowConfig(window_frames=24, clip_frames=4, overlap=overlap, ends_partly=True)

    _, laid = lay_windows(count, window, "shared")

    assert [item.real_frames for item in laid[:-1]] == [24] * (len(laid) - 1)
    assert laid[-1].real_frames < 24
    step = step_frames(window, "shared")
    assert [item.start_frame for item in laid] == [step * index for index in range(len(laid))]


@given(count=st.integers(1, 200))
def test_shared_windows_cut_every_frame_into_exactly_one_clip(count: int) -> None:
    clips, _ = lay_windows(count, SMALL, "shared")

    assert [clip.start_frame for clip in clips] == list(range(0, count, 4))
    assert sum(clip.real_frames for clip in clips) == count


def test_the_official_presets_step_by_352_and_by_360_frames() -> None:
    assert step_frames(WindowConfig(), "shared") == 352
    assert step_frames(WindowConfig(), "reference") == 360


def test_reference_windows_cut_clips_on_their_own_grids() -> None:
    window = WindowConfig(window_frames=24, clip_frames=8, overlap=0.25)  # steps by 18
    clips, _ = lay_windows(50, window, "reference")

    assert [clip.start_frame for clip in clips] == [0, 8, 16, 18, 26, 34, 36, 44]  # windows at 0, 18 and 36


@given(count=st.integers(1, 200), overlap=st.sampled_from([0, 0.25, 0.6]))
def test_only_clips_of_windows_that_exist_are_cut(count: int, overlap: float) -> None:
    window = WindowConfig(window_frames=24, clip_frames=8, overlap=overlap)
    clips, laid = lay_windows(count, window, "reference")
    needed = {item.start_frame + offset for item in laid for offset in (0, 8, 16)}

    assert {clip.start_frame for clip in clips} == {start for start in needed if start < count}


def test_the_last_clip_is_zero_beyond_the_end() -> None:
    clips = list(cut_clips(numbered_frames(6), SMALL, "shared"))

    assert clips[-1].real_frames == 2
    np.testing.assert_array_equal(clips[-1].frames[:, 0, 0, 0], [5, 6, 0, 0])


def test_a_video_without_frames_has_no_clips_and_no_windows() -> None:
    clips, laid = lay_windows(0, SMALL, "shared")

    assert clips == []
    assert laid == []


def test_windows_share_features_bit_for_bit() -> None:
    _, laid = lay_windows(60, SMALL, "shared")
    step = step_frames(SMALL, "shared") // 2

    for before, after in itertools.pairwise(laid):
        np.testing.assert_array_equal(before.features[:, step:], after.features[:, : before.features.shape[1] - step])


def test_a_clip_that_does_not_divide_the_window_is_refused() -> None:
    with pytest.raises(ConfigError, match="clip_frames=32 must divide window_frames=500"):
        WindowConfig(window_frames=500)


def test_the_timeline_keeps_no_more_clips_than_a_window_needs() -> None:
    timeline = Timeline(SMALL, 16)
    for start in range(0, 4000, 4):
        list(timeline.add(start, 4, np.zeros((1, 2), np.float32)))
        assert len(timeline._clips) <= SMALL.clips
