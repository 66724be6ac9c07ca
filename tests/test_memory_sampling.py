"""Which clips are encoded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_training.memory import ClipSampler, Sampling, encoded_count
from tallformer_training.memory.sampling import jittered_clips, random_clips, uniform_clips

MODES = get_args(Sampling)


def sampler(mode: Sampling, ratio: float, *, seed: int = 0, window_clips: int = 15, **videos: int) -> ClipSampler:
    return ClipSampler(mode, videos, window_clips=window_clips, ratio=ratio, seed=seed)


@pytest.mark.parametrize(
    ("ratio", "count"), [(0, 0), (0.05, 0), (1 / 8, 1), (0.15, 2), (0.3, 4), (0.375, 5), (0.4, 6), (0.6, 9), (1, 15)]
)
def test_number_of_encoded_clips_is_rounded_down(ratio: float, count: int) -> None:
    assert encoded_count(15, ratio) == count


@pytest.mark.parametrize("ratio", [-0.1, 1.1])
def test_a_ratio_beyond_both_ends_is_refused(ratio: float) -> None:
    with pytest.raises(ValueError, match=rf"expected ratio = {ratio} in \[0, 1\]"):
        encoded_count(15, ratio)


def test_uniform_takes_equal_distances_from_the_first_to_the_last() -> None:
    assert uniform_clips(15, 6).tolist() == [0, 2, 5, 8, 11, 14]
    assert uniform_clips(15, 1).tolist() == [0]


def test_golden_selections_are_equal(golden: Path) -> None:
    cases = json.loads((golden / "membank_cases.json").read_text())["index_selection"]
    for case in cases:
        generator = np.random.RandomState(case["np_seed"])
        clips = case["num_chunks"] if "num_chunks" in case else case["num_frames"] // case["chunk_size"]
        count = encoded_count(clips, case["keep_ratio"])
        match case.get("mode", "jittered"):
            case "random":
                drawn = random_clips(clips, count, generator)
            case "uniform":
                drawn = uniform_clips(clips, count)
            case _:
                drawn = jittered_clips(clips, case["keep_ratio"], generator)
        assert drawn.tolist() == case["keep"], case
        assert sorted({*range(clips)} - {*drawn.tolist()}) == case["drop"], case


@pytest.mark.parametrize("mode", MODES)
def test_ratio_zero_encodes_nothing_and_one_everything(mode: Sampling) -> None:
    frozen, full = sampler(mode, 0, a=40), sampler(mode, 1, a=40)

    assert frozen.draw_window("a")[1].tolist() == []
    assert full.draw_window("a")[1].tolist() == list(range(15))


@given(
    mode=st.sampled_from(MODES),
    video=st.integers(1, 60),
    window=st.integers(1, 20),
    ratio=st.floats(0, 1),
    seed=st.integers(0, 99),
)
def test_drawn_clips_lie_in_the_window_and_in_the_video(
    mode: Sampling, video: int, window: int, ratio: float, seed: int
) -> None:
    source = sampler(mode, ratio, seed=seed, window_clips=window, a=video)
    for _ in range(5):
        first, clips = source.draw_window("a")
        assert 0 <= first <= max(video - window, 0)
        assert len(set(clips.tolist())) == len(clips)
        assert sorted(clips.tolist()) == clips.tolist()
        assert all(0 <= clip < window and first + clip < video for clip in clips.tolist())
        if mode != "jittered":
            assert len(clips) == min(encoded_count(window, ratio), video)


@given(video=st.integers(1, 80), window=st.integers(1, 20), data=st.data())
def test_stratified_refreshes_all_clips_of_a_video_equally_often(video: int, window: int, data: st.DataObject) -> None:
    count = data.draw(st.integers(1, window if video <= window else (window + 1) // 2))
    source = sampler("stratified", min(count / window + 1e-9, 1), window_clips=window, a=video)
    assert source.count == count

    for _ in range(100):
        source.draw_window("a")
        refreshed = source.refreshed("a")
        assert refreshed.max() - refreshed.min() <= 1


@given(first=st.integers(-20, 60), window=st.integers(1, 20), data=st.data())
def test_stratified_refreshes_the_clips_of_a_given_window_equally_often(
    first: int, window: int, data: st.DataObject
) -> None:
    source = sampler("stratified", data.draw(st.floats(0, 1)), window_clips=window, a=40)

    for _ in range(30):
        source.draw_clips("a", first)

    inside = source.refreshed("a")[max(first, 0) : max(first + window, 0)]
    assert source.refreshed("a").sum() == inside.sum()
    if len(inside):
        assert inside.max() - inside.min() <= 1


def test_random_does_not_refresh_equally_often() -> None:
    source = sampler("random", 0.15, a=80)
    for _ in range(200):
        source.draw_window("a")

    refreshed = source.refreshed("a")
    assert refreshed.max() - refreshed.min() > 3


def test_stratified_windows_start_at_many_places() -> None:
    source = sampler("stratified", 0.15, a=80)

    assert len({source.draw_window("a")[0] for _ in range(200)}) > 40


@pytest.mark.parametrize("mode", MODES)
def test_the_same_seed_draws_the_same_whatever_other_videos_do(mode: Sampling) -> None:
    alone, among_others = sampler(mode, 0.3, a=50), sampler(mode, 0.3, a=50, b=20)

    for _ in range(10):
        among_others.draw_window("b")
        mine, theirs = alone.draw_window("a"), among_others.draw_window("a")
        assert (mine[0], mine[1].tolist()) == (theirs[0], theirs[1].tolist())


def test_other_seeds_other_videos_and_other_times_draw_other_clips() -> None:
    draws = [
        tuple(source.draw_window(video)[1].tolist())
        for seed in range(3)
        for source in [sampler("random", 0.4, seed=seed, a=15, b=15)]
        for video in ("a", "b")
        for _ in range(3)
    ]

    assert len(set(draws)) == len(draws)


@pytest.mark.parametrize("mode", MODES)
def test_a_restored_sampler_goes_on_as_if_never_stopped(mode: Sampling) -> None:
    source = sampler(mode, 0.3, a=50, b=7)
    for _ in range(11):
        source.draw_window("a")
        source.draw_window("b")

    restored = sampler(mode, 0.3, a=50, b=7)
    restored.restore(json.loads(json.dumps(source.state())))

    for video in ("a", "b", "a"):
        mine, theirs = source.draw_window(video), restored.draw_window(video)
        assert (mine[0], mine[1].tolist()) == (theirs[0], theirs[1].tolist())


def test_the_state_of_other_videos_is_refused() -> None:
    with pytest.raises(ValueError, match="same videos and clips"):
        sampler("random", 0.3, a=50).restore(sampler("random", 0.3, a=51).state())
