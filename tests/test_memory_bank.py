"""Making, reading, writing and checking a memory."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tallformer_infer.config import preset
from tallformer_infer.errors import LongMemoryError
from tallformer_training.memory import Memory, MemoryBuilder, RunMemory, encoder_fingerprint, staleness
from tallformer_training.memory.bank import OUTSIDE

ENTRIES = {"a": 20, "b/с пробелом": 7, "c": 1}
CHANNELS = 3


def features(video: str, entries: dict[str, int] = ENTRIES) -> NDArray[np.float32]:
    """Features of a whole video, (C, steps), exact in float16."""
    seed = list(entries).index(video)
    return np.random.default_rng(seed).integers(-64, 64, (CHANNELS, entries[video])).astype(np.float32) / 8


def make(folder: Path, **options: Any) -> Memory:
    builder = MemoryBuilder(folder, ENTRIES, channels=CHANNELS, **options)
    for video in builder.missing():
        builder.write(video, features(video))
    return builder.finish()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunMemory]:
    """A run that begins from fresh features."""
    make(tmp_path / "base")
    with RunMemory.begin(tmp_path / "base", tmp_path / "run") as run:
        yield run


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_what_was_written_is_read(tmp_path: Path, dtype: str) -> None:
    make(tmp_path / "memory", dtype=dtype)

    memory = Memory.open(tmp_path / "memory")

    memory.verify()
    memory.require(ENTRIES, channels=CHANNELS)
    for video, steps in ENTRIES.items():
        np.testing.assert_array_equal(memory.read(video, [0], steps).features[0], features(video))


def test_a_stretch_beyond_both_ends_is_zero_outside(tmp_path: Path) -> None:
    memory = make(tmp_path / "memory")

    rows = memory.read("c", [-2, 0, 1, 50, -50], 4, step_number=9)

    value = features("c")[:, 0]
    np.testing.assert_array_equal(rows.features[0], np.stack([0 * value, 0 * value, value, 0 * value], axis=1))
    np.testing.assert_array_equal(rows.features[1][:, 0], value)
    assert not rows.features[2:].any()
    assert rows.ages_steps.tolist() == [
        [OUTSIDE, OUTSIDE, 10, OUTSIDE],
        [10, OUTSIDE, OUTSIDE, OUTSIDE],
        *[[OUTSIDE] * 4] * 3,
    ]


def test_reading_nothing_gives_nothing(tmp_path: Path) -> None:
    rows = make(tmp_path / "memory").read("a", [], 16)

    assert rows.features.shape == (0, CHANNELS, 16)
    assert staleness(rows.ages_steps).rows == 0


def test_a_video_reaches_up_to_its_neighbours_and_no_further(run: RunMemory) -> None:
    run.write("b/с пробелом", [-5, 3], np.full((2, CHANNELS, 9), 99.0), step_number=0)

    np.testing.assert_array_equal(run.memory.read("a", [0], 20).features[0], features("a"))
    np.testing.assert_array_equal(run.memory.read("c", [0], 1).features[0], features("c"))
    assert (run.memory.read("b/с пробелом", [0], 7).features == 99).all()


def test_ages_count_training_steps_since_each_row_was_written(run: RunMemory) -> None:
    run.write("a", [4], np.zeros((1, CHANNELS, 2)), step_number=0)
    run.write("a", [5], np.zeros((1, CHANNELS, 2)), step_number=7)

    ages = run.memory.read("a", [3, 18], 5, step_number=10).ages_steps

    assert ages.tolist() == [[11, 10, 3, 3, 11], [11, 11, OUTSIDE, OUTSIDE, OUTSIDE]]
    summary = staleness(ages)
    assert (summary.max_steps, summary.rows) == (11, 7)
    assert summary.mean_steps == pytest.approx((5 - 1 + 56) / 7)


def test_a_run_leaves_the_memory_it_began_from_as_it_is(run: RunMemory, tmp_path: Path) -> None:
    run.write("a", [0], np.zeros((1, CHANNELS, 20)), step_number=0)

    base = Memory.open(tmp_path / "base")
    base.verify()
    np.testing.assert_array_equal(base.read("a", [0], 20).features[0], features("a"))


def test_the_same_features_give_the_same_bytes(tmp_path: Path) -> None:
    first, second = make(tmp_path / "first"), make(tmp_path / "second")

    assert first.manifest.to_bytes() == second.manifest.to_bytes()
    assert sorted(path.name for path in first.folder.iterdir()) == ["manifest.json", "rows.bin", "written.bin"]


def test_making_goes_on_where_it_was_left(tmp_path: Path) -> None:
    first = MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS)
    first.write("a", features("a"))
    with (first.partial / "done-0.jsonl").open("ab") as journal:
        journal.write(b'\n{"video": "c", "sha')  # killed in the middle of a line

    second = MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS)
    missing = second.missing()
    for video in missing:
        second.write(video, features(video))

    assert missing == ["b/с пробелом", "c"]
    second.finish().verify()


def test_workers_make_a_memory_together(tmp_path: Path) -> None:
    workers = [MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS, worker=number) for number in (0, 1)]

    shares = [worker.missing(workers=2, worker=number) for number, worker in enumerate(workers)]
    for worker, share in zip(workers, shares, strict=True):
        for video in share:
            worker.write(video, features(video))

    assert shares == [["a", "c"], ["b/с пробелом"]]
    workers[0].finish().verify()


def test_a_memory_without_all_videos_cannot_be_finished(tmp_path: Path) -> None:
    builder = MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS)
    builder.write("a", features("a"))

    with pytest.raises(LongMemoryError, match="2 of 3 videos are not written yet, such as b/с пробелом"):
        builder.finish()
    assert not (tmp_path / "memory").exists()


def test_an_unfinished_memory_is_not_gone_on_with_for_something_else(tmp_path: Path) -> None:
    MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS)

    with pytest.raises(LongMemoryError, match="started for other videos, channels, number format or recipe"):
        MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS, dtype="float32")


def test_a_finished_memory_is_not_made_again_over(tmp_path: Path) -> None:
    make(tmp_path / "memory")

    with pytest.raises(LongMemoryError, match="exists already"):
        MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS)


@pytest.mark.parametrize("entries", [{}, {"a": 0}])
def test_a_memory_of_nothing_is_refused(tmp_path: Path, entries: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="at least one feature step"):
        MemoryBuilder(tmp_path / "memory", entries, channels=CHANNELS)


def test_features_of_another_shape_are_refused(run: RunMemory, tmp_path: Path) -> None:
    builder = MemoryBuilder(tmp_path / "memory", ENTRIES, channels=CHANNELS)
    with pytest.raises(ValueError, match=r"video a: expected features \(C, steps\) = \(3, 20\), got \(20, 3\)"):
        builder.write("a", features("a").T)

    with pytest.raises(ValueError, match=r"expected features \(N, C, steps\) = \(2, 3, any\), got \(1, 3, 16\)"):
        run.write("a", [0, 16], np.zeros((1, CHANNELS, 16)), step_number=0)


def test_features_that_are_not_finite_are_refused_and_leave_no_trace(run: RunMemory) -> None:
    too_large = np.full((1, CHANNELS, 20), 1e5)

    with pytest.raises(
        LongMemoryError, match="video a: features up to 1e\\+05 do not fit float16; use a float32 memory"
    ):
        run.write("a", [0], too_large, step_number=0)
    with pytest.raises(LongMemoryError, match="video a: features are not finite"):
        run.write("a", [0], too_large * np.nan, step_number=0)
    np.testing.assert_array_equal(run.memory.read("a", [0], 20).features[0], features("a"))


def test_changed_rows_are_found_and_named(tmp_path: Path) -> None:
    memory = make(tmp_path / "memory")
    with (memory.folder / "rows.bin").open("r+b") as file:
        file.seek(20 * CHANNELS * 2)
        file.write(b"\x01")

    with pytest.raises(LongMemoryError, match=r"damaged rows of 1 videos: b/с пробелом; build the memory again"):
        Memory.open(tmp_path / "memory").verify()
    with pytest.raises(LongMemoryError, match="damaged rows"):
        RunMemory.begin(tmp_path / "memory", tmp_path / "run")


def test_changed_ages_are_found(tmp_path: Path) -> None:
    memory = make(tmp_path / "memory")
    (memory.folder / "written.bin").write_bytes(b"\0" * 8 * 28)

    with pytest.raises(LongMemoryError, match=r"written\.bin: damaged"):
        memory.verify()


def test_a_file_of_the_wrong_size_is_refused(tmp_path: Path) -> None:
    memory = make(tmp_path / "memory")
    with (memory.folder / "rows.bin").open("ab") as file:
        file.write(b"x")

    with pytest.raises(LongMemoryError, match=r"rows\.bin: 169 bytes, expected 168"):
        Memory.open(memory.folder)


def test_what_is_no_memory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LongMemoryError, match="not a long memory"):
        Memory.open(tmp_path)
    (tmp_path / "manifest.json").write_text('{"channels": 3')
    with pytest.raises(LongMemoryError, match="not the manifest of a long memory"):
        Memory.open(tmp_path)


def test_a_memory_of_a_later_format_is_refused(tmp_path: Path) -> None:
    memory = make(tmp_path / "memory")
    path = memory.folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"format_version": 2, "news": True}))

    with pytest.raises(LongMemoryError, match="memory format 2, this version of tallformer reads 1"):
        Memory.open(memory.folder)


def test_a_data_set_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    memory = make(tmp_path / "memory")

    with pytest.raises(LongMemoryError, match="no video d among the 3"):
        memory.require({"a": 20, "d": 3}, channels=CHANNELS)
    with pytest.raises(LongMemoryError, match="20 feature steps of video a, the file has 21"):
        memory.require({"a": 21}, channels=CHANNELS)
    with pytest.raises(LongMemoryError, match="contains 3 channels, the encoder has 4"):
        memory.require({"a": 20}, channels=4)


def test_the_fingerprint_changes_with_what_decides_features_only() -> None:
    recipe = preset("thumos14-swin-t")
    backbone = recipe.model.backbone

    def with_backbone(**changes: Any) -> str:
        return encoder_fingerprint(replace(recipe, model=replace(recipe.model, backbone=replace(backbone, **changes))))

    same = encoder_fingerprint(recipe)
    assert with_backbone(drop_path=0.3, frozen_stages=1) == same
    assert encoder_fingerprint(replace(recipe, classes=("x",))) == same
    assert with_backbone(depths=(2, 2, 2, 2)) != same
    assert encoder_fingerprint(replace(recipe, sampling=replace(recipe.sampling, sample_fps=10))) != same
    assert encoder_fingerprint(recipe, weights_sha256="other") != same


def test_a_memory_of_another_encoder_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "memory", fingerprint="one")

    Memory.open(tmp_path / "memory", fingerprint="one")
    with pytest.raises(LongMemoryError, match="made with another encoder, frame rate, size or clip length"):
        Memory.open(tmp_path / "memory", fingerprint="other")
