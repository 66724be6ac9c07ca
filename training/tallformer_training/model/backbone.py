"""Video Swin transformer: one clip of frames to one feature map.

# Note [long clips are processed in slabs]
A clip of a minute is 64 attention windows long. Keys, logits and hidden layers of all windows at once would take tens
of gigabytes, and so would the mask of shifted windows as a constant of a graph. But attention is confined to windows:
after the shift in time, processing a few windows at a time gives the same result, with the masks of a clip of two
windows, whose first one is used for all but the last. More windows at a time take more memory, fewer make graphs
longer. In training each slab has its own stochastic depth, as each clip has if clips are short.

# Note [a stem that sees motion]
Video Swin projects each patch of two frames linearly. That works pretrained on Kinetics; from random weights, on small
moving objects, it hides motion: colours dominate changes, and the norm after it amplifies the noise of static patches.
`MotionStem` computes differences between frames and reduces them to patches in several convolutions. It has batch norms
instead of layer norms, so static patches stay small.

Source: convolutions before attention after Xiao et al. (arXiv 2106.14881); differences of frames as the input of an
action recogniser after Wang et al. (arXiv 1608.00859).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from tallformer_infer.config import BackboneConfig, PatchSize
from tallformer_training.model.attention import BiasedAttention, DropPath, Mlp
from tallformer_training.model.windows import (
    Size,
    append_zeros,
    cut_windows,
    fit_window,
    join_windows,
    pad_to_windows,
    roll,
    shift_mask,
    window_index,
)

_NO_SHIFT: Size = (0, 0, 0)
_MASK_WINDOWS, _SLAB_WINDOWS = 2, 8
"""Attention windows in time in the mask of a long clip, and windows processed at a time."""

RunBlock = Callable[[Tensor, Size, Size, Tensor | None], Tensor]
"""A block, or its recomputation in the backward pass."""

_GAIN = 3.0
"""Scales differences of normalised frames to the range of frames."""


class VideoSwin(nn.Module):
    """Encoder of clips: patch embedding, stages of windowed attention, final norm.

    Source: Video Swin transformer (arXiv 2106.13230).
    """

    stem_name = "patch_embed"

    def __init__(self, config: BackboneConfig, *, clip_size: Size | None = None, checkpointing: bool = False) -> None:
        """Make the encoder with random weights.

        Args:
            config: Sizes of the encoder.
            clip_size: Usual number of frames, height and width in pixels. Masks for that size are computed once and
                are constants of an exported graph; for other sizes they are computed in every call.
            checkpointing: Recompute the blocks of trained stages in the backward pass instead of keeping their
                activations.
        """
        super().__init__()
        self.stride_frames = config.stride_frames
        self.frozen_stages = config.frozen_stages
        self.checkpointing = checkpointing
        self._keeps_norms = False
        self.pooling = config.pooling
        stem = MotionStem if config.stem == "motion" else PatchEmbedding
        self.patch_embed = stem(config.patch, config.embed_channels)
        rates = torch.linspace(0, config.drop_path, sum(config.depths), device="cpu").tolist()
        sizes = _map_sizes(clip_size, config)
        index = window_index(config.window)  # shared by all blocks, so that an exported graph contains it once
        self.layers = nn.ModuleList(
            Stage(config, stage, index, rates=rates[sum(config.depths[:stage]) :][:depth], size=sizes[stage])
            for stage, depth in enumerate(config.depths)
        )
        self.norm = nn.LayerNorm(config.out_channels)
        self.apply(_initialise)
        self._freeze()

    def forward(self, clips: Tensor) -> Tensor:
        """Encode clips.

        Args:
            clips: Normalised RGB, shape (N, 3, F, H, W).

        Returns:
            Feature maps, channels last, shape (N, F / 2, H / 32, W / 32, C), rounded up.
        """
        out: Tensor = self.norm(self._maps(clips))
        return out

    def steps(self, clips: Tensor) -> Tensor:
        """Encode clips to feature steps, pooled over space as the configuration says.

        Args:
            clips: Normalised RGB, shape (N, 3, F, H, W).

        Returns:
            Shape (N, C, F / 2), rounded up.
        """
        if self.pooling == "max":
            pooled: Tensor = self.norm(self._maps(clips).amax(dim=(2, 3)))
        else:
            pooled = self(clips).mean(dim=(2, 3))
        return pooled.transpose(1, 2)

    def keep_norms(self) -> None:
        """Freeze the statistics of a motion stem's batch norms in training."""
        self._keeps_norms = True

    def _maps(self, clips: Tensor) -> Tensor:
        """The maps of the last stage, before the norm."""
        x: Tensor = self.patch_embed(clips)
        for index, stage in enumerate(self.layers):
            keep_activations = not (self.checkpointing and self.training and index >= self.frozen_stages)
            x = stage(x, keep_activations=keep_activations or not torch.is_grad_enabled())
        return x

    def train(self, mode: bool = True) -> Self:
        """Set training mode, except in frozen stages and kept norms, which stay in evaluation mode."""
        super().train(mode)
        self._freeze()
        if self._keeps_norms:
            for module in self.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def _freeze(self) -> None:
        """Freeze the patch embedding and the first `frozen_stages` stages with the merging at their end."""
        if self.frozen_stages < 0:
            return
        for module in (self.patch_embed, *self.layers[: self.frozen_stages]):
            module.eval()
            module.requires_grad_(False)


class Stage(nn.Module):
    """Blocks of one resolution, windows shifted in every second one, then halving of height and width."""

    mask: Tensor | None

    def __init__(
        self, config: BackboneConfig, stage: int, index: Tensor, *, rates: list[float], size: Size | None
    ) -> None:
        """Make a stage.

        Args:
            config: Sizes.
            stage: Number of the stage, from 0.
            index: Relative positions in a window (`window_index`).
            rates: Stochastic depth of each block.
            size: Size of the maps for which a mask is stored.
        """
        super().__init__()
        channels = config.embed_channels * 2**stage
        hidden = int(channels * config.mlp_ratio)
        self.window = config.window
        self.blocks = nn.ModuleList(
            Block(BiasedAttention(channels, config.heads[stage], index), hidden, drop_path=rate) for rate in rates
        )
        last = stage == len(config.depths) - 1
        self.downsample = None if last else PatchMerging(channels)
        self.mask_size = size
        self.register_buffer("mask", None if size is None else self._make_mask(size, None), persistent=False)

    def forward(self, x: Tensor, *, keep_activations: bool = True) -> Tensor:
        """Map (N, D, H, W, C) to (N, D, H / 2, W / 2, 2C), or to the same shape in the last stage."""
        size: Size = (x.shape[1], x.shape[2], x.shape[3])
        window, shift = fit_window(size, self.window)
        mask = self.mask if size == self.mask_size else self._make_mask(size, x.device)
        is_long = _is_long(size, window)
        for index, block in enumerate(self.blocks):
            run = block if keep_activations else _recomputed(block)
            inputs = (x, window, shift, mask) if index % 2 else (x, window, _NO_SHIFT, None)
            x = _by_slabs(run, *inputs) if is_long else run(*inputs)
        return x if self.downsample is None else self.downsample(x)

    def _make_mask(self, size: Size, device: torch.device | None) -> Tensor | None:
        """Mask of the shifted blocks, shape (windows, tokens, tokens); None if there is none or no axis is shifted.

        For long clips it is the mask of two windows in time, see Note [long clips are processed in slabs].
        """
        window, shift = fit_window(size, self.window)
        if _is_long(size, window):
            size = (_MASK_WINDOWS * window[0], *size[1:])
        return shift_mask(size, window, shift, device) if any(shift) and len(self.blocks) > 1 else None


class Block(nn.Module):
    """Windowed attention, then an MLP, each after a norm and inside a residual connection."""

    def __init__(self, attention: BiasedAttention, hidden: int, *, drop_path: float) -> None:
        super().__init__()
        channels = attention.proj.out_features
        self.norm1 = nn.LayerNorm(channels)
        self.attn = attention
        self.drop_path = DropPath(drop_path)
        self.norm2 = nn.LayerNorm(channels)
        self.mlp = Mlp(channels, hidden)

    def forward(self, x: Tensor, window: Size, shift: Size, mask: Tensor | None) -> Tensor:
        """Map (N, D, H, W, C) to the same shape; `mask` belongs to `window` and `shift`."""
        x = x + self.drop_path(self._attend(x, window, shift, mask))
        out: Tensor = x + self.drop_path(self.mlp(self.norm2(x)))
        return out

    def _attend(self, x: Tensor, window: Size, shift: Size, mask: Tensor | None) -> Tensor:
        depth, height, width = x.shape[1:4]
        # Padding comes after the norm, so padded tokens are zero, and take part in the attention.
        x = roll(pad_to_windows(self.norm1(x), window), shift)
        padded: Size = (x.shape[1], x.shape[2], x.shape[3])
        windows = self.attn(cut_windows(x, window), mask)
        x = roll(join_windows(windows, window, padded), shift, back=True)
        if padded != (depth, height, width):
            x = x[:, :depth, :height, :width]
        return x


class PatchMerging(nn.Module):
    """Merges 2 x 2 neighbours into one position with twice the channels; time is unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, D, H, W, C) to (N, D, H / 2, W / 2, 2C); odd sizes are padded with zeros at the end."""
        x = pad_to_windows(x, (1, 2, 2))
        depth, height, width, channels = x.shape[1:]
        # Neighbours (h, w) in the order (0, 0), (1, 0), (0, 1), (1, 1): width is the slower one.
        pairs = x.reshape(-1, depth, height // 2, 2, width // 2, 2, channels).permute(0, 1, 2, 4, 5, 3, 6)
        merged = pairs.reshape(-1, depth, height // 2, width // 2, 4 * channels)
        out: Tensor = self.reduction(self.norm(merged))
        return out


def _recomputed(block: nn.Module) -> RunBlock:
    def run(x: Tensor, window: Size, shift: Size, mask: Tensor | None) -> Tensor:
        out: Tensor = checkpoint(block, x, window, shift, mask, use_reentrant=False)
        return out

    return run


def _is_long(size: Size, window: Size) -> bool:
    return size[0] > _MASK_WINDOWS * window[0] and size[0] % window[0] == 0


def _by_slabs(run: RunBlock, x: Tensor, window: Size, shift: Size, mask: Tensor | None) -> Tensor:
    """A block on a long map, see Note [long clips are processed in slabs].

    Args:
        run: The block.
        x: Shape (N, D, H, W, C), D a multiple of the window's length.
        window: Fitted window.
        shift: Shift per axis.
        mask: Mask of a map of two windows in time, or None.
    """
    in_time, in_space = (shift[0], 0, 0), (0, *shift[1:])
    x = roll(x, in_time)
    alike = x.shape[1] - _MASK_WINDOWS * window[0]
    first_mask = None if mask is None else mask[: mask.shape[0] // _MASK_WINDOWS]
    done = [
        run(slab, window, in_space, first_mask) for slab in torch.split(x[:, :alike], _SLAB_WINDOWS * window[0], dim=1)
    ]
    return roll(torch.cat([*done, run(x[:, alike:], window, in_space, mask)], dim=1), in_time, back=True)


def _map_sizes(clip_size: Size | None, config: BackboneConfig) -> list[Size | None]:
    """Size of the maps in each stage, for clips of that many frames and pixels."""
    if clip_size is None:
        return [None] * len(config.depths)
    depth, height, width = (-(-length // step) for length, step in zip(clip_size, config.patch, strict=True))
    return [(depth, -(-height // 2**stage), -(-width // 2**stage)) for stage in range(len(config.depths))]


def _initialise(module: nn.Module) -> None:
    """Initialise linear layers as in Swin, norms to 1 and 0, and convolutions as torch does."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


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
            patch: Stride: 2 frames, and a power of two of pixels.
            channels: Channels of the result; each convolution has half as many as the next.
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
        before = torch.cat([clips[:, :, :1], clips[:, :, :-1]], dim=2)  # the first frame has no predecessor
        x = (clips - before) * _GAIN
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = F.relu(norm(conv(x)))
        return x.permute(0, 2, 3, 4, 1)


def _whole_patches(clips: Tensor, patch: PatchSize) -> Tensor:
    for dim, step in enumerate(patch, start=2):
        clips = append_zeros(clips, -clips.shape[dim] % step, dim=dim)
    return clips
