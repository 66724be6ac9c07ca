"""Which anchor learns which ground truth segment, for a whole batch at once.

Source: MaxIoU assignment of the official TALLFormer code, commit 5519140, Apache-2.0 (behaviour only). Anchors that
reach beyond the window count like any other; only anchors at positions of temporal padding are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

INVALID = -2
"""Anchor at a padded position: neither assigned nor part of a loss."""
IGNORED = -1
"""Anchor between the two thresholds: part of no loss."""
BACKGROUND = 0
"""Anchor that learns that nothing happens; an anchor with `i + 1` learns segment `i`."""


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """Overlaps from which an anchor is background or an action."""

    positive_tiou: float = 0.6
    """An anchor with at least this overlap learns the segment it overlaps most."""
    background_tiou: float = 0.4
    """An anchor that overlaps every segment by less than this learns background."""

    def __post_init__(self) -> None:
        if not 0 < self.background_tiou <= self.positive_tiou <= 1:
            raise ValueError(
                f"expected 0 < background_tiou <= positive_tiou <= 1, got {self.background_tiou = }, "
                f"{self.positive_tiou = }"
            )


@dataclass(frozen=True)
class Truth:
    """Ground truth of a batch of windows, padded to the largest number of segments N."""

    segments_frames: Tensor
    """Half-open segments (start, end) in frames of the window, shape (B, N, 2)."""
    labels: Tensor
    """Class indices, shape (B, N), int64."""
    is_present: Tensor
    """False where a row is padding, shape (B, N), bool."""

    @staticmethod
    def stack(segments_frames: Sequence[Tensor], labels: Sequence[Tensor]) -> Truth:
        """Pad the segments (N, 2) and labels (N,) of every window to one batch; N may be 0.

        Raises:
            ValueError: The numbers of windows, or of segments and labels of a window, differ.
        """
        for segments, classes in zip(segments_frames, labels, strict=True):
            if segments.shape != (len(classes), 2):
                raise ValueError(
                    f"expected segments (N, 2) and labels (N,), got {segments.shape = }, {classes.shape = }"
                )
        return Truth(
            torch.nn.utils.rnn.pad_sequence(list(segments_frames), batch_first=True),
            torch.nn.utils.rnn.pad_sequence(list(labels), batch_first=True),
            torch.nn.utils.rnn.pad_sequence(
                [torch.ones_like(row, dtype=torch.bool) for row in labels], batch_first=True
            ),
        )


@dataclass(frozen=True)
class Targets:
    """What every anchor of a batch of windows learns."""

    assigned: Tensor
    """`INVALID`, `IGNORED`, `BACKGROUND`, or 1 + the segment's row, shape (B, A), int64."""
    labels: Tensor
    """Class indices, the number of classes standing for background, shape (B, A), int64."""
    label_weights: Tensor
    """1 for action and background, 0 for ignored and padded anchors, shape (B, A)."""
    segments_frames: Tensor
    """Segment of every positive anchor, 0 elsewhere, shape (B, A, 2)."""

    @property
    def is_positive(self) -> Tensor:
        """Whether an anchor learns an action, shape (B, A), bool."""
        return self.assigned > BACKGROUND


def make_targets(
    anchors_frames: Tensor,
    truth: Truth,
    *,
    classes: int,
    is_valid: Tensor | None = None,
    config: AssignmentConfig | None = None,
) -> Targets:
    """Assign every anchor and collect what it learns.

    Args:
        anchors_frames: Anchors (start, end) of one window, shape (A, 2).
        truth: Ground truth of B windows.
        classes: Number of classes K.
        is_valid: False for anchors at padded positions, shape (B, A); None where there are none.
        config: Thresholds.
    """
    assigned = assign(anchors_frames, truth, is_valid=is_valid, config=config)
    row = (assigned - 1).clamp(min=0)  # (B, A)
    is_positive = assigned > BACKGROUND
    if truth.labels.shape[1]:
        labels = torch.where(is_positive, truth.labels.gather(1, row), classes)
        segments = truth.segments_frames.gather(1, row[..., None].expand(-1, -1, 2))
        segments = torch.where(is_positive[..., None], segments, 0.0)
    else:
        labels = torch.full_like(assigned, classes)
        segments = anchors_frames.new_zeros(*assigned.shape, 2)
    return Targets(assigned, labels, (assigned >= BACKGROUND).to(segments.dtype), segments)


def assign(
    anchors_frames: Tensor, truth: Truth, *, is_valid: Tensor | None = None, config: AssignmentConfig | None = None
) -> Tensor:
    """Give every anchor a segment, background, or nothing.

    In this order: background below `background_tiou`; the most overlapped segment (the first of equals) from
    `positive_tiou` on; then every segment takes all anchors that tie for its best overlap, however small, and a later
    segment takes them from an earlier one. A segment without length overlaps nothing, so that all anchors tie at 0:
    keep such segments out.

    Args:
        anchors_frames: Anchors (start, end) of one window, shape (A, 2).
        truth: Ground truth of B windows.
        is_valid: False for anchors at padded positions, shape (B, A); None where there are none.
        config: Thresholds.

    Returns:
        `INVALID`, `IGNORED`, `BACKGROUND`, or 1 + the segment's row, shape (B, A), int64.
    """
    config = config or AssignmentConfig()
    windows, count = truth.labels.shape
    if is_valid is None:
        is_valid = anchors_frames.new_ones((windows, len(anchors_frames)), dtype=torch.bool)
    if not count or not len(anchors_frames):
        return torch.where(is_valid, BACKGROUND, INVALID)
    usable = is_valid[:, :, None] & truth.is_present[:, None, :]  # (B, A, N)
    tious = torch.where(usable, tiou(anchors_frames, truth.segments_frames), -1.0)
    best, row = tious.max(dim=2)  # (B, A); torch gives the first of equals
    assigned = torch.where(best < config.background_tiou, BACKGROUND, IGNORED)
    assigned = torch.where(best >= config.positive_tiou, row + 1, assigned)
    ties = usable & (tious == tious.amax(dim=1, keepdim=True))
    latest = (ties * torch.arange(1, count + 1, device=ties.device)).amax(dim=2)  # (B, A); 0: no segment's best
    assigned = torch.where(latest > 0, latest, assigned)
    return torch.where(is_valid, assigned, INVALID)


def tiou(anchors_frames: Tensor, segments_frames: Tensor) -> Tensor:
    """Temporal overlap of every anchor with every segment of each window.

    Args:
        anchors_frames: Half-open segments (start, end), shape (A, 2).
        segments_frames: Half-open segments (start, end), shape (B, N, 2).

    Returns:
        Overlaps in [0, 1], shape (B, A, N). Segments that only touch overlap by 0.
    """
    anchors = anchors_frames[None, :, None, :]  # (1, A, 1, 2)
    segments = segments_frames[:, None, :, :]  # (B, 1, N, 2)
    shared = (
        torch.minimum(anchors[..., 1], segments[..., 1]) - torch.maximum(anchors[..., 0], segments[..., 0])
    ).clamp(min=0)
    union = (anchors[..., 1] - anchors[..., 0]) + (segments[..., 1] - segments[..., 0]) - shared
    return shared / union.clamp(min=1e-6)
