"""Temporal pyramids, each level with half the feature steps of the one below (TDM), and the feature pyramid network.

Source: Feature pyramid networks (arXiv 1612.03144), over time.
"""

from __future__ import annotations

import math
from typing import assert_never

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tallformer_infer.config import GROUPS, Norm, PyramidConfig
from tallformer_infer.errors import ConfigError
from tallformer_training.model.windows import append_zeros

_FAR = -3e4
"""Added to the logits of masked pairs of steps. The official code has -1e9, which float16 cannot represent; after the
softmax both are exactly 0."""


class AttentionPyramid(nn.Module):
    """Pairs of feature steps are merged, then attend to their neighbours. Used for THUMOS14 (`SelfAttnTDM`)."""

    position: Tensor

    def __init__(self, channels: int, config: PyramidConfig, *, max_steps: int) -> None:
        """Make the pyramid for at most `max_steps` steps on the first level.

        Raises:
            ConfigError: `config.heads` does not divide `channels`, or `channels` is odd.
        """
        super().__init__()
        if channels % 2:
            raise ConfigError(f"pyramid: the sinusoids need an even number of channels, got {channels}")
        # Follows from the configuration, so it is not part of the weights (the official `pe.pe` is).
        # Divided by sqrt(C), as in the official code.
        table = sinusoids(max_steps, channels) * (1 / math.sqrt(channels))
        self.register_buffer("position", table, persistent=False)
        self.dropout = nn.Dropout(config.dropout)
        self.reductions = nn.ModuleList(
            nn.Sequential(nn.Linear(2 * channels, channels, bias=False), nn.LayerNorm(channels))
            for _ in config.attention_steps
        )
        self.trans_layers = nn.ModuleList(
            LocalTransformerLayer(
                channels, config.heads, reach=width // 2, max_steps=-(-max_steps // 2**level), dropout=config.dropout
            )
            for level, width in enumerate(config.attention_steps, start=1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, C, S) to one tensor per level, (B, C, S), (B, C, S / 2), …, rounded up.

        Raises:
            ValueError: S exceeds the position table.
        """
        steps = x.shape[-1]
        if steps > len(self.position):
            raise ValueError(f"expected at most {len(self.position)} feature steps, got {x.shape = }")
        tokens: Tensor = self.dropout(x.transpose(1, 2) + self.position[:steps])
        # The first level is the input with positions added, and has no transformer layer.
        levels = [tokens]
        for reduction, layer in zip(self.reductions, self.trans_layers, strict=True):
            tokens = layer(reduction(_pair(tokens)))
            levels.append(tokens)
        return [level.transpose(1, 2) for level in levels]


class LocalTransformerLayer(nn.Module):
    """Post-norm transformer encoder layer in which a step attends only to its neighbours."""

    def __init__(self, channels: int, heads: int, *, reach: int, max_steps: int, dropout: float) -> None:
        super().__init__()
        self.self_attn = LocalAttention(channels, heads, reach=reach, max_steps=max_steps, dropout=dropout)
        self.linear1 = nn.Linear(channels, 4 * channels)
        self.relu = nn.ReLU()
        self.linear2 = nn.Linear(4 * channels, channels)
        self.norm1 = nn.LayerNorm(channels)
        self.norm2 = nn.LayerNorm(channels)
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, S, C) to the same shape."""
        tokens = self.norm1(tokens + self.dropout(self.self_attn(tokens)))
        hidden = self.dropout(self.relu(self.linear1(tokens)))
        out: Tensor = self.norm2(tokens + self.dropout(self.linear2(hidden)))
        return out


class LocalAttention(nn.Module):
    """Multi-head self-attention between steps at most `reach` apart.

    Parameters have the names and layout of `nn.MultiheadAttention`, so its weights can be loaded; its computation is
    written out here because its fast path cannot be exported.
    """

    mask: Tensor

    def __init__(self, channels: int, heads: int, *, reach: int, max_steps: int, dropout: float) -> None:
        super().__init__()
        if channels % heads:
            raise ConfigError(f"pyramid: heads={heads} must divide {channels} channels")
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.in_proj_weight = nn.Parameter(torch.empty(3 * channels, channels))
        self.in_proj_bias = nn.Parameter(torch.zeros(3 * channels))
        self.out_proj = nn.Linear(channels, channels)
        self.dropout = nn.Dropout(dropout)
        position = torch.arange(max_steps)
        near = (position[:, None] - position[None, :]).abs() <= reach
        self.register_buffer("mask", torch.where(near, 0.0, _FAR), persistent=False)
        nn.init.xavier_uniform_(self.in_proj_weight)  # over the whole matrix, as torch does
        nn.init.zeros_(self.out_proj.bias)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map (B, S, C) to the same shape. A zero step that pads an odd length is not masked."""
        steps, channels = tokens.shape[1:]
        qkv = F.linear(tokens, self.in_proj_weight, self.in_proj_bias)
        query, key, value = (
            qkv.reshape(-1, steps, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        logits = (query * self.scale) @ key.transpose(-2, -1) + self.mask[:steps, :steps]
        weights: Tensor = self.dropout(logits.softmax(dim=-1))
        out: Tensor = self.out_proj((weights @ value).transpose(1, 2).reshape(-1, steps, channels))
        return out


class ConvolutionPyramid(nn.Module):
    """Convolutions of stride 2, each with norm and ReLU. Used for ActivityNet (`TDM`)."""

    def __init__(self, channels: int, config: PyramidConfig) -> None:
        """Make the pyramid.

        Raises:
            ConfigError: The norm does not fit the channels.
        """
        super().__init__()
        self.layers = nn.ModuleList(
            ConvNorm(channels, channels, 3, norm=config.norm, stride=2, relu=True) for _ in range(config.levels - 1)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, C, S) to one tensor per level: the input itself, then (B, C, S / 2), …, rounded up."""
        levels = [x]
        for layer in self.layers:
            levels.append(layer(levels[-1]))
        return levels


def sinusoids(steps: int, channels: int) -> Tensor:
    """Position table, shape (steps, channels): sines in even channels, cosines in odd ones.

    Source: Attention is all you need (arXiv 1706.03762), section 3.5.
    """
    position = torch.arange(steps, dtype=torch.float32)[:, None]
    frequency = torch.exp(torch.arange(0, channels, 2, dtype=torch.float32) * (-math.log(10000.0) / channels))
    angle = position * frequency
    return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)


def _pair(tokens: Tensor) -> Tensor:
    """Join steps 2t and 2t + 1 of (B, S, C) into (B, S / 2, 2C); an odd length gets a zero step at the end."""
    tokens = append_zeros(tokens, tokens.shape[1] % 2, dim=1)
    return tokens.reshape(-1, tokens.shape[1] // 2, 2 * tokens.shape[2])


class ConvNorm(nn.Module):
    """Convolution without bias, norm, and optional ReLU.

    The norm is called `bn` or `gn`, as in official checkpoints. A batch norm can be converted to a synchronised
    one (`SyncBatchNorm.convert_sync_batchnorm`) without changing names.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, norm: Norm, stride: int = 1, relu: bool = False
    ) -> None:
        """Make the layer.

        Raises:
            ConfigError: The groups of a group norm do not divide the channels.
        """
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, bias=False)
        self.norm = norm
        match norm:
            case "batch":
                self.bn = nn.BatchNorm1d(out_channels)
            case "group":
                if out_channels % GROUPS:
                    raise ConfigError(f"pyramid: norm=group needs a multiple of {GROUPS} channels, got {out_channels}")
                self.gn = nn.GroupNorm(GROUPS, out_channels)
            case _:
                assert_never(norm)
        self.relu = nn.ReLU() if relu else nn.Identity()
        nn.init.xavier_uniform_(self.conv.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C', S / stride), rounded up."""
        x = self.conv(x)
        x = self.bn(x) if self.norm == "batch" else self.gn(x)
        out: Tensor = self.relu(x)
        return out


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
