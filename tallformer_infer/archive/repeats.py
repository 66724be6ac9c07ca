"""Clips that show what the clip before showed.

Note [what counts as the same]
    Two clips are the same within a tolerance if, in every frame, no block of 8 × 8 pixels differs by more than the
    tolerance on average (pixel values 0 to 255). The noise of a camera and of compression averages out in a block;
    something small that moves does not. A clip is compared with the last one that was encoded, not with its neighbour,
    so that a slow change adds up and is seen. Source: the observation that most of a long video is redundant is that
    of the TALLFormer paper, section 1; the measure is ours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.clips import Clip

_BLOCK_PX = 8


def is_repeat(clip: Clip, encoded: Clip | None, tolerance: float) -> bool:
    """Whether `clip` shows the same as `encoded`, see Note [what counts as the same].

    Args:
        clip: A clip.
        encoded: The last clip that was encoded; None before the first.
        tolerance: Largest difference of a block, in pixel values; 0 asks for equal pixels.
    """
    if encoded is None or clip.real_frames != encoded.real_frames:
        return False
    if tolerance == 0:
        return np.array_equal(clip.frames, encoded.frames)
    return all(
        _largest_difference(frame, other) <= tolerance for frame, other in zip(clip.frames, encoded.frames, strict=True)
    )


def _largest_difference(frame: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Largest mean absolute difference of a block, over all blocks of a frame of shape (H, W, 3)."""
    # Without a wider type: of two bytes, the larger less the smaller.
    difference = np.maximum(frame, other) - np.minimum(frame, other)
    rows = np.arange(0, frame.shape[0], _BLOCK_PX)
    columns = np.arange(0, frame.shape[1], _BLOCK_PX)
    by_row = np.add.reduceat(difference.sum(axis=2, dtype=np.uint32), rows, axis=0)
    sums = np.add.reduceat(by_row, columns, axis=1)
    heights = np.diff(np.append(rows, frame.shape[0]))
    widths = np.diff(np.append(columns, frame.shape[1]))
    return float((sums / (3 * np.outer(heights, widths))).max())
