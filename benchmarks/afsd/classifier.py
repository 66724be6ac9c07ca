"""The two networks of the video classifier whose scores AFSD uses on ActivityNet, at their published sizes.

Source: CUHK & ETHZ & SIAT's entry to the ActivityNet challenge of 2016 (yjxiong/anet2016-cuhk, commit 1e4e54d) for the
inputs; He et al. (arXiv 1512.03385, 1603.05027) for ResNet-200; Ioffe and Szegedy (arXiv 1502.03167) for
BN-Inception. Written from the papers.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

CLASSES = 200
FRAME_PX = (340, 256)
"""Width and height of its frames."""
SNIPPET_STEP, SNIPPET_FLOWS = 30, 5
"""Native frames between snippets, and flow fields of each."""
CROPS, CROP_PX = 10, 224
"""Crops of the flow stack: corners and centre, also mirrored. RGB is used as a whole, once."""
FLOW_WEIGHT = 0.2
"""Weight of the flow network's scores; that of RGB is 1."""
_SPANS = (1, 2, 4, 8, 16)


class ResNet200(nn.Module):
    """ResNet-200, pre-activation, with average pooling over the remaining size."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.norm1 = nn.BatchNorm2d(64)
        blocks: list[nn.Module] = []
        channels = 64
        for stage, depth in enumerate((3, 24, 36, 3)):
            for index in range(depth):
                stride = 2 if stage and not index else 1
                blocks.append(Bottleneck(channels, 64 * 2**stage, stride))
                channels = 256 * 2**stage
        self.blocks = nn.Sequential(*blocks)
        self.norm2 = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, CLASSES)

    def forward(self, frames: Tensor) -> Tensor:
        """Map frames (N, 3, H, W) to scores (N, 200)."""
        x = F.max_pool2d(F.relu(self.norm1(self.conv1(frames))), 3, stride=2, padding=1)
        x = F.relu(self.norm2(self.blocks(x)))
        out: Tensor = self.fc(x.mean(dim=(2, 3)))
        return out


class Bottleneck(nn.Module):
    """1x1, 3x3, 1x1, each after a norm and ReLU, with a shortcut."""

    def __init__(self, in_channels: int, width: int, stride: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(count) for count in (in_channels, width, width))
        self.convs = nn.ModuleList(
            (
                nn.Conv2d(in_channels, width, 1, bias=False),
                nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False),
                nn.Conv2d(width, 4 * width, 1, bias=False),
            )
        )
        is_same = stride == 1 and in_channels == 4 * width
        self.shortcut = None if is_same else nn.Conv2d(in_channels, 4 * width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, 4 * width, H / stride, W / stride), rounded up."""
        seen = F.relu(self.norms[0](x))
        shortcut = x if self.shortcut is None else self.shortcut(seen)
        seen = self.convs[0](seen)
        for norm, conv in zip(self.norms[1:], self.convs[1:], strict=True):
            seen = conv(F.relu(norm(seen)))
        return shortcut + seen


class BnInception(nn.Module):
    """BN-Inception for stacks of optical flow."""

    def __init__(self, in_channels: int = 2 * SNIPPET_FLOWS) -> None:
        super().__init__()
        self.conv1 = ConvUnit(in_channels, 64, 7, stride=2)
        self.reduce2 = ConvUnit(64, 64, 1)
        self.conv2 = ConvUnit(64, 192, 3)
        self.blocks = nn.Sequential(
            Mixed(192, 64, (64, 64), (64, 96), 32),
            Mixed(256, 64, (64, 96), (64, 96), 64),
            Mixed(320, 0, (128, 160), (64, 96), 0),
            Mixed(576, 224, (64, 96), (96, 128), 128),
            Mixed(576, 192, (96, 128), (96, 128), 128),
            Mixed(576, 160, (128, 160), (128, 160), 128),
            Mixed(608, 96, (128, 192), (160, 192), 128),
            Mixed(608, 0, (128, 192), (192, 256), 0),
            Mixed(1056, 352, (192, 320), (160, 224), 128),
            Mixed(1024, 352, (192, 320), (192, 224), 128, pools_max=True),
        )
        self.fc = nn.Linear(1024, CLASSES)

    def forward(self, stacks: Tensor) -> Tensor:
        """Map stacks of flow (N, 10, 224, 224) to scores (N, 200)."""
        x = F.max_pool2d(self.conv1(stacks), 3, stride=2, ceil_mode=True)
        x = F.max_pool2d(self.conv2(self.reduce2(x)), 3, stride=2, ceil_mode=True)
        out: Tensor = self.fc(self.blocks(x).mean(dim=(2, 3)))
        return out


class Mixed(nn.Module):
    """1x1; 1x1 and 3x3; 1x1 and twice 3x3; pool and 1x1. Without the first, stride 2 and a bare pool."""

    def __init__(
        self,
        in_channels: int,
        one: int,
        single: tuple[int, int],
        double: tuple[int, int],
        pooled: int,
        *,
        pools_max: bool = False,
    ) -> None:
        super().__init__()
        stride = 1 if one else 2
        self.pools_max = pools_max
        self.b0 = ConvUnit(in_channels, one, 1) if one else None
        self.b1 = nn.Sequential(ConvUnit(in_channels, single[0], 1), ConvUnit(*single, 3, stride=stride))
        self.b2 = nn.Sequential(
            ConvUnit(in_channels, double[0], 1),
            ConvUnit(*double, 3),
            ConvUnit(double[1], double[1], 3, stride=stride),
        )
        self.b3 = ConvUnit(in_channels, pooled, 1) if one else None

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H, W), or half of that size."""
        if self.b0 is None or self.b3 is None:
            return torch.cat([self.b1(x), self.b2(x), F.max_pool2d(x, 3, stride=2, ceil_mode=True)], dim=1)
        pooled = F.max_pool2d(x, 3, 1, 1) if self.pools_max else F.avg_pool2d(x, 3, 1, 1)
        return torch.cat([self.b0(x), self.b1(x), self.b2(x), self.b3(pooled)], dim=1)


class ConvUnit(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel: int, *, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2)
        self.norm = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C', H / stride, W / stride), rounded up."""
        return F.relu(self.norm(self.conv(x)))


def ten_crops(stack: NDArray[np.float32]) -> NDArray[np.float32]:
    """Corners and centre of a stack (C, H, W), also mirrored: (10, C, 224, 224)."""
    height, width = stack.shape[1:]
    down, right = height - CROP_PX, width - CROP_PX
    places = ((0, 0), (0, right), (down, 0), (down, right), (down // 2, right // 2))
    crops = [stack[:, top : top + CROP_PX, left : left + CROP_PX] for top, left in places]
    return np.ascontiguousarray([*crops, *(crop[..., ::-1] for crop in crops)])


def video_scores(rgb: NDArray[np.float32], flow: NDArray[np.float32]) -> NDArray[np.float32]:
    """Class scores of a video from those of its snippets (S, 200), of frames and of flow (best crop): shape (200,)."""
    fused = _over_spans(rgb) + FLOW_WEIGHT * _over_spans(flow)
    grown = np.exp(fused - fused.max())
    return (grown / grown.sum()).astype(np.float32)


def _over_spans(snippets: NDArray[np.float32]) -> NDArray[np.float32]:
    """Best score in windows of several lengths, averaged over the best windows and the lengths."""
    scores = []
    for span in _SPANS:
        starts = range(0, max(len(snippets) - span, 0) + 1, max(int(span * 0.8), 1))
        best = np.sort(np.stack([snippets[start : start + span].max(axis=0) for start in starts]), axis=0)
        scores.append(best[-max(15, len(best) // 4) :].mean(axis=0))
    return np.asarray(np.mean(scores, axis=0), np.float32)
