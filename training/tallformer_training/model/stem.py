"""What turns frames into the first feature map of the encoder.

# Note [a stem that sees motion]
Video Swin projects each patch of two frames linearly. Pretrained on Kinetics that is fine; from random weights, on
small things that move, it hides what matters: colours drown changes, and the norm behind it blows up the noise of
patches in which nothing moves. `MotionStem` gives the blocks a better start: it looks at what changes from one frame to
the next, and brings it down to patches in several convolutions. Batch norm, not layer norm: a quiet patch stays quiet.

Source: convolutions before attention after Xiao et al. (arXiv 2106.14881); differences of frames as the input of an
action recogniser after Wang et al. (arXiv 1608.00859).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tallformer_infer.config import PatchSize
from tallformer_training.model.windows import append_zeros

_GAIN = 3.0
"""Brings differences of normalised frames to the size of the frames."""


class PatchEmbedding(nn.Module):
    """A linear map of each patch of frames, then a norm."""

    def __init__(self, patch: PatchSize, channels: int) -> None:
        super().__init__()
        self.patch = patch
        self.proj = nn.Conv3d(3, channels, kernel_size=patch, stride=patch)
        self.norm = nn.LayerNorm(channels)

    def forward(self, clips: Tensor) -> Tensor:
        """Map (N, 3, F, H, W) to (N, D, H', W', C); frames and pixels short of a patch are zero."""
        out: Tensor = self.norm(self.proj(_whole_patches(clips, self.patch)).permute(0, 2, 3, 4, 1))
        return out


class MotionStem(nn.Module):
    """Convolutions over the differences of frames; see Note [a stem that sees motion]."""

    def __init__(self, patch: PatchSize, channels: int) -> None:
        """Make the stem.

        Args:
            patch: Its stride: 2 frames, and a power of two of pixels.
            channels: Of the result; each convolution before has half of those of the next.
        """
        super().__init__()
        self.patch = patch
        count = patch[1].bit_length() - 1
        widths = [3, *(channels // 2 ** (count - 1 - index) for index in range(count))]
        self.convs = nn.ModuleList(
            nn.Conv3d(
                widths[index],
                widths[index + 1],
                kernel_size=(3, 5, 5) if index == 0 else 3,
                stride=(2 if index == 0 else 1, 2, 2),
                padding=(1, 2, 2) if index == 0 else 1,
                bias=False,
            )
            for index in range(count)
        )
        self.norms = nn.ModuleList(nn.BatchNorm3d(width) for width in widths[1:])

    def forward(self, clips: Tensor) -> Tensor:
        """Map (N, 3, F, H, W) to (N, D, H', W', C); frames and pixels short of a patch are zero."""
        clips = _whole_patches(clips, self.patch)
        before = torch.cat([clips[:, :, :1], clips[:, :, :-1]], dim=2)  # of the first frame nothing is known
        x = (clips - before) * _GAIN
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return x.permute(0, 2, 3, 4, 1)


def _whole_patches(clips: Tensor, patch: PatchSize) -> Tensor:
    for dim, step in enumerate(patch, start=2):
        clips = append_zeros(clips, -clips.shape[dim] % step, dim=dim)
    return clips
