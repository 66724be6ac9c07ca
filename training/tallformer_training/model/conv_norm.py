"""The building block of the pyramids and the head: convolution over time, norm, sometimes ReLU."""

from __future__ import annotations

from typing import assert_never

from torch import Tensor, nn

from tallformer_infer.config import GROUPS, Norm
from tallformer_infer.errors import ConfigError


class ConvNorm(nn.Module):
    """Convolution without bias, norm, and ReLU if asked for.

    The norm is called `bn` or `gn`, as in official checkpoints. A batch norm may be turned into a synchronised one
    (`SyncBatchNorm.convert_sync_batchnorm`) without any change of names.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel: int, *, norm: Norm, stride: int = 1, relu: bool = False
    ) -> None:
        """Make the layer.

        Raises:
            ConfigError: A group norm is asked for and its groups do not divide the channels.
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
