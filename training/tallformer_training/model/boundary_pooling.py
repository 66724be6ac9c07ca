"""Boundary max pooling: what is strongest around the start, and around the end, of each proposal.

# Note [range maximum by a table]
Row k of the table holds the largest of the 2^k steps from each step on. The largest of any range is then the larger of
two entries whose stretches cover it, so a range of any length takes two look-ups, whatever the number of proposals; all
shapes are known ahead, and nothing is compiled. Of equal values the first is always taken, so each maximum's gradient
goes to one step, the first that has it. The official operator does the same, but for features that are longer than
there are proposals its gradient goes to the wrong steps and channels: a fault, and not copied.

Source: boundary pooling of AFSD (Lin et al., CVPR 2021); range maximum by powers of two after Bender and
Farach-Colton (LATIN 2000).
"""

from __future__ import annotations

import torch
from torch import Tensor

_START_PART, _END_PART = 10, 4
"""A boundary region reaches a tenth of the proposal's length outwards and a quarter inwards, at least one step each."""


def boundary_max_pool(features: Tensor, ranges: Tensor) -> Tensor:
    """Pool the first half of the channels around each start, the second half around each end.

    Args:
        features: Shape (B, C, T).
        ranges: First and last step (inclusive) around the start, then around the end, whole numbers, shape (B, A, 4).
            Steps outside [0, T) count as the nearest inside; of a range that ends before it begins only the first step
            is taken.

    Returns:
        Shape (B, C, A).
    """
    batch, channels, steps = features.shape
    proposals = ranges.shape[1]
    halves = features.reshape(2 * batch, channels // 2, steps)
    sides = ranges.reshape(batch, proposals, 2, 2).transpose(1, 2).reshape(2 * batch, proposals, 2)
    return range_max(halves, sides[..., 0], sides[..., 1]).reshape(batch, channels, proposals)


def range_max(features: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The largest value of each channel in each range, see Note [range maximum by a table].

    Args:
        features: Shape (B, C, T).
        first: First step of each range, int64, shape (B, A).
        last: Last step (inclusive), int64, shape (B, A).

    Returns:
        Shape (B, C, A).
    """
    channels, steps = features.shape[1:]
    low = first.clamp(0, steps - 1)
    high = torch.maximum(last.clamp(0, steps - 1), low)
    length = (high - low).flatten()
    row_start, power = (
        table.index_select(0, length).reshape(low.shape) for table in _rows_by_length(steps, features.device)
    )
    table = torch.cat(_table(features), dim=-1)  # (B, C, all rows)
    left, right = (
        table.gather(2, place[:, None].expand(-1, channels, -1))
        for place in (row_start + low, row_start + high + 1 - power)
    )
    return torch.where(left >= right, left, right)


def boundary_edges(starts: Tensor, ends: Tensor, *, is_closed: bool) -> Tensor:
    """The regions around the boundaries of proposals; rounded half to even they are ranges for `boundary_max_pool`.

    Args:
        starts: Shape (B, A), in steps.
        ends: Shape (B, A), in steps.
        is_closed: Whether the step of the end belongs to the proposal, so that its length is `end - start + 1`.

    Returns:
        First and last step around the start, then around the end, not rounded, shape (B, A, 4).
    """
    length = ends - starts + 1 if is_closed else ends - starts
    outwards, inwards = (length / _START_PART).clamp(min=1), (length / _END_PART).clamp(min=1)
    edges = [starts - outwards, starts + inwards, ends - inwards, ends + outwards]
    return torch.stack(edges, dim=-1)


def _table(features: Tensor) -> list[Tensor]:
    """Rows of the table: the largest of the 2^k steps from each step on, as far as there are so many."""
    rows = [features]
    for power in _powers(features.shape[-1])[:-1]:
        here, later = rows[-1][..., :-power], rows[-1][..., power:]
        rows.append(torch.where(here >= later, here, later))
    return rows


def _powers(steps: int) -> list[int]:
    """Lengths of the stretches of each row: 1, 2, 4, … up to `steps`."""
    return [2**row for row in range(steps.bit_length())]


def _rows_by_length(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For ranges of 1, 2, … steps: where the row to look into starts in the table, and the length of its stretches."""
    starts = [0]
    for power in _powers(steps):
        starts.append(starts[-1] + steps - power + 1)
    rows = [length.bit_length() - 1 for length in range(1, steps + 1)]
    return (
        torch.tensor([starts[row] for row in rows], device=device),
        torch.tensor([2**row for row in rows], device=device),
    )
