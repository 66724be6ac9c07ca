"""Windows from encoded and remembered clips, and writing back from several processes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, multiprocessing
from torch import distributed as dist

from tallformer_training.memory import Memory, MemoryBuilder, RunMemory, staleness
from tallformer_training.memory.bank import Window, join_windows, read_windows
from tallformer_training.memory.run import gather_rows, write_back

CLIPS, CLIP_STEPS, CHANNELS = 5, 4, 3
ENTRIES = {"a": 40, "b": 22}


def make(folder: Path) -> Memory:
    """Feature step t of video a is t, and of video b 100 + t, in every channel."""
    builder = MemoryBuilder(folder, ENTRIES, channels=CHANNELS)
    builder.write("a", np.tile(np.arange(40.0), (CHANNELS, 1)))
    builder.write("b", np.tile(np.arange(22.0) + 100, (CHANNELS, 1)))
    return builder.finish()


def window(video: str, first_step: int, *encoded_clips: int) -> Window:
    return Window(video=video, first_step=first_step, encoded_clips=encoded_clips)


def join(memory: Memory, windows: list[Window], encoded: Tensor) -> Tensor:
    remembered, _ = read_windows(memory, windows, clips=CLIPS, clip_steps=CLIP_STEPS, step_number=0)
    return join_windows(remembered, encoded, windows)


def test_encoded_and_remembered_clips_lie_where_they_belong(tmp_path: Path) -> None:
    encoded = -torch.arange(1, 4.0)[:, None, None].expand(3, CHANNELS, CLIP_STEPS)

    joined = join(make(tmp_path / "m"), [window("a", 7, 1), window("b", 8, 0, 4)], encoded)

    first = [*range(7, 11), *[-1] * 4, *range(15, 27)]
    second = [*[-2] * 4, *range(112, 122), 0, 0, *[-3] * 4]
    assert joined.shape == (2, CHANNELS, 20)
    for channel in range(CHANNELS):
        assert joined[:, channel].tolist() == [first, second]


def test_windows_without_encoded_clips_come_from_memory_alone(tmp_path: Path) -> None:
    joined = join(make(tmp_path / "m"), [window("a", 0)], torch.zeros(0, CHANNELS, CLIP_STEPS))

    assert joined[0, 0].tolist() == list(range(20))


def test_wholly_encoded_windows_take_nothing_from_memory(tmp_path: Path) -> None:
    encoded = torch.randn(CLIPS, CHANNELS, CLIP_STEPS, generator=torch.Generator().manual_seed(0))

    joined = join(make(tmp_path / "m"), [window("a", 0, *range(CLIPS))], encoded)

    assert torch.equal(joined[0], encoded.transpose(0, 1).flatten(1))


def test_gradients_reach_encoded_clips_and_no_others(tmp_path: Path) -> None:
    encoded = torch.ones(1, CHANNELS, CLIP_STEPS, requires_grad=True)
    weights = torch.arange(20.0)

    (join(make(tmp_path / "m"), [window("a", 0, 2)], encoded) * weights).sum().backward()

    assert encoded.grad is not None
    assert torch.equal(encoded.grad[0], weights[8:12].expand(CHANNELS, -1))


def test_clips_and_windows_must_fit_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected 2 encoded clips for these windows"):
        join(make(tmp_path / "m"), [window("a", 0, 1, 2)], torch.zeros(1, CHANNELS, CLIP_STEPS))


def test_only_what_was_read_counts_for_staleness(tmp_path: Path) -> None:
    make(tmp_path / "m")
    with RunMemory.begin(tmp_path / "m", tmp_path / "run") as run:
        write_back(run, [window("b", 0, 1)], torch.zeros(1, CHANNELS, CLIP_STEPS), videos=list(ENTRIES), step_number=5)

        _, ages = read_windows(run.memory, [window("b", 4, 3)], clips=CLIPS, clip_steps=CLIP_STEPS, step_number=8)

    # Steps 4-15 are read, 16-19 encoded, 20-21 read, 22-23 lie past the end; 4-7 were written at step 5.
    summary = staleness(ages)
    assert (summary.rows, summary.max_steps) == (14, 9)
    assert summary.mean_steps == pytest.approx((4 * 3 + 10 * 9) / 14)


def test_written_clips_are_read_back_also_at_an_odd_shift_and_over_both_ends(tmp_path: Path) -> None:
    make(tmp_path / "m")
    windows = [window("a", -3, 0, 2), window("b", 5, 4)]
    encoded = torch.arange(3.0)[:, None, None].expand(3, CHANNELS, CLIP_STEPS) + 1000

    with RunMemory.begin(tmp_path / "m", tmp_path / "run") as run:
        write_back(run, windows, encoded, videos=list(ENTRIES), step_number=0)
        first = run.memory.read("a", [0], 10).features[0, 0].tolist()
        second = run.memory.read("b", [20], 2).features[0, 0].tolist()

    assert first == [1000, 1, 2, 3, 4, *[1001] * 4, 9]
    assert second == [120, 1002]


def test_without_a_process_group_nothing_is_gathered() -> None:
    rows = torch.rand(3, 2)

    assert gather_rows(rows) is rows


def test_two_processes_write_what_one_would(tmp_path: Path) -> None:
    make(tmp_path / "m")
    with RunMemory.begin(tmp_path / "m", tmp_path / "alone") as alone:
        for step in range(3):
            windows, encoded = zip(*(work(rank, step) for rank in range(2)), strict=True)
            write_back(alone, [*windows[0], *windows[1]], torch.cat(encoded), videos=list(ENTRIES), step_number=step)
        rows, written = np.array(alone.memory.rows), np.array(alone.memory.written)

    multiprocessing.spawn(train_rank, (tmp_path,), nprocs=2)

    together = RunMemory.attach(tmp_path / "together")
    np.testing.assert_array_equal(together.rows, rows)
    np.testing.assert_array_equal(together.written, written)


def work(rank: int, step: int) -> tuple[list[Window], Tensor]:
    """Windows and encoded clips of one rank; both ranks write to the same rows, and one has nothing in step 1."""
    windows = [window("a", 3 + rank, 1, 3), window("b", 2 * step)] if (rank, step) != (0, 1) else [window("a", 0)]
    clips = sum(len(each.encoded_clips) for each in windows)
    values = torch.arange(float(clips * CHANNELS * CLIP_STEPS)) + 100 * step + 1000 * rank
    return windows, values.reshape(clips, CHANNELS, CLIP_STEPS)


def train_rank(rank: int, folder: Path) -> None:
    """One of two processes."""
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meet'}", rank=rank, world_size=2)
    run = RunMemory.begin(folder / "m", folder / "together") if rank == 0 else None
    dist.barrier()
    memory = run.memory if run else RunMemory.attach(folder / "together")
    for step in range(3):
        windows, encoded = work(rank, step)
        write_back(run, windows, encoded, videos=list(ENTRIES), step_number=step)
        dist.barrier()  # in training the exchange of gradients
        assert int(memory.written.max()) == step
        dist.barrier()
    dist.destroy_process_group()
