"""One of AFSD's two networks: I3D, a pyramid over time, coarse proposals, and their refinement at the boundaries."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tallformer_training.model.i3d import InceptionI3d, Taps
from tallformer_training.model.refined_head import ConvGroup, ProposalBranch, boundary_max_pool, proposal_ranges

SIDE_PX = 96
"""Side of the networks' crop."""
_CHANNELS = 512
_LEVELS = 6


@dataclass(frozen=True, kw_only=True)
class AfsdSizes:
    """Settings that differ between AFSD's two data sets."""

    frames: int
    """Frames of a window."""
    classes: int
    """Classes of the head, including background."""
    has_fine_level: bool
    """Whether level 0 is computed from `Mixed_4f`, with twice the steps, instead of `Mixed_5c`."""
    scales_with_stride: bool
    """Whether distances are in strides of the level instead of frames."""

    @property
    def steps(self) -> tuple[int, ...]:
        """Time steps of each level, finest first."""
        finest = self.frames // (4 if self.has_fine_level else 8)
        return tuple(-(-finest // 2**level) for level in range(_LEVELS))


ACTIVITYNET = AfsdSizes(frames=768, classes=2, has_fine_level=False, scales_with_stride=True)
THUMOS14 = AfsdSizes(frames=256, classes=21, has_fine_level=True, scales_with_stride=False)


class AfsdOutputs(NamedTuple):
    """Outputs of a network for the positions of all levels, finest first."""

    distances_frames: Tensor
    """Distances to start and end of each coarse proposal, shape (B, A, 2)."""
    logits: Tensor
    """Shape (B, A, K)."""
    offsets: Tensor
    """Change of the distances, in half lengths of the proposal, shape (B, A, 2)."""
    refined_logits: Tensor
    """Shape (B, A, K)."""
    quality_logits: Tensor
    """Shape (B, A)."""


class AfsdBackbone(nn.Module):
    """I3D with the maps that the pyramid uses."""

    def __init__(self, sizes: AfsdSizes, in_channels: int) -> None:
        super().__init__()
        self.has_fine_level = sizes.has_fine_level
        self.i3d = InceptionI3d(in_channels=in_channels)

    def forward(self, clips: Tensor) -> tuple[Tensor, ...]:
        """Map clips (B, C, F, 96, 96) in [-1, 1] to `Mixed_5c`, preceded by `Mixed_4f` if that is used."""
        taps: Taps = self.i3d.taps(clips)
        return tuple(taps) if self.has_fine_level else (taps.mixed_5c,)


class AfsdLocalizer(nn.Module):
    """Pyramid and head."""

    def __init__(self, sizes: AfsdSizes) -> None:
        super().__init__()
        self.sizes = sizes
        self.pyramid = AfsdPyramid(sizes)
        self.loc_tower = nn.Sequential(*(ConvGroup(_CHANNELS, _CHANNELS, 3) for _ in range(2)))
        self.conf_tower = nn.Sequential(*(ConvGroup(_CHANNELS, _CHANNELS, 3) for _ in range(2)))
        self.loc_head = nn.Conv1d(_CHANNELS, 2, 3, padding=1)
        self.conf_head = nn.Conv1d(_CHANNELS, sizes.classes, 3, padding=1)
        self.scales = nn.ParameterList(nn.Parameter(torch.ones(1)) for _ in range(_LEVELS))
        self.deconv = nn.Sequential(*(ConvGroup(_CHANNELS, _CHANNELS, kernel) for kernel in (3, 3, 1)))
        self.loc_branch = ProposalBranch(_CHANNELS)
        self.conf_branch = ProposalBranch(_CHANNELS)
        self.prop_loc_head = nn.Conv1d(_CHANNELS, 2, 1)
        self.prop_conf_head = nn.Conv1d(_CHANNELS, sizes.classes, 1)
        self.center_head = nn.Conv1d(_CHANNELS, 1, 3, padding=1)

    def forward(self, *maps: Tensor) -> AfsdOutputs:
        """Localize in the maps of `AfsdBackbone`."""
        levels = self.pyramid(*maps)
        frame_features = self.deconv(levels[0].repeat_interleave(self.sizes.frames // levels[0].shape[-1], dim=-1))
        found = [self._level(index, level, frame_features) for index, level in enumerate(levels)]
        rows = [torch.cat(part, dim=-1).transpose(1, 2) for part in zip(*found, strict=True)]
        return AfsdOutputs(*rows[:4], rows[4][..., 0])

    def _level(self, index: int, level: Tensor, frame_features: Tensor) -> tuple[Tensor, ...]:
        """Coarse and refined outputs of one level, each (B, N, S)."""
        loc, conf = self.loc_tower(level), self.conf_tower(level)
        stride = 4 * 2**index if self.sizes.scales_with_stride else 1
        distances = (self.loc_head(loc) * self.scales[index]).exp() * stride
        on_level, in_frames = proposal_ranges(distances, steps=level.shape[-1], frames=self.sizes.frames)
        by_frame = boundary_max_pool(frame_features, in_frames)
        refined = [
            branch(tower, by_frame, boundary_max_pool(branch.lr_conv(tower), on_level))
            for branch, tower in ((self.loc_branch, loc), (self.conf_branch, conf))
        ]
        return (
            distances,
            self.conf_head(conf),
            self.prop_loc_head(refined[0]),
            self.prop_conf_head(refined[1]),
            self.center_head(refined[0]),
        )


class AfsdPyramid(nn.Module):
    """Maps of I3D to levels over time."""

    def __init__(self, sizes: AfsdSizes) -> None:
        super().__init__()
        spatial = SIDE_PX // 32
        self.lateral = Projection(1024, spatial)
        self.fine = Projection(832, 2 * spatial) if sizes.has_fine_level else None
        self.down = nn.ModuleList(HalvingConv() for _ in range(_LEVELS - (2 if sizes.has_fine_level else 1)))

    def forward(self, *maps: Tensor) -> list[Tensor]:
        """Map the maps of `AfsdBackbone` to levels (B, 512, S), finest first."""
        levels = [self.lateral(maps[-1])]
        for halve in self.down:
            levels.append(halve(levels[-1]))
        if self.fine is not None:
            levels.insert(0, self.fine(maps[0]) + levels[0].repeat_interleave(2, dim=-1))
        return levels


class Projection(nn.Module):
    """Convolution over the whole space of a map, then group norm and ReLU."""

    def __init__(self, channels: int, spatial: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, _CHANNELS, (1, spatial, spatial))
        self.norm = nn.GroupNorm(32, _CHANNELS)

    def forward(self, maps: Tensor) -> Tensor:
        """Map (B, C, S, H, W) to (B, 512, S)."""
        return F.relu(self.norm(self.conv(maps)[..., 0, 0]))


class HalvingConv(nn.Module):
    """Convolution of stride 2 with padding at the end, then group norm and ReLU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(_CHANNELS, _CHANNELS, 3, stride=2)
        self.norm = nn.GroupNorm(32, _CHANNELS)

    def forward(self, level: Tensor) -> Tensor:
        """Map (B, 512, S) to (B, 512, S / 2), rounded up."""
        odd = level.shape[-1] % 2
        return F.relu(self.norm(self.conv(F.pad(level, (odd, 1)))))
