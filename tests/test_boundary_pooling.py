"""Boundary max pooling: forward and gradient against a loop, and at the edges."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from tallformer_training.model.refined_head import boundary_edges, boundary_max_pool, range_max

pytestmark = pytest.mark.usefixtures("one_thread")

CASES = 1000


def by_loop(features: Tensor, ranges: Tensor) -> tuple[Tensor, Tensor]:
    """What is pooled, and how often each value was the (first) largest one."""
    batch, channels, steps = features.shape
    pooled = torch.zeros(batch, channels, ranges.shape[1])
    taken = torch.zeros_like(features)
    for window in range(batch):
        for channel in range(channels):
            side = 0 if channel < channels // 2 else 2
            for row, found in enumerate(ranges[window, :, side : side + 2].tolist()):
                first, last = (min(max(int(step), 0), steps - 1) for step in found)
                values = features[window, channel, first : max(last, first) + 1].tolist()
                place = first + values.index(max(values))
                pooled[window, channel, row] = features[window, channel, place]
                taken[window, channel, place] += row + 1
    return pooled, taken


def random_case(seed: int) -> tuple[Tensor, Tensor]:
    """Features, of every second case with many equal values, and ranges inside, across and outside of them."""
    draw = np.random.default_rng(seed)
    batch, channels = int(draw.integers(1, 3)), 2 * int(draw.integers(1, 3))
    steps, proposals = int(draw.integers(1, 40)), int(draw.integers(0, 8))
    features = draw.normal(size=(batch, channels, steps))
    if seed % 2:
        features = np.maximum(np.round(features), 0)
    ranges = draw.integers(-5, steps + 5, (batch, proposals, 4))
    return torch.from_numpy(features).float(), torch.from_numpy(ranges)


def test_a_thousand_random_cases_equal_a_loop_forward_and_backward() -> None:
    for seed in range(CASES):
        features, ranges = random_case(seed)
        features.requires_grad_()
        expected, taken = by_loop(features.detach(), ranges)

        pooled = boundary_max_pool(features, ranges)
        weights = torch.arange(1.0, ranges.shape[1] + 1)  # so that each proposal's gradient can be told from others
        torch.autograd.backward((pooled * weights).sum())

        assert torch.equal(pooled, expected), seed
        assert features.grad is not None
        assert torch.equal(features.grad, taken), seed


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 7, 8, 9, 768])
def test_every_length_of_a_range_is_covered(steps: int) -> None:
    features = torch.randn(1, 1, steps, generator=torch.Generator().manual_seed(0))
    last = torch.arange(steps)[None]

    pooled = range_max(features, torch.zeros_like(last), last)

    assert torch.equal(pooled[0], features[0].cummax(dim=1).values)


def test_of_a_range_that_ends_before_it_begins_the_first_step_is_taken() -> None:
    features = torch.tensor([[[1.0, 5.0, 2.0, 9.0]]])

    pooled = range_max(features, torch.tensor([[2, 9]]), torch.tensor([[1, -3]]))

    assert pooled.tolist() == [[[2.0, 9.0]]]


def test_regions_are_a_tenth_outwards_and_a_quarter_inwards() -> None:
    ranges = boundary_edges(torch.tensor([[100.0]]), torch.tensor([[140.0]]), is_closed=False)

    assert ranges.tolist() == [[[96, 110, 130, 144]]]


def test_regions_reach_one_step_at_least_and_halves_round_to_even() -> None:
    ranges = boundary_edges(torch.tensor([[1.5, 2.5]]), torch.tensor([[1.5, 2.5]]), is_closed=False)

    assert ranges.round().tolist() == [[[0, 2, 0, 2], [2, 4, 2, 4]]]


def test_a_closed_proposal_is_one_step_longer() -> None:
    ranges = boundary_edges(torch.tensor([[0.0]]), torch.tensor([[39.0]]), is_closed=True)

    assert ranges.tolist() == [[[-4, 10, 29, 43]]]
