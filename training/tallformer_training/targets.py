"""Targets of the three trained heads: anchors, positions and proposals of a batch of windows.

Source: anchors: MaxIoU assignment of the official TALLFormer code, commit 5519140, Apache-2.0 (behaviour only). Anchors
that extend beyond the window count like any other; only anchors at padded positions are left out. Point
head: ActionFormer (Zhang et al., ECCV 2022, arXiv 2202.07925) as in OpenTAD (github.com/sming256/OpenTAD, commit
3dd7b03, Apache-2.0; behaviour only). Refined head: AFSD (Lin et al., CVPR 2021), as in the official TALLFormer code for
ActivityNet (behaviour only).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.errors import ConfigError
from tallformer_training.model.point_head import point_centres
from tallformer_training.model.refined_head import level_steps, position_centres

INVALID = -2
"""Anchor at a padded position: neither assigned nor part of a loss."""
IGNORED = -1
"""Anchor between the two thresholds: part of no loss."""
BACKGROUND = 0
"""Anchor that learns background; an anchor with `i + 1` learns segment `i`."""

_SAME_LENGTH = 1e-3
"""Segments at most this much longer than the shortest one, in strides of the finest level, add their class."""

NO_CLASS = -1
"""Window without a segment, which the classifier ignores."""

_UPPER, _LOWER = 3.75, 0.9375
"""Range of a level: its segments' farther end is up to the first, from the second number of strides away."""
_LAST_LOWER = (0.75, 1.0)
"""The same for the last two levels, which learn segments up to the window's length."""
_BOUNDARY_PART, _LEAST_BOUNDARY_FRAMES = 10, 2
"""Width of a boundary: a tenth of its segment, at least two frames."""


@dataclass(frozen=True, kw_only=True)
class AssignmentConfig:
    """Overlaps that make an anchor background or an action."""

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
    """Targets of every anchor of a batch of windows."""

    assigned: Tensor
    """`INVALID`, `IGNORED`, `BACKGROUND`, or 1 + the segment's row, shape (B, A), int64."""
    labels: Tensor
    """Class indices; the number of classes stands for background; shape (B, A), int64."""
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
    """Assign every anchor and collect its targets.

    Args:
        anchors_frames: Anchors (start, end) of one window, shape (A, 2).
        truth: Ground truth of B windows.
        classes: Number of classes K.
        is_valid: False for anchors at padded positions, shape (B, A); None if there are none.
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
    """Assign a segment, background, or nothing to every anchor.

    In this order: background below `background_tiou`; the most overlapped segment (the first of equals) from
    `positive_tiou` on; then every segment takes all anchors that tie for its best overlap, however small, and a later
    segment takes them from an earlier one. Do not pass segments of length 0: they overlap nothing, so all anchors would
    tie at 0.

    Args:
        anchors_frames: Anchors (start, end) of one window, shape (A, 2).
        truth: Ground truth of B windows.
        is_valid: False for anchors at padded positions, shape (B, A); None if there are none.
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


@dataclass(frozen=True, kw_only=True)
class PointConfig:
    """Assignment of positions to segments, and the normaliser of their losses."""

    farthest: float = 4.0
    """Largest distance to an end that a level learns, in its strides; the next level starts there. The finest level
    starts at 0, the coarsest one has no limit."""
    centre_radius: float = 1.5
    """Largest distance from a segment's middle, in strides of the level, at which positions learn it."""
    normaliser_momentum: float = 0.9
    """Momentum of the normaliser, a running mean of the number of positive positions, in [0, 1)."""
    segment_weight: float = 1.0
    """Weight of the segment loss relative to the classification loss."""

    def __post_init__(self) -> None:
        if not self.farthest > 0 or not self.centre_radius > 0:
            raise ConfigError(f"points: farthest={self.farthest}, centre_radius={self.centre_radius} must be above 0")
        if not 0 <= self.normaliser_momentum < 1:
            raise ConfigError(f"points: normaliser_momentum={self.normaliser_momentum} must be in [0, 1)")
        if not self.segment_weight >= 0:
            raise ConfigError(f"points: segment_weight={self.segment_weight} must be at least 0")


@dataclass(frozen=True)
class PointTargets:
    """Targets of the A positions of B windows."""

    classes: Tensor
    """1 for the classes of a position, else 0, shape (B, A, K)."""
    segments_frames: Tensor
    """Segment of every positive position, 0 elsewhere, shape (B, A, 2)."""
    is_positive: Tensor
    """Whether a position is positive (learns an action), bool, shape (B, A)."""

    def to(self, device: torch.device) -> PointTargets:
        """Move to another device."""
        return PointTargets(self.classes.to(device), self.segments_frames.to(device), self.is_positive.to(device))


def make_point_targets(
    truth: Truth, *, steps: int, level_strides: tuple[int, ...], classes: int, config: PointConfig
) -> PointTargets:
    """Assign to every position the shortest suitable segment (of equals the first).

    A segment suits a position inside it, at most `centre_radius` strides from its middle, if its farther end is in the
    range of the position's level, both bounds included.

    Args:
        truth: Segments of B windows in frames of the window.
        steps: Steps of the finest level.
        level_strides: Frames per step of each level.
        classes: Number of classes K.
        config: Ranges of the levels.
    """
    centres, strides = point_centres(steps, level_strides)  # (A,)
    batch, count = truth.labels.shape
    if not count:
        nothing = centres.new_zeros(batch, len(centres))
        return PointTargets(
            nothing[..., None].expand(-1, -1, classes), nothing[..., None].expand(-1, -1, 2), nothing > 0
        )
    segments = truth.segments_frames.float()
    starts, ends = segments[:, None].unbind(-1)  # (B, 1, N)
    lengths = torch.where(_suits(starts, ends, centres, strides, level_strides, config), ends - starts, torch.inf)
    lengths = torch.where(truth.is_present[:, None], lengths, torch.inf)  # (B, A, N)
    shortest, row = lengths.min(dim=-1)  # (B, A); torch gives the first of equals
    is_positive = shortest.isfinite()
    limit = shortest + _SAME_LENGTH * level_strides[0]
    teaches = ((lengths <= limit[..., None]) & lengths.isfinite()).float()
    kinds = F.one_hot(truth.labels, classes).float()  # (B, N, K)
    chosen = segments.gather(1, row[..., None].expand(-1, -1, 2))
    return PointTargets(
        (teaches @ kinds).clamp(max=1),
        torch.where(is_positive[..., None], chosen, 0.0),
        is_positive,
    )


def _suits(
    starts: Tensor,
    ends: Tensor,
    centres: Tensor,
    strides: Tensor,
    level_strides: tuple[int, ...],
    config: PointConfig,
) -> Tensor:
    """Which segments suit which positions, bool, shape (B, A, N)."""
    at, reach = centres[:, None], config.centre_radius * strides[:, None]  # (A, 1)
    middle = (starts + ends) / 2
    from_left = at - torch.maximum(middle - reach, starts)
    from_right = torch.minimum(middle + reach, ends) - at
    farther = torch.maximum(at - starts, ends - at)
    lower = torch.where(strides > level_strides[0], config.farthest / 2 * strides, 0.0)[:, None]
    upper = torch.where(strides < level_strides[-1], config.farthest * strides, torch.inf)[:, None]
    return (torch.minimum(from_left, from_right) > 0) & (farther >= lower) & (farther <= upper)


@dataclass(frozen=True)
class RefinedTargets:
    """Targets of B windows."""

    distances_frames: Tensor
    """Distances from each position to start and end of its segment, 0 without one, shape (B, A, 2)."""
    is_positive: Tensor
    """Whether a position has a segment, bool, shape (B, A)."""
    boundaries: Tensor
    """1 for frames at starts and at ends, else 0, shape (B, 2, T)."""
    classes: Tensor
    """Class of the window: 0 for background, 1 + class index, or `NO_CLASS`, int64, shape (B,)."""

    def to(self, device: torch.device) -> RefinedTargets:
        """Move to another device."""
        return RefinedTargets(
            self.distances_frames.to(device),
            self.is_positive.to(device),
            self.boundaries.to(device),
            self.classes.to(device),
        )


def make_refined_targets(truth: Truth, *, level_strides: tuple[int, ...], window_frames: int) -> RefinedTargets:
    """Collect the targets of B windows.

    Args:
        truth: Segments in frames of the window; the first one's class is that of the window.
        level_strides: Frames per step of each level.
        window_frames: Frames of a window.
    """
    distances, is_positive = match_positions(truth, level_strides=level_strides, window_frames=window_frames)
    maps = [
        boundary_maps(segments[present].numpy(), window_frames)
        for segments, present in zip(truth.segments_frames.double(), truth.is_present, strict=True)
    ]
    classes = torch.full((len(truth.labels),), NO_CLASS, dtype=torch.int64)
    if truth.labels.shape[1]:
        classes = torch.where(truth.is_present[:, 0], truth.labels[:, 0] + 1, NO_CLASS)
    return RefinedTargets(distances, is_positive, torch.from_numpy(np.stack(maps)), classes)


def match_positions(truth: Truth, *, level_strides: tuple[int, ...], window_frames: int) -> tuple[Tensor, Tensor]:
    """Assign to every position the shortest segment (of equals the first) that contains it and suits its level.

    Returns:
        Distances to its start and end, 0 without one, shape (B, A, 2); whether it has one, shape (B, A).
    """
    centres = position_centres(window_frames, level_strides)  # (A,)
    batch, count = truth.labels.shape
    if not count:
        return centres.new_zeros(batch, len(centres), 2), centres.new_zeros((batch, len(centres)), dtype=torch.bool)
    starts, ends = truth.segments_frames.unbind(-1)  # (B, N)
    distances = torch.stack(
        [centres[None, :, None] - starts[:, None], ends[:, None] - centres[None, :, None]], dim=-1
    )  # (B, A, N, 2)
    lower, upper = level_bounds(level_strides, window_frames)
    farther = distances.amax(dim=-1)
    fits = (distances.amin(dim=-1) >= 0) & (farther > lower[:, None]) & (farther <= upper[:, None])
    fits = fits & truth.is_present[:, None]
    lengths = torch.where(fits, (ends - starts)[:, None], torch.inf)
    shortest, row = lengths.min(dim=-1)  # (B, A); torch gives the first of equals
    is_positive = shortest.isfinite()
    chosen = distances.gather(2, row[..., None, None].expand(-1, -1, 1, 2))[:, :, 0]
    return torch.where(is_positive[..., None], chosen, 0.0), is_positive


def level_bounds(level_strides: tuple[int, ...], window_frames: int) -> tuple[Tensor, Tensor]:
    """Range of the distance, in frames, to the farther end of a position's segment: (low, high] of each position, (A,).

    With the official strides (8 to 256) and 768 frames these are (0, 30], (15, 60], (30, 120], (60, 240], (96, 768]
    and (256, 768].
    """
    lower = [stride * _LOWER for stride in level_strides]
    upper = [stride * _UPPER for stride in level_strides]
    last = min(len(level_strides), len(_LAST_LOWER))
    for level, part in zip(range(-last, 0), _LAST_LOWER[-last:], strict=True):
        lower[level], upper[level] = level_strides[level] * part, float(window_frames)
    lower[0] = 0.0
    steps = torch.tensor(level_steps(window_frames, level_strides))
    return torch.tensor(lower).repeat_interleave(steps), torch.tensor(upper).repeat_interleave(steps)


def boundary_maps(segments_frames: NDArray[np.float64], window_frames: int) -> NDArray[np.float32]:
    """Mark the frames around starts and around ends of segments (N, 2); shape (2, T).

    For a boundary outside the window the nearest frame is marked, as in the official code.
    """
    maps = np.zeros((2, window_frames), np.float32)
    for segment in segments_frames.tolist():
        reach = max((segment[1] - segment[0]) / _BOUNDARY_PART, _LEAST_BOUNDARY_FRAMES) / 2
        for row, boundary in enumerate(segment):
            first, last = (min(max(round(edge), 0), window_frames - 1) for edge in (boundary - reach, boundary + reach))
            maps[row, first : last + 1] = 1
    return maps
