"""Reduction of the encoder's feature steps by four (SRM, the paper's short-range module)."""

from __future__ import annotations

from torch import Tensor, nn


class Reduction(nn.Module):
    """Two convolutions, each of stride 2, with a ReLU between and nothing after."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, stride=2, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C', S / 4), each halving rounded up."""
        out: Tensor = self.conv2(self.relu(self.conv1(features)))
        return out
