"""The segments that one window learns from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class WindowTruth:
    """Ground truth of one window."""

    segments_frames: NDArray[np.float32]
    """Half-open segments (start, end) in frames of the window, shape (N, 2)."""
    labels: NDArray[np.int64]
    """Class indices, shape (N,)."""


def crop_truth(
    segments_frames: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    start_frame: int,
    frames: int,
    least_part: float = 0.75,
) -> WindowTruth:
    """Take the segments that lie in a window, cut at its ends.

    A segment stays if more than `least_part` of it lies in the window, or if it covers more than `least_part` of the
    window; otherwise the window learns it as background.

    Args:
        segments_frames: Segments in frames of the video, shape (N, 2).
        labels: Class indices, shape (N,).
        start_frame: First frame of the window.
        frames: Frames of the window that belong to the video.
        least_part: In [0, 1); 0 keeps whatever overlaps.

    Source: temporal crop of the official TALLFormer code, commit 5519140, Apache-2.0 (behaviour only).
    """
    inside = np.clip(segments_frames - start_frame, 0, frames)  # (N, 2)
    overlap = inside[:, 1] - inside[:, 0]
    length = segments_frames[:, 1] - segments_frames[:, 0]
    part = np.maximum(overlap / np.maximum(length, 1e-9), overlap / max(frames, 1))
    kept = (part > least_part) & (overlap > 0)
    return WindowTruth(inside[kept].astype(np.float32), labels[kept])
