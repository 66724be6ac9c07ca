"""Small detectors with ActionFormer's pyramid and head: one that sees a window as one clip, one with clips."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from tallformer_infer.config import (
    CandidateConfig,
    PointHeadConfig,
    PyramidConfig,
    Recipe,
    SuppressConfig,
    WindowConfig,
)
from tests.opentad_model import Sizes, shapes
from tests.small_detector import SMALL

CLIPS: Recipe = replace(
    SMALL,
    name="points",
    model=replace(
        SMALL.model,
        tcm=None,
        pyramid=PyramidConfig(
            kind="transformer", levels=4, heads=4, attention_steps=(), fpn_channels=32, drop_path=0.0
        ),
        head=PointHeadConfig(kind="points"),
    ),
    sampling=replace(SMALL.sampling, fill="edge"),
    candidates=CandidateConfig(per_window=60),
    suppress=SuppressConfig(method="soft_gaussian", sigma=0.7, score_threshold=0.001, max_per_video=200),
)
"""Windows of 64 frames in clips of 16; levels of 32, 16, 8 and 4 steps."""
WHOLE_WINDOW: Recipe = replace(
    CLIPS, name="one clip", window=WindowConfig(window_frames=64, clip_frames=64, overlap=0.5)
)
SIZES = Sizes(
    embed=16, depths=(2, 2), heads=(1, 2), window=(4, 3, 3), channels=32, classes=2, branches=3, attention_heads=4
)
"""Those of both, for `opentad_model`."""


def opentad_weights(sizes: Sizes = SIZES, *, seed: int = 0) -> dict[str, Tensor]:
    """Random weights by OpenTAD's names, none of them near what a fresh model has; derived tables are left out."""
    generator = torch.Generator().manual_seed(seed)
    return {
        name: torch.randn(shape, generator=generator) * (0.3 if name.endswith(("bias", "scale")) else 0.2)
        + (1.0 if "norm" in name and name.endswith("weight") else 0.0)
        for name, shape in shapes(sizes).items()
        if not name.endswith("relative_position_index")
    } | {"rpn_head.loss_normalizer": torch.tensor(143.5)}
