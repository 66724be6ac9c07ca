"""Self-attention with a learned bias per relative position, over space-time windows and over feature steps."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tallformer_infer.errors import ConfigError


class BiasedAttention(nn.Module):
    """Multi-head self-attention whose logits get a learned bias that depends on relative position.

    Uses matmul instead of `scaled_dot_product_attention`, which torch 2.13 cannot export to ONNX with a mask.

    Source: Swin transformer (arXiv 2103.14030), eq. 4.
    """

    relative_position_index: Tensor

    def __init__(self, channels: int, heads: int, index: Tensor) -> None:
        """Make the layer.

        Args:
            channels: Channels in and out.
            heads: Attention heads; must divide `channels`.
            index: Row of the bias table for every (query, key), whole numbers from 0, shape (T, T).

        Raises:
            ConfigError: `heads` does not divide `channels`.
        """
        super().__init__()
        if channels % heads:
            raise ConfigError(f"attention: heads={heads} must divide {channels} channels")
        self.heads = heads
        self.scale = (channels // heads) ** -0.5
        rows = _relative_positions(index)
        self.relative_position_bias_table = nn.Parameter(torch.empty(rows, heads))
        # Follows from the configuration, so it is not part of the weights.
        self.register_buffer("relative_position_index", index, persistent=False)
        self.qkv = nn.Linear(channels, 3 * channels)
        self.proj = nn.Linear(channels, channels)
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Attention of every token to all tokens of its row.

        Args:
            tokens: Shape (N, T, C), T at most that of the index.
            mask: Added to the logits, shape (W, T, T), where row `n` of `tokens` uses mask `n % W`.

        Returns:
            Shape (N, T, C).
        """
        steps, channels = tokens.shape[1:]
        qkv: Tensor = self.qkv(tokens)
        query, key, value = (
            qkv.reshape(-1, steps, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        )
        logits = (query * self.scale) @ key.transpose(-2, -1) + self.bias(steps)  # (N, heads, T, T)
        if mask is not None:
            windows = mask.shape[0]
            masked = logits.reshape(-1, windows, self.heads, steps, steps) + mask[:, None]
            logits = masked.reshape(-1, self.heads, steps, steps)
        mixed = (logits.softmax(dim=-1) @ value).transpose(1, 2).reshape(-1, steps, channels)
        out: Tensor = self.proj(mixed)
        return out

    def bias(self, steps: int) -> Tensor:
        """Bias of the logits for `steps` tokens, shape (heads, steps, steps)."""
        # Note [index slice of a smaller window]: for fewer tokens than the index has, its top left corner is used. In
        # one dimension, and if only the time axis of a window is shorter, that is geometrically correct. If a window is
        # smaller in space (stage 4 at 112 px: 4 x 4 instead of 7 x 7) it is not, because row-major token numbers then
        # are other positions. Video Swin and the official code do the same, and weights are trained with it.
        rows = self.relative_position_index[:steps, :steps].reshape(-1)
        biases = self.relative_position_bias_table.index_select(0, rows)
        return biases.reshape(steps, steps, self.heads).permute(2, 0, 1)


class Mlp(nn.Module):
    """Two linear layers with an exact (erf) GELU between."""

    def __init__(self, channels: int, hidden: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(channels, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, C) to (…, C)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class DropPath(nn.Module):
    """Stochastic depth: in training, drops whole samples of a residual branch and scales the rest up.

    Source: Deep networks with stochastic depth (arXiv 1603.09382).
    """

    def __init__(self, rate: float) -> None:
        """Make the layer; `rate` in [0, 1) is the chance that a sample (first axis) is dropped."""
        super().__init__()
        self.rate = rate

    def forward(self, x: Tensor) -> Tensor:
        """Set some of the N samples of `x`, shape (N, …), to zero."""
        if not self.training or self.rate == 0:
            return x
        keep = 1 - self.rate
        kept = torch.empty(x.shape[:1] + (1,) * (x.dim() - 1), dtype=x.dtype, device=x.device).bernoulli_(keep)
        return x * kept / keep

    def extra_repr(self) -> str:
        """Shown by `print(module)`."""
        return f"rate={self.rate}"


def _relative_positions(index: Tensor) -> int:
    """Rows of the bias table: the first token's row is the middle, for a difference of 0 on all axes."""
    if index.is_meta:
        raise ValueError("the index must not be on the meta device: its values determine the size of the table")
    return int(index.max()) + 1
