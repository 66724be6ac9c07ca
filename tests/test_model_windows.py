"""Attention windows: cutting, shifting, masks and relative positions."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from tallformer_training.model.attention import BiasedAttention
from tallformer_training.model.windows import cut_windows, fit_window, join_windows, roll, shift_mask, window_index
from tests.small_detector import numbers


@pytest.mark.parametrize("window", [(2, 2, 2), (4, 1, 2), (4, 6, 4)])
def test_joining_undoes_cutting(window: tuple[int, int, int]) -> None:
    x = numbers(3, 4, 6, 4, 5)

    windows = cut_windows(x, window)

    assert windows.shape == (3 * 4 * 6 * 4 // (window[0] * window[1] * window[2]), window[0] * window[1] * window[2], 5)
    assert_close(join_windows(windows, window, (4, 6, 4)), x, rtol=0, atol=0)


def test_rolling_back_undoes_rolling() -> None:
    x = numbers(1, 4, 6, 4, 2)

    rolled = roll(x, (1, 0, 2))

    assert_close(rolled[:, 0, :, 0], x[:, 1, :, 2])
    assert_close(roll(rolled, (1, 0, 2), back=True), x, rtol=0, atol=0)


def test_an_axis_as_long_as_the_window_is_not_shifted() -> None:
    assert fit_window((16, 7, 4), (8, 7, 7)) == ((8, 7, 4), (4, 0, 0))
    assert fit_window((9, 8, 56), (8, 7, 7)) == ((8, 7, 7), (4, 3, 3))


@pytest.mark.parametrize(
    ("size", "masked"), [((16, 56, 56), 0.3390), ((16, 28, 28), 0.4224), ((16, 14, 14), 0.5724), ((16, 7, 7), 0.25)]
)
def test_the_masked_part_is_the_specified_one(size: tuple[int, int, int], masked: float) -> None:
    window, shift = fit_window(size, (8, 7, 7))

    mask = shift_mask(size, window, shift)

    assert set(mask.unique().tolist()) == {0.0, -100.0}
    assert (mask != 0).float().mean().item() == pytest.approx(masked, abs=5e-5)


def test_the_mask_separates_what_a_shift_of_one_axis_brought_together() -> None:
    mask = shift_mask((4, 1, 1), (2, 1, 1), (1, 0, 0))

    assert mask.tolist() == [[[0, 0], [0, 0]], [[0, -100], [-100, 0]]]


def test_padded_tokens_are_not_masked_from_their_neighbours() -> None:
    # Three positions in windows of two: the fourth is padding, in the same region as the first after the shift.
    assert shift_mask((3, 1, 1), (2, 1, 1), (1, 0, 0)).tolist() == shift_mask((4, 1, 1), (2, 1, 1), (1, 0, 0)).tolist()


def test_the_window_index_counts_relative_positions() -> None:
    index = window_index((8, 7, 7))

    assert index.shape == (392, 392)
    assert index[0, 0] == index[200, 200] == 7 * 169 + 6 * 13 + 6
    assert index[49, 0] == 8 * 169 + 6 * 13 + 6  # one step later
    assert index[0, 7] == 7 * 169 + 5 * 13 + 6  # one row higher
    assert (index.min(), index.max()) == (0, 2534)


def test_the_bias_of_a_window_shrunk_in_space_is_the_slice_of_the_full_index() -> None:
    # Stage 4 at 112 px: window (8, 4, 4). Its token 16 is one step later than token 0, but the slice takes it for
    # two rows and two columns away, as the official code does.
    attention = BiasedAttention(4, 2, window_index((8, 7, 7)))

    bias = attention.bias(128)

    table = attention.relative_position_bias_table
    assert_close(bias[:, 16, 0], table[7 * 169 + 8 * 13 + 8])
    assert not torch.equal(bias[:, 16, 0], table[8 * 169 + 6 * 13 + 6])


def test_the_bias_of_a_window_shrunk_in_time_is_geometrically_right() -> None:
    full, short = window_index((8, 7, 7))[:196, :196], window_index((4, 7, 7))

    assert torch.equal(full - full[0, 0], short - short[0, 0])


def test_attention_of_windows_uses_the_mask_of_its_own_window() -> None:
    attention = BiasedAttention(4, 2, window_index((1, 1, 2)))
    tokens = numbers(6, 2, 4)
    apart = torch.tensor([[[0.0, 0], [0, 0]], [[0, -1e9], [-1e9, 0]]])  # the second window's tokens see only themselves

    out = attention(tokens, apart)

    assert_close(out[0::2], attention(tokens[0::2]))
    alone = attention(tokens[1::2].reshape(6, 1, 4)).reshape(3, 2, 4)
    assert_close(out[1::2], alone)
