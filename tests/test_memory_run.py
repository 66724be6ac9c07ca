"""A run's memory: snapshots, and coming back after any kind of end."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tallformer_infer.errors import LongMemoryError
from tallformer_infer.files import TEMPORARY
from tallformer_training.memory import Memory, MemoryBuilder, RunMemory
from tests import memory_worker
from tests.memory_worker import CHANNELS, CHECKPOINT_FILE, ENTRIES, STEPS_PER_CHECKPOINT, STRETCH, stretches

SMALL = {"a": 40, "b": 9}


def make(folder: Path, entries: dict[str, int], channels: int) -> Memory:
    builder = MemoryBuilder(folder, entries, channels=channels, dtype="float32")
    for number, (video, steps) in enumerate(entries.items()):
        builder.write(video, np.full((channels, steps), number, np.float32))
    return builder.finish()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[RunMemory]:
    """A run that begins from 0 in video a and 1 in video b."""
    make(tmp_path / "base", SMALL, 2)
    with RunMemory.begin(tmp_path / "base", tmp_path / "run") as run:
        yield run


def write(run: RunMemory, value: float, *, step_number: int) -> None:
    run.write("a", [4], np.full((1, 2, 8), value), step_number=step_number)


def first_channel(memory: Memory) -> list[float]:
    values: list[float] = memory.read("a", [3], 10).features[0, 0].tolist()
    return values


def test_a_snapshot_keeps_rows_and_ages_while_the_run_goes_on(run: RunMemory) -> None:
    write(run, 5, step_number=0)

    name = run.snapshot(1)
    write(run, 6, step_number=1)

    kept = Memory.open(run.folder / name)
    kept.verify()
    assert first_channel(kept) == [0, *[5] * 8, 0]
    assert first_channel(run.memory) == [0, *[6] * 8, 0]
    assert kept.read("a", [3], 2, step_number=1).ages_steps.tolist() == [[2, 1]]


def test_a_resumed_run_has_the_rows_and_ages_of_its_snapshot(run: RunMemory) -> None:
    write(run, 5, step_number=0)
    name = run.snapshot(1)
    write(run, 6, step_number=1)
    run.close()

    with RunMemory.resume(run.folder, name) as resumed:
        assert first_channel(resumed.memory) == [0, *[5] * 8, 0]
        assert resumed.memory.read("a", [3], 2, step_number=1).ages_steps.tolist() == [[2, 1]]


def test_snapshots_after_the_first_hash_what_changed_since(run: RunMemory) -> None:
    write(run, 5, step_number=0)
    run.snapshot(1)
    run.write("b", [0], np.full((1, 2, 3), 7), step_number=1)
    name = run.snapshot(2)
    run.close()

    Memory.open(run.folder / name).verify()
    with RunMemory.resume(run.folder, name) as resumed:
        write(resumed, 8, step_number=2)
        Memory.open(run.folder / resumed.snapshot(3)).verify()


def test_equal_memories_at_equal_steps_share_a_snapshot(run: RunMemory) -> None:
    first, again, later = run.snapshot(3), run.snapshot(3), run.snapshot(4)

    assert first == again != later
    assert run.snapshots() == [first, later]


def test_pruning_leaves_what_checkpoints_hold(run: RunMemory) -> None:
    names = [run.snapshot(step) for step in (1, 2, 3)]

    run.prune([names[1]])

    assert run.snapshots() == [names[1]]
    assert sorted(path.name for path in run.folder.iterdir()) == ["lock", names[1], "working"]


def test_other_readers_of_the_run_see_what_is_written(run: RunMemory) -> None:
    reader = RunMemory.attach(run.folder)

    write(run, 5, step_number=0)

    assert first_channel(reader) == [0, *[5] * 8, 0]
    with pytest.raises(ValueError, match="read-only"):
        reader.rows[0] = 1


def test_a_run_that_nobody_began_cannot_be_attached_to(tmp_path: Path) -> None:
    with pytest.raises(LongMemoryError, match="not a long memory"):
        RunMemory.attach(tmp_path)


def test_a_missing_snapshot_is_refused(run: RunMemory) -> None:
    with pytest.raises(LongMemoryError, match="step-000000009-0: not a long memory"):
        RunMemory.resume(run.folder, "step-000000009-0")


def test_a_damaged_snapshot_is_refused(run: RunMemory) -> None:
    name = run.snapshot(1)
    run.close()
    with (run.folder / name / "rows.bin").open("r+b") as file:
        file.write(b"\x01")

    with pytest.raises(LongMemoryError, match=r"damaged rows of 1 videos: a; .* resume from another checkpoint"):
        RunMemory.resume(run.folder, name)


def test_a_snapshot_with_another_manifest_is_refused(run: RunMemory) -> None:
    name, other = run.snapshot(1), run.snapshot(2)
    run.close()
    (run.folder / other / "manifest.json").replace(run.folder / name / "manifest.json")

    with pytest.raises(LongMemoryError, match="not written by this run"):
        RunMemory.resume(run.folder, name)


def test_a_run_in_use_by_another_process_is_refused(tmp_path: Path) -> None:
    make(tmp_path / "base", ENTRIES, CHANNELS)
    with start_worker("train", tmp_path, 10**6) as worker:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "0\n"
        with pytest.raises(LongMemoryError, match="another process trains with this memory"):
            RunMemory.begin(tmp_path / "base", tmp_path / "memory")
        worker.kill()

    RunMemory.begin(tmp_path / "base", tmp_path / "memory").close()


def test_a_run_killed_at_any_moment_ends_like_one_that_was_not(tmp_path: Path) -> None:
    """Real processes, really killed; half of them in the middle of a snapshot."""
    make(tmp_path / "base", ENTRIES, CHANNELS)
    chance = random.Random(0)
    steps, unfinished, ahead = 0, 0, 0
    for attempt in range(10):
        kill_worker(tmp_path, in_snapshot=attempt % 2 == 0, chance=chance)
        unfinished += any((tmp_path / "memory").glob(f"{TEMPORARY}*"))
        if (tmp_path / CHECKPOINT_FILE).exists():
            saved = json.loads((tmp_path / CHECKPOINT_FILE).read_text())
            snapshot = Memory.open(tmp_path / "memory" / saved["memory"])
            snapshot.verify()
            rows, written = replay(saved["step"])
            np.testing.assert_array_equal(snapshot.rows, rows)
            np.testing.assert_array_equal(snapshot.written, written)
            ahead += not np.array_equal(working_rows(tmp_path), rows)
            assert saved["step"] >= steps
            steps = saved["step"]

    # The kills did hit what they were meant to hit.
    assert unfinished
    assert ahead
    assert steps
    end = steps + STEPS_PER_CHECKPOINT
    with start_worker("train", tmp_path, end) as worker:
        worker.communicate(timeout=60)
    assert worker.returncode == 0
    np.testing.assert_array_equal(working_rows(tmp_path), replay(end)[0])
    assert not list((tmp_path / "memory").glob(f"{TEMPORARY}*"))


def test_making_a_memory_killed_at_any_moment_ends_like_one_that_was_not(tmp_path: Path) -> None:
    videos, done = 60, 0
    chance = random.Random(1)
    for _ in range(4):
        with start_worker("make", tmp_path, videos) as worker:
            assert worker.stdout is not None
            for _ in range(chance.randint(2, 12)):
                assert worker.stdout.readline() == f"v{done}\n"
                done += 1
            worker.kill()
            done += len(worker.stdout.readlines())
        assert not (tmp_path / "made").exists()
        # A video may be done and not yet said so.
        done = videos - len(MemoryBuilder(tmp_path / "made", make_entries(videos), channels=CHANNELS).missing())

    with start_worker("make", tmp_path, videos) as worker:
        said, _ = worker.communicate(timeout=60)

    assert said.split() == [f"v{number}" for number in range(done, videos)]
    memory = Memory.open(tmp_path / "made")
    memory.verify()
    assert memory.rows[:, 0].tolist() == [number for number in range(videos) for _ in range(500)]


def make_entries(videos: int) -> dict[str, int]:
    return {f"v{number}": 500 for number in range(videos)}


def kill_worker(folder: Path, *, in_snapshot: bool, chance: random.Random) -> None:
    """Start a worker, and kill it at a random moment or while it makes a snapshot."""
    with start_worker("train", folder, 10**6) as worker:
        assert worker.stdout is not None
        for _ in range(chance.randint(1, 2 * STEPS_PER_CHECKPOINT)):
            assert worker.stdout.readline(), "the worker ended by itself"
        deadline = time.monotonic() + 30
        while in_snapshot and not any((folder / "memory").glob(f"{TEMPORARY}*")):
            assert time.monotonic() < deadline, "the worker makes no snapshots"
        worker.kill()


def start_worker(task: str, folder: Path, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, memory_worker.__file__, task, str(folder), str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def working_rows(folder: Path) -> NDArray[np.float32]:
    return np.fromfile(folder / "memory" / "working" / "rows.bin", "<f4").reshape(-1, CHANNELS)


def replay(steps: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Rows and when they were written after `steps` uninterrupted steps, by plain arrays."""
    rows = {
        name: np.full((length, CHANNELS), number, np.float32) for number, (name, length) in enumerate(ENTRIES.items())
    }
    written = {name: np.full(length, -1) for name, length in ENTRIES.items()}
    for step in range(steps):
        for video, length in ENTRIES.items():
            before = rows[video].copy()
            for first, features in zip(*stretches(step, video), strict=True):
                places = np.arange(first, first + STRETCH)
                inside = (places >= 0) & (places < length)
                rows[video][places[inside]] = features.T[inside] + before[places[inside]] / 2
                written[video][places[inside]] = step
    return np.concatenate(list(rows.values())), np.concatenate(list(written.values()))
