"""Refined head: a proposal at every position, refined by features pooled at its boundaries.

Source: AFSD (Lin et al., CVPR 2021), as in the official TALLFormer code for ActivityNet (commit 5519140,
Apache-2.0; behaviour only).

# Note [range maximum by a table]
Row k of the table contains the maximum over the 2^k steps starting at each step. The maximum of any range is then the
larger of two entries that together cover it, so any range takes two look-ups; all shapes are known in advance, and
nothing is compiled. Of equal values the first is used, so the gradient of each maximum goes to one step. The official
operator does the same, but if there are more steps than proposals its gradient goes to the wrong steps and channels;
this bug is not reproduced.

Source: boundary pooling of AFSD (Lin et al., CVPR 2021); range maximum by powers of two after Bender and
Farach-Colton (LATIN 2000).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tallformer_infer.config import GROUPS, RefinedHeadConfig
from tallformer_training.model.head import Segments

_START_PART, _END_PART = 10, 4
"""A boundary region extends a tenth of the proposal's length outwards and a quarter inwards, at least one step each."""


class RefinedOutputs(NamedTuple):
    """Outputs of the head for B windows; its A positions are those of all levels, finest first."""

    distances_frames: Tensor
    """Distances from each position to start and end of its proposal, shape (B, A, 2)."""
    logits: Tensor
    """Logits of background and action, shape (B, A, 2)."""
    offsets: Tensor
    """Change of the distances, in half lengths of the proposal, shape (B, A, 2)."""
    refined_logits: Tensor
    """Logits of background and action after refinement, shape (B, A, 2)."""
    quality_logits: Tensor
    """Predicted quality of the refined segment, shape (B, A)."""
    class_logits: Tensor
    """Logits of background and the classes for the whole window, shape (B, 1 + K)."""
    frame_features: Tensor
    """Features per frame, the first half for starts, the second for ends, shape (B, C, T)."""
    segment_features: Tensor
    """Features per step of the finest level, for starts, then for ends, shape (B, 2C, S)."""
    confidence_features: Tensor
    """Like `segment_features`, of the other branch."""


class RefinedHead(nn.Module):
    """Coarse proposals, boundary features, refined proposals, and a classifier of the whole window."""

    def __init__(
        self,
        channels: int,
        config: RefinedHeadConfig,
        *,
        classes: int,
        classifier_channels: int,
        level_strides: tuple[int, ...],
    ) -> None:
        """Make the head.

        Args:
            channels: Channels of the pyramid.
            config: Sizes of the head.
            classes: Number of classes K.
            classifier_channels: Channels of the classifier's input.
            level_strides: Frames per step of each level.
        """
        super().__init__()
        self.longest_reach = config.longest_reach
        self.level_strides = level_strides
        self.loc_tower = nn.Sequential(*(ConvGroup(channels, channels, 3) for _ in range(config.stacked_convs)))
        self.conf_tower = nn.Sequential(*(ConvGroup(channels, channels, 3) for _ in range(config.stacked_convs)))
        self.loc_head = nn.Conv1d(channels, 2, 3, padding=1)
        self.conf_head = nn.Conv1d(channels, 2, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in level_strides)
        self.deconv = nn.Sequential(*(ConvGroup(channels, channels, kernel) for kernel in (3, 3, 1)))
        self.loc_proposal_branch = ProposalBranch(channels)
        self.conf_proposal_branch = ProposalBranch(channels)
        self.prop_loc_head = nn.Conv1d(channels, 2, 1)
        self.prop_conf_head = nn.Conv1d(channels, 2, 1)
        self.center_head = nn.Conv1d(channels, 1, 3, padding=1)
        self.dropout = nn.Dropout(config.classifier_dropout)
        self.action_head = nn.Linear(classifier_channels, 1 + classes)
        self._initialise()

    def forward(self, levels: list[Tensor], sequence: Tensor) -> RefinedOutputs:
        """Propose, refine and classify.

        Args:
            levels: Levels of the pyramid, shape (B, C, S), (B, C, S / 2), … (rounded up).
            sequence: Input of the classifier, shape (B, C', S').
        """
        class_logits: Tensor = self.action_head(self.dropout(sequence.mean(dim=-1)))
        frames = levels[0].shape[-1] * self.level_strides[0]
        frame_features: Tensor = self.deconv(levels[0].repeat_interleave(self.level_strides[0], dim=-1))
        steps = [level.shape[-1] for level in levels]
        towers = [(self.loc_tower(level), self.conf_tower(level)) for level in levels]
        distances = [self._distances(index, loc) for index, (loc, _) in enumerate(towers)]
        with torch.no_grad():
            ranges = [
                proposal_ranges(reach, steps=count, frames=frames)
                for reach, count in zip(distances, steps, strict=True)
            ]
        in_frames = boundary_max_pool(frame_features, torch.cat([found for _, found in ranges], dim=1))
        by_frame = torch.split(in_frames, steps, dim=-1)
        refined = [
            self._refine(tower, at_frames, on_level)
            for tower, at_frames, (on_level, _) in zip(towers, by_frame, ranges, strict=True)
        ]
        return RefinedOutputs(
            _rows(distances),
            _rows([self.conf_head(conf) for _, conf in towers]),
            _rows([self.prop_loc_head(loc) for loc, _, _ in refined]),
            _rows([self.prop_conf_head(conf) for _, conf, _ in refined]),
            _rows([self.center_head(loc) for loc, _, _ in refined])[..., 0],
            class_logits,
            frame_features,
            *refined[0][2],
        )

    def _distances(self, index: int, tower: Tensor) -> Tensor:
        """Distances of a level's positions to start and end of their proposals, in frames, shape (B, 2, S)."""
        reach: Tensor = (self.loc_head(tower) * self.scales[index]).exp().clamp(max=self.longest_reach)
        return reach * self.level_strides[index]

    def _refine(
        self, towers: tuple[Tensor, Tensor], by_frame: Tensor, ranges: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Features of a level's proposals in both branches, and the features pooled for them on the level."""
        loc, conf = towers
        boundaries = (self.loc_proposal_branch.lr_conv(loc), self.conf_proposal_branch.lr_conv(conf))
        by_level = _pool_together(boundaries, ranges)
        return (
            self.loc_proposal_branch(loc, by_frame, by_level[0]),
            self.conf_proposal_branch(conf, by_frame, by_level[1]),
            boundaries,
        )

    def _initialise(self) -> None:
        """Initialise convolutions of levels with small weights, all others with Glorot's, as in AFSD."""
        initialise_glorot(self.deconv)
        parts = (self.loc_tower, self.conf_tower, self.loc_head, self.conf_head, self.center_head)
        branches = (self.loc_proposal_branch, self.conf_proposal_branch, self.prop_loc_head, self.prop_conf_head)
        for part in (*parts, *branches):
            for module in part.modules():
                if isinstance(module, nn.Conv1d):
                    nn.init.normal_(module.weight, std=0.01)
                    _zero_bias(module)


class ConvGroup(nn.Module):
    """Convolution with bias, group norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, padding=kernel // 2)
        self.gn = nn.GroupNorm(GROUPS, out_channels)
        self.relu = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C', S)."""
        out: Tensor = self.relu(self.gn(self.conv(x)))
        return out


class ProposalBranch(nn.Module):
    """Joins the features of every position with those at its proposal's boundaries."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.cur_point_conv = ConvGroup(channels, channels, 1)
        self.lr_conv = ConvGroup(channels, 2 * channels, 1)
        self.roi_conv = ConvGroup(channels, channels, 1)
        self.proposal_conv = ConvGroup(4 * channels, channels, 1)

    def forward(self, level: Tensor, by_frame: Tensor, by_level: Tensor) -> Tensor:
        """Map a level.

        Args:
            level: Shape (B, C, S).
            by_frame: Features of frames, pooled at the proposals' boundaries, shape (B, C, S).
            by_level: Features of the level after `lr_conv`, pooled at the same boundaries, shape (B, 2C, S).

        Returns:
            Features of the proposals, shape (B, C, S).
        """
        parts = [self.roi_conv(by_frame), by_level, self.cur_point_conv(level)]
        out: Tensor = self.proposal_conv(torch.cat(parts, dim=1))
        return out


def proposal_ranges(distances_frames: Tensor, *, steps: int, frames: int) -> tuple[Tensor, Tensor]:
    """`proposal_edges`, rounded: ranges for `boundary_max_pool`."""
    on_level, in_frames = proposal_edges(distances_frames, steps=steps, frames=frames)
    return on_level.round().long(), in_frames.round().long()


def proposal_edges(distances_frames: Tensor, *, steps: int, frames: int) -> tuple[Tensor, Tensor]:
    """Regions around the boundaries of the proposals of one level.

    Args:
        distances_frames: Distances from each position to its proposal's start and end, shape (B, 2, S).
        steps: Steps S of the level.
        frames: Frames of the window.

    Returns:
        Regions in steps of the level, where a position is at its index, and in frames, where it is in the middle of its
        step, each of shape (B, S, 4).
    """
    position = torch.arange(steps, device=distances_frames.device, dtype=distances_frames.dtype)
    left, right = (distances_frames / frames * steps).unbind(1)
    on_level = boundary_edges(position - left, position + right, is_closed=False)
    left, right = distances_frames.unbind(1)
    centre = (position + 0.5) / steps * frames
    return on_level, boundary_edges(centre - left, centre + right, is_closed=True)


def _pool_together(features: tuple[Tensor, Tensor], ranges: Tensor) -> tuple[Tensor, Tensor]:
    """`boundary_max_pool` of two features of equal shape with the same ranges, in one table."""
    half = features[0].shape[1] // 2
    starts, ends = ([part[:, side : side + half] for part in features] for side in (0, half))
    pooled = boundary_max_pool(torch.cat([*starts, *ends], dim=1), ranges).chunk(4, dim=1)
    return torch.cat(pooled[::2], dim=1), torch.cat(pooled[1::2], dim=1)


def _rows(levels: list[Tensor]) -> Tensor:
    """Levels of (B, N, S) as rows (B, A, N)."""
    return torch.cat(levels, dim=-1).transpose(1, 2)


def initialise_glorot(module: nn.Module) -> None:
    """Initialise every temporal convolution in `module` with Glorot's weights and zero bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d):
            nn.init.xavier_uniform_(part.weight)
            _zero_bias(part)


def _zero_bias(conv: nn.Conv1d) -> None:
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)


def boundary_max_pool(features: Tensor, ranges: Tensor) -> Tensor:
    """Pool the first half of the channels around each start, the second half around each end.

    Args:
        features: Shape (B, C, T).
        ranges: First and last step (inclusive) around the start, then around the end, integers, shape (B, A, 4).
            Steps outside [0, T) are clamped; of a range that ends before it starts only the first step is used.

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
    """Regions around the boundaries of proposals; rounded half to even they are ranges for `boundary_max_pool`.

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
    """Rows of the table: the maximum over the 2^k steps starting at each step, if there are that many."""
    rows = [features]
    for power in _powers(features.shape[-1])[:-1]:
        here, later = rows[-1][..., :-power], rows[-1][..., power:]
        rows.append(torch.where(here >= later, here, later))
    return rows


def _powers(steps: int) -> list[int]:
    """Window lengths of the rows: 1, 2, 4, … up to `steps`."""
    return [2**row for row in range(steps.bit_length())]


def _rows_by_length(steps: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """For ranges of 1, 2, … steps: offset of the row in the table, and its window length."""
    starts = [0]
    for power in _powers(steps):
        starts.append(starts[-1] + steps - power + 1)
    rows = [length.bit_length() - 1 for length in range(1, steps + 1)]
    return (
        torch.tensor([starts[row] for row in rows], device=device),
        torch.tensor([2**row for row in rows], device=device),
    )


class Proposals(NamedTuple):
    """Segments without a class, and classes without a segment, of B windows."""

    segments_frames: Tensor
    """(start, end) in frames of the whole video, shape (B, A, 2)."""
    scores: Tensor
    """Confidence that each segment contains an action, in [0, 1], shape (B, A)."""
    class_scores: Tensor
    """Probabilities of the window's class: background, then the classes, with sum 1, shape (B, 1 + K)."""


def decode_proposals(
    outputs: RefinedOutputs, *, level_strides: tuple[int, ...], window_start_frames: Tensor, real_frames: Tensor
) -> Proposals:
    """Decode a batch of windows.

    Segments are first clamped to the real frames of their window, then shifted to their position in the video.
    Those after the real frames become segments of length 0.

    Args:
        outputs: Outputs of the head.
        level_strides: Frames per step of each level.
        window_start_frames: First frame of each window in the video, shape (B,).
        real_frames: Frames of each window that are not padding, shape (B,).
    """
    frames = outputs.frame_features.shape[-1]
    centres = position_centres(frames, level_strides).to(outputs.distances_frames)
    segments = refined_segments(centres, outputs.distances_frames, outputs.offsets)
    ends = real_frames.to(segments.dtype)[:, None, None]
    starts = window_start_frames.to(segments.dtype)[:, None, None]
    is_action = (outputs.logits.softmax(dim=-1) + outputs.refined_logits.softmax(dim=-1))[..., 1] / 2
    return Proposals(
        torch.minimum(segments.clamp(min=0), ends) + starts,
        is_action * outputs.quality_logits.sigmoid(),
        outputs.class_logits.softmax(dim=-1),
    )


def with_classes(proposals: Proposals, *, classes_per_proposal: int) -> Segments:
    """Assign the likeliest classes of its window to every proposal; scores of other classes are 0.

    The score is that of the proposal times that of the class. Background is not among the classes.
    """
    likely = proposals.class_scores[:, 1:]  # (B, K)
    least = likely.topk(min(classes_per_proposal, likely.shape[1]), dim=1).values[:, -1:]
    kept = torch.where(likely >= least, likely, 0.0)
    return Segments(proposals.segments_frames, proposals.scores[:, :, None] * kept[:, None, :])


def position_centres(frames: int, level_strides: tuple[int, ...]) -> Tensor:
    """Positions of all levels, finest first, in frames of a window of `frames` frames, shape (A,).

    A level of S steps divides the window into S equal parts; a position is in the middle of its part.
    """
    counts = level_steps(frames, level_strides)
    return torch.cat([(torch.arange(steps) + 0.5) / steps * frames for steps in counts])


def level_steps(frames: int, level_strides: tuple[int, ...]) -> list[int]:
    """Steps of every level of a window of `frames` frames: each level has half of the previous one, rounded up."""
    steps = [frames // level_strides[0]]
    for _ in level_strides[1:]:
        steps.append(-(-steps[-1] // 2))
    return steps


def refined_segments(centres_frames: Tensor, distances_frames: Tensor, offsets: Tensor) -> Tensor:
    """Proposals after refinement.

    Args:
        centres_frames: Shape (A,).
        distances_frames: Distances to start and end, shape (B, A, 2).
        offsets: Changes in half lengths of the proposal, shape (B, A, 2).

    Returns:
        Segments (start, end) in frames of the window, not clamped to it, shape (B, A, 2).
    """
    half = distances_frames.sum(dim=-1, keepdim=True) / 2
    moved = distances_frames + half * offsets
    return torch.stack([centres_frames - moved[..., 0], centres_frames + moved[..., 1]], dim=-1)
