"""Boundary max pooling: what is strongest around the start, and around the end, of each proposal.

# Note [range maximum by a table]
Row k of the table holds the place of the largest of the 2^k steps from each step on. The largest of any range is then
the larger of two entries whose stretches cover it, so a range of any length takes two look-ups, whatever the number of
proposals; all shapes are known ahead, and nothing is compiled. The table holds places, not values: the values are then
gathered once, which gives each maximum's gradient to the step it came from (the first of equals), and no other. The
official operator does the same, but for features that are longer than there are proposals its gradient goes to the
wrong steps and channels (`reference/tallformer.md`, 9.2): a fault, and not copied.

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
    half = features.shape[1] // 2
    starts = range_max(features[:, :half], ranges[..., 0], ranges[..., 1])
    ends = range_max(features[:, half:], ranges[..., 2], ranges[..., 3])
    return torch.cat([starts, ends], dim=1)


def range_max(features: Tensor, first: Tensor, last: Tensor) -> Tensor:
    """The largest value of each channel in each range, see Note [range maximum by a table].

    Args:
        features: Shape (B, C, T).
        first: First step of each range, shape (B, A), any real or whole numbers, cut to whole ones.
        last: Last step (inclusive), shape (B, A).

    Returns:
        Shape (B, C, A).
    """
    channels, steps = features.shape[1:]
    low = first.long().clamp(0, steps - 1)
    high = torch.maximum(last.long().clamp(0, steps - 1), low)
    length = high - low + 1
    levels = steps.bit_length()
    row = torch.zeros_like(length)  # largest k with 2^k <= length
    power = torch.ones_like(length)  # 2^row
    for level in range(1, levels):
        fits = (length >= 2**level).long()
        row = row + fits
        power = power + fits * 2 ** (level - 1)
    table = _largest_places(features.detach(), levels).flatten(2)  # (B, C, levels * T)
    left, right = (
        torch.gather(table, 2, (row * steps + place)[:, None].expand(-1, channels, -1))
        for place in (low, high - power + 1)
    )
    values = features.detach()
    is_left = torch.gather(values, 2, left) >= torch.gather(values, 2, right)
    return torch.gather(features, 2, torch.where(is_left, left, right))


def boundary_ranges(starts: Tensor, ends: Tensor, *, is_closed: bool) -> Tensor:
    """The regions around the boundaries of proposals.

    Args:
        starts: Shape (B, A), in steps.
        ends: Shape (B, A), in steps.
        is_closed: Whether the step of the end belongs to the proposal, so that its length is `end - start + 1`.

    Returns:
        Ranges for `boundary_max_pool`, rounded half to even, shape (B, A, 4), int64.
    """
    length = ends - starts + 1 if is_closed else ends - starts
    outwards, inwards = (length / _START_PART).clamp(min=1), (length / _END_PART).clamp(min=1)
    edges = [starts - outwards, starts + inwards, ends - inwards, ends + outwards]
    return torch.stack(edges, dim=-1).round().long()


def _largest_places(values: Tensor, levels: int) -> Tensor:
    """Place of the largest of the 2^k values from each step on, the first of equals, shape (B, C, levels, T), int64.

    Stretches that reach beyond the end are of no use, and hold some place.
    """
    batch, channels, steps = values.shape
    places = torch.arange(steps, device=values.device).expand(batch, channels, -1)
    rows = [places]
    largest = values
    for level in range(1, levels):
        reach = 2 ** (level - 1)
        later, later_places = (_from_step(x, reach) for x in (largest, places))
        is_first = largest >= later
        largest, places = torch.where(is_first, largest, later), torch.where(is_first, places, later_places)
        rows.append(places)
    return torch.stack(rows, dim=2)


def _from_step(x: Tensor, step: int) -> Tensor:
    """(…, T) from `step` on, filled up with its own end."""
    return torch.cat([x[..., step:], x[..., x.shape[-1] - step :]], dim=-1)
