"""Anchor head: class logits and segment offsets for every anchor of every level.

Source: RetinaNet (arXiv 1708.02002), over time.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from torch import Tensor, nn

from tallformer_infer.config import HeadConfig
from tallformer_training.model.conv_norm import ConvNorm

_PRIOR = 0.01
"""Score that every anchor and class starts with."""


class HeadOutputs(NamedTuple):
    """What the head says, per level, finest first."""

    logits: list[Tensor]
    """Per level (B, scales * K, S); channel `scale * K + class`."""
    regressions: list[Tensor]
    """Per level (B, scales * 2, S); channel `scale * 2` moves the centre, the next one stretches the length."""


class AnchorHead(nn.Module):
    """Two convolution towers, shared by all levels, batch norm statistics included."""

    def __init__(self, in_channels: int, classes: int, config: HeadConfig) -> None:
        super().__init__()
        self.cls_convs = _tower(in_channels, config)
        self.reg_convs = _tower(in_channels, config)
        self.retina_cls = nn.Conv1d(config.channels, config.scales * classes, 3, padding=1)
        self.retina_reg = nn.Conv1d(config.channels, config.scales * 2, 3, padding=1)
        self._initialise()

    def forward(self, levels: list[Tensor]) -> HeadOutputs:
        """Run on each level (B, C, S), finest first.

        In training every batch norm sees the levels one after another, with the statistics of that level alone.
        """
        return HeadOutputs(
            [self.retina_cls(self.cls_convs(level)) for level in levels],
            [self.retina_reg(self.reg_convs(level)) for level in levels],
        )

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv1d):
                nn.init.normal_(module.weight, std=0.01)
        for predictor in (self.retina_cls, self.retina_reg):
            assert predictor.bias is not None
            nn.init.zeros_(predictor.bias)
        assert self.retina_cls.bias is not None
        nn.init.constant_(self.retina_cls.bias, -math.log((1 - _PRIOR) / _PRIOR))


def _tower(in_channels: int, config: HeadConfig) -> nn.Sequential:
    # Batch norm whatever the pyramid's norm is: the official head has no other.
    return nn.Sequential(
        *(
            ConvNorm(config.channels if index else in_channels, config.channels, 3, norm="batch", relu=True)
            for index in range(config.stacked_convs)
        )
    )
