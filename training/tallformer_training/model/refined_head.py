"""Head that proposes a segment at every position, and refines it by what is at its boundaries.

Source: AFSD (Lin et al., CVPR 2021), as the official TALLFormer code has it for ActivityNet (commit 5519140,
Apache-2.0; behaviour only).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

from tallformer_infer.config import GROUPS, RefinedHeadConfig
from tallformer_training.model.boundary_pooling import boundary_edges, boundary_max_pool


class RefinedOutputs(NamedTuple):
    """What the head says about B windows; its A positions are those of all levels, finest first."""

    distances_frames: Tensor
    """From each position to the start and to the end of its proposal, shape (B, A, 2)."""
    logits: Tensor
    """Of background and action, shape (B, A, 2)."""
    offsets: Tensor
    """Change of the distances, in halves of the proposal's length, shape (B, A, 2)."""
    refined_logits: Tensor
    """Of background and action after refinement, shape (B, A, 2)."""
    quality_logits: Tensor
    """How well the refined segment will fit, shape (B, A)."""
    class_logits: Tensor
    """Of background and the classes, for the whole window, shape (B, 1 + K)."""
    frame_features: Tensor
    """Per frame, the first half for starts, the second for ends, shape (B, C, T)."""
    segment_features: Tensor
    """Per step of the finest level, for starts, then for ends, shape (B, 2C, S)."""
    confidence_features: Tensor
    """As `segment_features`, of the other branch."""


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
            channels: Of the pyramid.
            config: Its sizes.
            classes: Number of classes K.
            classifier_channels: Of what the classifier sees.
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
            levels: Of the pyramid, shape (B, C, S), (B, C, S / 2), … (rounded up).
            sequence: What the classifier sees, shape (B, C', S').
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
        """Of the proposals of a level to their starts and ends, in frames, shape (B, 2, S)."""
        reach: Tensor = (self.loc_head(tower) * self.scales[index]).exp().clamp(max=self.longest_reach)
        return reach * self.level_strides[index]

    def _refine(
        self, towers: tuple[Tensor, Tensor], by_frame: Tensor, ranges: Tensor
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        """Features of the proposals of a level in both branches, and what was pooled for them on the level."""
        loc, conf = towers
        boundaries = (self.loc_proposal_branch.lr_conv(loc), self.conf_proposal_branch.lr_conv(conf))
        by_level = _pool_together(boundaries, ranges)
        return (
            self.loc_proposal_branch(loc, by_frame, by_level[0]),
            self.conf_proposal_branch(conf, by_frame, by_level[1]),
            boundaries,
        )

    def _initialise(self) -> None:
        """Small weights wherever a level is looked at, Glorot's for the rest, as in AFSD."""
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
    """Joins, for every position, what is there with what is at its proposal's boundaries."""

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
            by_frame: What was pooled at the proposals' boundaries in the features of the frames, shape (B, C, S).
            by_level: What was pooled there in what `lr_conv` makes of the level, shape (B, 2C, S).

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
        distances_frames: From each position to its proposal's start and end, shape (B, 2, S).
        steps: Of the level, S.
        frames: Of the window.

    Returns:
        Regions in steps of the level, in which a position is at its number, and in frames, in which it is in the
        middle of its stretch, each of shape (B, S, 4).
    """
    position = torch.arange(steps, device=distances_frames.device, dtype=distances_frames.dtype)
    left, right = (distances_frames / frames * steps).unbind(1)
    on_level = boundary_edges(position - left, position + right, is_closed=False)
    left, right = distances_frames.unbind(1)
    centre = (position + 0.5) / steps * frames
    return on_level, boundary_edges(centre - left, centre + right, is_closed=True)


def _pool_together(features: tuple[Tensor, Tensor], ranges: Tensor) -> tuple[Tensor, Tensor]:
    """`boundary_max_pool` of two features of one shape with the same ranges, in one table."""
    half = features[0].shape[1] // 2
    starts, ends = ([part[:, side : side + half] for part in features] for side in (0, half))
    pooled = boundary_max_pool(torch.cat([*starts, *ends], dim=1), ranges).chunk(4, dim=1)
    return torch.cat(pooled[::2], dim=1), torch.cat(pooled[1::2], dim=1)


def _rows(levels: list[Tensor]) -> Tensor:
    """Levels of (B, N, S) as rows (B, A, N)."""
    return torch.cat(levels, dim=-1).transpose(1, 2)


def initialise_glorot(module: nn.Module) -> None:
    """Give every convolution over time in `module` Glorot's weights and no bias."""
    for part in module.modules():
        if isinstance(part, nn.Conv1d):
            nn.init.xavier_uniform_(part.weight)
            _zero_bias(part)


def _zero_bias(conv: nn.Conv1d) -> None:
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
