"""Between encoder and pyramid: reduction of feature steps (SRM), and the temporal consistency module (TCM).

Source: TALLFormer (arXiv 2204.01680), section 3.3.
"""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from tallformer_infer.config import TcmConfig
from tallformer_training.model.attention import BiasedAttention, DropPath, Mlp


class TemporalConsistency(nn.Module):
    """Pre-norm transformer over the feature steps of a window, with relative positions, no mask and no final norm."""

    def __init__(self, channels: int, config: TcmConfig) -> None:
        """Make the module.

        Raises:
            ConfigError: `config.heads` does not divide `channels`.
        """
        super().__init__()
        self.max_steps = config.max_steps
        layer = TcmLayer(channels, config)
        # All layers are initial copies of one, as in the official code (and in torch's TransformerEncoder).
        self.layers = nn.ModuleList(copy.deepcopy(layer) for _ in range(config.layers))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, S) to the same shape.

        Raises:
            ValueError: S exceeds the position table.
        """
        if x.shape[-1] > self.max_steps:
            raise ValueError(f"expected at most tcm.max_steps={self.max_steps} feature steps, got {x.shape = }")
        tokens = x.transpose(1, 2)
        for layer in self.layers:
            tokens = layer(tokens)
        return tokens.transpose(1, 2)


class TcmLayer(nn.Module):
    """Attention, then an MLP, each after a norm and inside a residual connection."""

    def __init__(self, channels: int, config: TcmConfig) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn = BiasedAttention(channels, config.heads, step_index(config.max_steps))
        self.drop_path = DropPath(config.drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, 4 * channels)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, S, C) to the same shape."""
        tokens = tokens + self.drop_path(self.attn(self.norm1(tokens)))
        out: Tensor = tokens + self.drop_path(self.mlp(self.norm2(tokens)))
        return out


def step_index(steps: int) -> Tensor:
    """Row of the bias table for every (query, key), `query - key + steps - 1`, shape (steps, steps), int64."""
    position = torch.arange(steps, device="cpu")
    return position[:, None] - position[None, :] + steps - 1


class Reduction(nn.Module):
    """Two convolutions with a ReLU in between. In the paper each has stride 2."""

    def __init__(self, in_channels: int, out_channels: int, *, stride: int = 4) -> None:
        """Make the module with random weights.

        Args:
            in_channels: Channels of the encoder.
            out_channels: Channels of the result.
            stride: Feature steps merged into one: 4, or 2 or 1 for encoders with a lower feature rate.
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
