"""ActionFormer's temporal pyramid: convolutions, then transformer blocks, most of which halve the number of steps.

# Note [steps after the end of a video]
A window may be longer than its video. Steps after the end are set to 0 after every convolution and every block, and
nothing attends to them. Norms have a bias, so after a norm these steps are not 0, and a convolution right after it
(queries, keys and values of a block, the first one of the head) reads that bias at the last step of the video, as in
OpenTAD: weights are trained with it. Input after the end affects the last step only through the first convolution.

Source: ActionFormer (Zhang et al., ECCV 2022, arXiv 2202.07925) as in OpenTAD (github.com/sming256/OpenTAD, commit
3dd7b03, Apache-2.0; behaviour only); scaled residual branches after arXiv 2103.17239.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tallformer_infer.config import PyramidConfig
from tallformer_infer.errors import ConfigError
from tallformer_training.model.attention import DropPath

_FAR = -3e4
"""Added to the logits of masked steps: 0 after the softmax, in float16, too."""
_FIRST_SCALE = 1e-4
"""Initial weight of every residual branch."""
_NORM_EPSILON = 1e-6
"""Epsilon of the norms after convolutions and of levels; norms in blocks have torch's default."""


class TransformerPyramid(nn.Module):
    """Convolutions that map features to the model's channels, and levels of transformer blocks."""

    def __init__(self, in_channels: int, channels: int, config: PyramidConfig) -> None:
        """Make the pyramid.

        Raises:
            ConfigError: `config.heads` does not divide `channels`.
        """
        super().__init__()
        self.embed = nn.ModuleList(
            ConvLayerNorm(channels if index else in_channels, channels) for index in range(config.embed_layers)
        )
        widths = config.attention_steps or (None,) * config.levels
        self.stem = nn.ModuleList(
            ConvTransformerBlock(channels, config, stride=1, width=widths[0]) for _ in range(config.stem_layers)
        )
        self.branch = nn.ModuleList(
            ConvTransformerBlock(channels, config, stride=2, width=width) for width in widths[1:]
        )

    def forward(self, features: Tensor, masks: list[Tensor]) -> list[Tensor]:
        """Map features to levels.

        Args:
            features: Shape (B, C', S).
            masks: 1 for steps of the video, 0 after its end, per level, shape (B, 1, S), (B, 1, S / 2), …, rounded up.

        Returns:
            One tensor per level, (B, C, S), (B, C, S / 2), …, rounded up.
        """
        x = features
        for embed in self.embed:
            x = embed(x, masks[0])
        for block in self.stem:
            x = block(x, masks[0])
        levels = [x]
        for block, mask in zip(self.branch, masks[1:], strict=True):
            levels.append(block(levels[-1], mask))
        return levels


class ConvLayerNorm(nn.Module):
    """Convolution of three steps without bias, layer norm over the channels, ReLU."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv1d(in_channels, out_channels, 3, padding=1, bias=False)
        self.norm = nn.LayerNorm(out_channels, eps=_NORM_EPSILON)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C', S), 0 where `mask`, shape (B, 1, S), is 0."""
        normed = over_channels(self.norm, self.conv(x) * mask)
        return normed.relu() * mask


class ConvTransformerBlock(nn.Module):
    """Pre-norm transformer block; with a stride of 2 it halves the number of steps, and its shortcut is a max pool."""

    def __init__(self, channels: int, config: PyramidConfig, *, stride: int, width: int | None) -> None:
        super().__init__()
        self.ln1 = nn.LayerNorm(channels)
        self.ln2 = nn.LayerNorm(channels)
        self.attn = ConvAttention(channels, config.heads, stride=stride, width=width)
        self.pool = nn.MaxPool1d(3, stride=2, padding=1) if stride == 2 else nn.Identity()
        self.fc1 = nn.Conv1d(channels, 4 * channels, 1)
        self.act = nn.GELU()
        self.fc2 = nn.Conv1d(4 * channels, channels, 1)
        self.attn_scale = nn.Parameter(torch.full((1, channels, 1), _FIRST_SCALE))
        self.mlp_scale = nn.Parameter(torch.full((1, channels, 1), _FIRST_SCALE))
        self.drop_path = DropPath(config.drop_path)
        for conv in (self.fc1, self.fc2):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, out_mask: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C, S / stride), rounded up; `out_mask` masks the output, (B, 1, S / stride)."""
        attended = self.attn(over_channels(self.ln1, x), out_mask)
        x = self.pool(x) * out_mask + self.drop_path(self.attn_scale * attended)
        hidden = self.fc2(self.act(self.fc1(over_channels(self.ln2, x))))
        out: Tensor = x + self.drop_path(self.mlp_scale * (hidden * out_mask))
        return out


class ConvAttention(nn.Module):
    """Multi-head self-attention with queries, keys and values from depthwise convolutions."""

    def __init__(self, channels: int, heads: int, *, stride: int, width: int | None) -> None:
        """Make the layer.

        Args:
            channels: Channels in and out.
            heads: Attention heads; must divide `channels`.
            stride: Input steps per output step.
            width: Steps that a step attends to, centred on itself; None for all.

        Raises:
            ConfigError: `heads` does not divide `channels`.
        """
        super().__init__()
        if channels % heads:
            raise ConfigError(f"pyramid: heads={heads} must divide {channels} channels")
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        self.reach = None if width is None else width // 2
        self.query_conv, self.key_conv, self.value_conv = (
            nn.Conv1d(channels, channels, 3, stride=stride, padding=1, groups=channels, bias=False) for _ in range(3)
        )
        self.query_norm, self.key_norm, self.value_norm = (nn.LayerNorm(channels) for _ in range(3))
        self.query, self.key, self.value, self.proj = (nn.Conv1d(channels, channels, 1) for _ in range(4))
        for conv in (self.query, self.key, self.value, self.proj):
            assert conv.bias is not None
            nn.init.zeros_(conv.bias)

    def forward(self, x: Tensor, out_mask: Tensor) -> Tensor:
        """Map (B, C, S) to (B, C, S / stride), rounded up; `out_mask` masks the output, (B, 1, S / stride)."""
        query = self._split(self.query(over_channels(self.query_norm, self.query_conv(x) * out_mask)))
        key = self._split(self.key(over_channels(self.key_norm, self.key_conv(x) * out_mask)))
        value = self._split(self.value(over_channels(self.value_norm, self.value_conv(x) * out_mask)))
        logits = (query * self.scale) @ key.transpose(-2, -1) + self._unseen(out_mask)
        mixed = (logits.softmax(dim=-1) @ value).transpose(-2, -1).flatten(1, 2)  # (B, C, S')
        out: Tensor = self.proj(mixed) * out_mask
        return out

    def _split(self, x: Tensor) -> Tensor:
        """(B, C, S) to (B, heads, S, C / heads)."""
        return x.reshape(-1, self.heads, x.shape[1] // self.heads, x.shape[2]).transpose(-2, -1)

    def _unseen(self, mask: Tensor) -> Tensor:
        """Mask added to the logits, shape (B, 1, 1 or S, S)."""
        behind = (1 - mask)[:, None] * _FAR
        if self.reach is None:
            return behind
        position = torch.arange(mask.shape[-1], device=mask.device)
        is_far = (position[:, None] - position[None, :]).abs() > self.reach
        return behind + is_far.to(mask.dtype) * _FAR


class LevelNorms(nn.Module):
    """A layer norm over the channels of every level, instead of a feature pyramid network."""

    def __init__(self, channels: int, *, levels: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(channels, eps=_NORM_EPSILON) for _ in range(levels))

    def forward(self, levels: list[Tensor]) -> list[Tensor]:
        """Map every level (B, C, S) to the same shape; steps after the end of a video get the norm's bias."""
        return [over_channels(norm, level) for norm, level in zip(self.norms, levels, strict=True)]


def level_masks(real_frames: Tensor, steps: int, level_strides: tuple[int, ...]) -> list[Tensor]:
    """Masks of the steps of every level that are in the video, see Note [steps after the end of a video].

    Args:
        real_frames: Frames of each window that belong to the video, shape (B,). An incomplete last step does not
            count, but at least one step does.
        steps: Steps S of the finest level.
        level_strides: Frames per step of each level.

    Returns:
        1 or 0 per level, shape (B, 1, S), (B, 1, S / 2), …, rounded up, float32.
    """
    finest = level_strides[0]
    whole = torch.div(real_frames, finest, rounding_mode="floor").clamp(min=1) * finest
    masks = []
    for stride in level_strides:
        starts = torch.arange(steps, device=real_frames.device) * stride
        masks.append((starts < whole[:, None]).float()[:, None])
        steps = -(-steps // 2)
    return masks


def over_channels(norm: nn.Module, x: Tensor) -> Tensor:
    """A layer norm over the channels of (B, C, S)."""
    out: Tensor = norm(x.transpose(1, 2)).transpose(1, 2)
    return out
