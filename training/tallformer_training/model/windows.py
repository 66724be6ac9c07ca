"""Cut a feature map into attention windows and shift them, with the position and mask tables this needs.

Source: Video Swin transformer (arXiv 2106.13230), section 3.
"""

from __future__ import annotations

import torch
from torch import Tensor

Size = tuple[int, int, int]
"""Time, height and width, in positions of a feature map."""


def fit_window(size: Size, window: Size) -> tuple[Size, Size]:
    """Fit the window to a feature map; returns it with the shift of odd blocks.

    An axis no longer than the window gets a window of its own length and no shift.

    Returns:
        Window and shift, per axis.
    """
    fitted = [min(length, wanted) for length, wanted in zip(size, window, strict=True)]
    shift = [0 if length <= wanted else wanted // 2 for length, wanted in zip(size, window, strict=True)]
    return (fitted[0], fitted[1], fitted[2]), (shift[0], shift[1], shift[2])


def append_zeros(x: Tensor, count: int, *, dim: int) -> Tensor:
    """Append zeros at the end of a dimension.

    Not F.pad: TensorRT has refused Pad nodes in this model (pytorch/vision issue 9142).
    """
    if not count:
        return x
    shape = [*x.shape[:dim], count, *x.shape[dim + 1 :]]
    return torch.cat([x, x.new_zeros(shape)], dim=dim)


def pad_to_windows(x: Tensor, window: Size) -> Tensor:
    """Pad (N, D, H, W, C) with zeros at the end of each axis to whole windows."""
    for axis, step in enumerate(window, start=1):
        x = append_zeros(x, -x.shape[axis] % step, dim=axis)
    return x


def roll(x: Tensor, shift: Size, *, back: bool = False) -> Tensor:
    """Shift (N, D, H, W, C) cyclically towards the start by `shift` positions, or back."""
    dims = [axis + 1 for axis in range(3) if shift[axis]]
    if not dims:
        return x
    sign = 1 if back else -1
    return torch.roll(x, [sign * shift[dim - 1] for dim in dims], dims)


def cut_windows(x: Tensor, window: Size) -> Tensor:
    """Cut (N, D, H, W, C) into windows, shape (N * windows, tokens, C), both in order time, height, width."""
    depth, height, width, channels = x.shape[1:]
    wd, wh, ww = window
    x = x.reshape(-1, depth // wd, wd, height // wh, wh, width // ww, ww, channels)
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).reshape(-1, wd * wh * ww, channels)


def join_windows(windows: Tensor, window: Size, size: Size) -> Tensor:
    """Undo `cut_windows` for a map of `size`: shape (N, D, H, W, C)."""
    depth, height, width = size
    wd, wh, ww = window
    channels = windows.shape[-1]
    x = windows.reshape(-1, depth // wd, height // wh, width // ww, wd, wh, ww, channels)
    return x.permute(0, 1, 4, 2, 5, 3, 6, 7).reshape(-1, depth, height, width, channels)


def window_index(window: Size) -> Tensor:
    """Row of the bias table for every pair of tokens of a window, shape (tokens, tokens), int64.

    For a difference (query minus key) of (d, h, w) the row is
    `((d + D - 1) * (2H - 1) + h + H - 1) * (2W - 1) + w + W - 1`.
    """
    axes = [torch.arange(length, device="cpu") for length in window]
    tokens = torch.stack(torch.meshgrid(*axes, indexing="ij")).flatten(1)  # (3, tokens)
    depth, height, width = tokens[:, :, None] - tokens[:, None, :]
    deep, high, wide = window
    rows: Tensor = ((depth + deep - 1) * (2 * high - 1) + height + high - 1) * (2 * wide - 1) + width + wide - 1
    return rows


def shift_mask(size: Size, window: Size, shift: Size, device: torch.device | None = None) -> Tensor:
    """Mask between tokens that only the shift made neighbours, shape (windows, tokens, tokens), 0 or -100.

    Within a window, pairs of tokens of different regions get -100, not minus infinity. Zero tokens that pad a window
    belong to the region of their neighbours and are *not* masked, whether windows are shifted or not: weights are
    trained with this behaviour of the official code.

    Args:
        size: Size of the map, before padding to whole windows.
        window: Fitted window.
        shift: Shift per axis.
        device: Device of the result.
    """
    padded = [length + -length % step for length, step in zip(size, window, strict=True)]
    axes = [_regions(*axis, device) for axis in zip(padded, window, shift, strict=True)]
    regions = axes[0][:, None, None] * 9 + axes[1][:, None] * 3 + axes[2]  # (D, H, W)
    ids = cut_windows(regions[None, ..., None], window)[..., 0]  # (windows, tokens)
    return torch.where(ids[:, :, None] == ids[:, None, :], 0.0, -100.0)


def _regions(length: int, window: int, shift: int, device: torch.device | None) -> Tensor:
    """Region of each position of an axis: one without a shift, else three, as the last window has two parts."""
    position = torch.arange(length, device=device)
    if shift == 0:
        return torch.zeros_like(position)
    return (position >= length - window).long() + (position >= length - shift).long()
