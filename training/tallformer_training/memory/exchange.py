"""What all processes encoded, to the memory of each machine; see Note [several processes, one memory]."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch import distributed as dist

from tallformer_training.memory.run import RunMemory
from tallformer_training.memory.windows import Window


def write_back(
    run: RunMemory | None,
    windows: Sequence[Window],
    encoded: Tensor,
    *,
    videos: Sequence[str],
    step_number: int,
) -> None:
    """Write the encoded clips of all processes, right after the forward pass.

    Every process of the group calls it once per step, also one that encoded nothing. Clips are written in the order of
    ranks, so that the last rank wins where two clips cover a row.

    Args:
        run: The machine's memory on the process that writes it, None on all others.
        windows: This process's batch.
        encoded: Its encoded clips, those of the first window first, shape (N, C, clip_steps).
        videos: Names of all videos of the memory, in an order that is the same everywhere.
        step_number: The training step now, from 0.
    """
    numbers = {name: number for number, name in enumerate(videos)}
    clip_steps = encoded.shape[2]
    places = [
        (numbers[window.video], window.first_step + clip * clip_steps)
        for window in windows
        for clip in window.encoded_clips
    ]
    if len(places) != len(encoded):
        raise ValueError(f"expected {len(places)} encoded clips for these windows, got {encoded.shape = }")
    where = torch.tensor(places, dtype=torch.int64, device=encoded.device).reshape(-1, 2)  # (N, 2)
    where, features = gather_rows(where), gather_rows(encoded.detach().float())
    if run is None:
        return
    for (number, first_step), stretch in zip(where.tolist(), features.cpu().numpy(), strict=True):
        run.write(videos[number], [first_step], stretch[None], step_number=step_number)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in the order of ranks, on every rank; ranks may have different numbers of rows, also none."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    longest = int(max(counts))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(number)] for part, number in zip(parts, counts, strict=True)])
