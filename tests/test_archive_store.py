"""Stored features and candidates: whole or not used, within a budget."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.archive import store as features
from tallformer_infer.archive.store import DamagedError, FeatureStore, FeatureWriter, InUseError, StoreLimit
from tallformer_infer.pipeline.encoding import EncodedClip, is_repeat, rounded
from tallformer_infer.pipeline.video_run import VideoCandidates, VideoFacts
from tallformer_infer.structures import Candidates, VideoInfo
from tallformer_infer.timeline import Clip

SHAPE = (3, 4)
KEY = "ab" * 32
FACTS = VideoFacts(
    video=VideoInfo(
        path="/a.mp4", width_px=2, height_px=2, codec="h264", source_fps=25.0, start_s=0.5, duration_s=None
    ),
    sample_fps=15.0,
    frame_count=90,
    decode_errors=1,
    missing_s=0.25,
    runtime="none",
    device="cpu",
    clips=3,
    clips_reused=1,
)
CLIPS = [
    EncodedClip(32 * index, 32 if index < 2 else 26, rounded(np.random.default_rng(index).normal(size=SHAPE)))
    for index in range(3)
]


def write(store, clips=CLIPS, *, whole=True):
    writer = store.write_features(KEY, SHAPE)
    for clip in clips:
        writer.append(clip)
    if whole:
        writer.finish(FACTS)
    writer.close()


def file_of(folder):
    (path,) = folder.glob("*/*")
    return path


def assert_same(found, expected):
    assert [(clip.start_frame, clip.real_frames) for clip in found] == [
        (c.start_frame, c.real_frames) for c in expected
    ]
    for clip, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(clip.features, other.features)


def test_features_are_read_as_they_were_written(tmp_path):
    store = FeatureStore(tmp_path)
    write(store)

    reader = store.read_features(KEY, SHAPE)

    assert_same(list(reader.clips()), CLIPS)
    assert reader.facts == FACTS


def test_features_that_are_not_whole_are_not_read(tmp_path):
    store = FeatureStore(tmp_path)
    write(store, whole=False)

    assert store.read_features(KEY, SHAPE) is None


@given(st.data())
def test_writer_goes_on_behind_the_last_whole_clip(tmp_path_factory, data):
    """Whatever of the file reached the disk."""
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    write(store, whole=False)
    path = file_of(store._folder)
    content = path.read_bytes()
    kept = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:kept])

    writer = store.write_features(KEY, SHAPE)

    record = (len(content) - 16) // 3
    assert writer.stored == max(kept - 16, 0) // record
    assert_same(list(writer.stored_clips()), CLIPS[: writer.stored])
    for clip in CLIPS[writer.stored :]:
        writer.append(clip)
    writer.finish(FACTS)
    assert_same(list(store.read_features(KEY, SHAPE).clips()), CLIPS)


@given(st.data())
def test_changed_byte_is_noticed(tmp_path_factory, data):
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    write(store)
    path = file_of(store._folder)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    reader = store.read_features(KEY, SHAPE)

    if reader is not None:
        with pytest.raises(DamagedError):
            list(reader.clips())


def test_features_of_another_shape_are_not_read(tmp_path):
    store = FeatureStore(tmp_path)
    write(store)

    assert store.read_features(KEY, (4, 4)) is None


def test_features_beyond_float16_are_refused():
    with pytest.raises(OverflowError, match="70000"):
        rounded(np.full(SHAPE, 70000, np.float32))


def test_full_disk_is_an_error_that_can_be_caught(tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    writer = FeatureWriter(tmp_path / "a.features", SHAPE)
    writer._file.close()
    writer._file = Path("/dev/full").open("r+b", buffering=0)  # noqa: SIM115 (closed by `discard`)

    with pytest.raises(OSError, match="No space left"):
        writer.append(CLIPS[0])
    writer.discard()
    assert not list(tmp_path.iterdir())


def test_second_writer_of_the_same_features_is_refused_until_the_first_is_done(tmp_path):
    store = FeatureStore(tmp_path)
    first = store.write_features(KEY, SHAPE)
    first.append(CLIPS[0])

    with pytest.raises(InUseError):
        store.write_features(KEY, SHAPE)

    first.close()
    second = store.write_features(KEY, SHAPE)
    assert second.stored == 1
    for clip in CLIPS[1:]:
        second.append(clip)
    second.finish(FACTS)
    assert_same(list(store.read_features(KEY, SHAPE).clips()), CLIPS)


def test_writer_that_opened_the_file_before_it_was_finished_leaves_it_alone(tmp_path, monkeypatch):
    """The first one finishes between the opening and the locking of the second."""
    store = FeatureStore(tmp_path)
    first = store.write_features(KEY, SHAPE)
    for clip in CLIPS:
        first.append(clip)

    def finish_first(file):
        first.finish(FACTS)
        return True

    monkeypatch.setattr(features, "_try_lock", finish_first)
    with pytest.raises(InUseError):
        store.write_features(KEY, SHAPE)

    assert_same(list(store.read_features(KEY, SHAPE).clips()), CLIPS)


def test_writer_whose_file_was_removed_does_not_take_the_file_of_the_next(tmp_path):
    store = FeatureStore(tmp_path)
    first = store.write_features(KEY, SHAPE)
    first.append(CLIPS[0])
    store.forget_features(KEY)
    second = store.write_features(KEY, SHAPE)
    for clip in CLIPS:
        second.append(clip)

    with pytest.raises(InUseError):
        first.finish(FACTS)
    first.discard()

    assert store.read_features(KEY, SHAPE) is None
    second.finish(FACTS)
    assert_same(list(store.read_features(KEY, SHAPE).clips()), CLIPS)


def candidates(count):
    chance = np.random.default_rng(count)
    return Candidates(
        chance.random((count, 2)).astype(np.float32),
        chance.random(count).astype(np.float32),
        chance.integers(0, 200, count),
    )


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_candidates_are_read_as_they_were_written(tmp_path, count):
    store = FeatureStore(tmp_path)
    store.write_candidates(KEY, VideoCandidates(facts=FACTS, candidates=candidates(count), floor=0.005))

    found = store.read_candidates(KEY, floor=0.005)

    assert found.facts == FACTS
    for name in ("segments_frames", "scores", "classes"):
        np.testing.assert_array_equal(getattr(found.candidates, name), getattr(candidates(count), name))


def test_candidates_serve_a_higher_lowest_score_and_not_a_lower_one(tmp_path):
    store = FeatureStore(tmp_path)
    store.write_candidates(KEY, VideoCandidates(facts=FACTS, candidates=candidates(3), floor=0.005))

    assert store.read_candidates(KEY, floor=0.1) is not None
    assert store.read_candidates(KEY, floor=0.001) is None


@given(st.data())
def test_candidates_are_right_or_gone_whatever_byte_was_changed(tmp_path_factory, data):
    store = FeatureStore(tmp_path_factory.mktemp("store"))
    store.write_candidates(KEY, VideoCandidates(facts=FACTS, candidates=candidates(5), floor=0.005))
    path = file_of(store._folder)
    content = bytearray(path.read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    path.write_bytes(content)

    found = store.read_candidates(KEY, floor=0.005)

    if found is not None:
        np.testing.assert_array_equal(found.candidates.scores, candidates(5).scores)
        assert found.facts == FACTS


def test_what_was_not_used_for_longest_goes_first(tmp_path):
    store = FeatureStore(tmp_path)
    keys = [f"{number:064d}" for number in range(4)]
    for age, key in enumerate(keys):
        store.write_candidates(key, VideoCandidates(facts=FACTS, candidates=candidates(10), floor=0.0))
        os.utime(next(tmp_path.glob(f"*/{key}*")), (1000 + age, 1000 + age))
    size = next(tmp_path.glob("*/*")).stat().st_size
    store.read_candidates(keys[0], floor=0.0)

    left = store.shrink(2 * size, keep={keys[1]})

    assert {path.name.partition(".")[0] for path in tmp_path.glob("*/*")} == {keys[0], keys[1]}
    assert left == 2 * size


class CountingStore(FeatureStore):
    """Counts how often its files are listed, and in which threads."""

    def __init__(self, folder):
        super().__init__(folder)
        self.threads = []

    def shrink(self, budget_bytes, *, keep=()):
        self.threads.append(threading.current_thread())
        return super().shrink(budget_bytes, keep=keep)


def test_store_is_listed_again_only_after_a_tenth_of_its_budget_was_written(tmp_path):
    """100 videos of one size into a store that holds 20 of them: listed once, and then for every third or so."""
    store = CountingStore(tmp_path)
    stored = VideoCandidates(facts=FACTS, candidates=candidates(10), floor=0.0)
    store.write_candidates("f" * 64, stored)
    size = next(tmp_path.glob("*/*")).stat().st_size
    limit = StoreLimit(store, 20 * size)
    most = 0
    for number in range(100):
        key = f"{number:064d}"
        store.write_candidates(key, stored)
        limit.count([key], keep={key})
        limit._thread.join()
        most = max(most, len(list(tmp_path.glob("*/*"))))
    limit.close()

    assert most <= 21
    assert len(list(tmp_path.glob("*/*"))) <= 20
    assert len(store.threads) <= 1 + 100 // 2
    assert threading.current_thread() not in store.threads


def test_store_within_its_budget_is_listed_once(tmp_path):
    store = CountingStore(tmp_path)
    limit = StoreLimit(store, 1 << 40)
    for number in range(100):
        store.write_candidates(f"{number:064d}", VideoCandidates(facts=FACTS, candidates=candidates(1), floor=0.0))
        limit.count([f"{number:064d}"], keep=())
    limit.close()

    assert len(store.threads) == 1
    assert len(list(tmp_path.glob("*/*"))) == 100


def test_empty_store_has_nothing_to_remove(tmp_path):
    assert FeatureStore(tmp_path / "none").shrink(0) == 0


def clip(pixels, real_frames=2):
    return Clip(0, pixels, real_frames)


def still(value=100):
    return np.full((2, 20, 20, 3), value, np.uint8)


def test_first_clip_repeats_nothing():
    assert not is_repeat(clip(still()), None, 255)


def test_equal_clip_is_a_repeat_and_one_that_differs_in_one_value_is_not():
    changed = still()
    changed[1, 19, 19, 2] += 1

    assert is_repeat(clip(still()), clip(still()), 0)
    assert not is_repeat(clip(changed), clip(still()), 0)


def test_clip_with_another_number_of_real_frames_is_no_repeat():
    assert not is_repeat(clip(still(), 1), clip(still(), 2), 255)


def test_noise_averages_out_and_a_small_thing_that_moves_does_not():
    noise = np.random.default_rng(0).integers(-3, 4, (2, 20, 20, 3))
    noisy = (still().astype(int) + noise).astype(np.uint8)
    moved = still()
    moved[1, 8:16, 8:16] = 120

    assert is_repeat(clip(noisy), clip(still()), 3)
    assert not is_repeat(clip(moved), clip(still()), 19.9)
    assert is_repeat(clip(moved), clip(still()), 20)


def test_block_at_the_edge_counts_by_its_own_pixels():
    changed = still()
    changed[0, 16:, 16:] = 110  # 4 x 4 pixels of a block that is cut by the edge

    assert not is_repeat(clip(changed), clip(still()), 9.9)
    assert is_repeat(clip(changed), clip(still()), 10)
