"""Feature pyramid network: coarse levels inform fine ones.

Source: Feature pyramid networks (arXiv 1612.03144), over time.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tallformer_infer.config import Norm
from tallformer_training.model.conv_norm import ConvNorm


class FeaturePyramid(nn.Module):
    """Lateral convolutions, a sum from the top down, output convolutions; no activation anywhere."""

    def __init__(self, in_channels: int, out_channels: int, *, levels: int, norm: Norm) -> None:
        """Make the network.

        Raises:
            ConfigError: The norm does not fit the channels.
        """
        super().__init__()
        self.lateral_convs = nn.ModuleList(ConvNorm(in_channels, out_channels, 1, norm=norm) for _ in range(levels))
        self.fpn_convs = nn.ModuleList(ConvNorm(out_channels, out_channels, 3, norm=norm) for _ in range(levels))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Map levels (B, C, S), (B, C, S / 2), … (rounded up) to levels of the same lengths with other channels."""
        merged = [conv(level) for conv, level in zip(self.lateral_convs, levels, strict=True)]
        for index in range(len(merged) - 1, 0, -1):
            merged[index - 1] = merged[index - 1] + upsample(merged[index], merged[index - 1].shape[-1])
        return [conv(level) for conv, level in zip(self.fpn_convs, merged, strict=True)]


def upsample(x: Tensor, steps: int) -> Tensor:
    """Nearest-neighbour interpolation of (B, C, S) to (B, C, steps), where S is half of `steps`, rounded up.

    For these lengths the nearest index `floor(i * S / steps)` is `i // 2`, so each step is taken twice and the last
    one dropped if `steps` is odd; that needs no Resize operator in the exported graph.
    """
    doubled = torch.stack([x, x], dim=-1).flatten(-2)
    return doubled if doubled.shape[-1] == steps else doubled[..., :steps]
