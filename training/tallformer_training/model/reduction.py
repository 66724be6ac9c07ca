"""Reduction of the encoder's feature steps (SRM, the paper's short-range module)."""

from __future__ import annotations

from torch import Tensor, nn


class Reduction(nn.Module):
    """Two convolutions with a ReLU between and nothing after. In the paper each has stride 2."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 4) -> None:
        """Make the module with fresh weights.

        Args:
            in_channels: Of the encoder.
            out_channels: Of what comes out.
            stride: Feature steps that become one: 4, or 2 or 1 after encoders that have fewer per second.
        """
        super().__init__()
        first = min(stride, 2)
        self.conv1 = nn.Conv1d(in_channels, out_channels, 3, stride=first, padding=1)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv1d(out_channels, out_channels, 3, stride=stride // first, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C', S / stride), each halving rounded up."""
        out: Tensor = self.conv2(self.relu(self.conv1(features)))
        return out
