"""A small detector with I3D, an eighth as wide as published, and the contrast head."""

from __future__ import annotations

from dataclasses import replace

from tallformer_infer.config import (
    CandidateConfig,
    ContrastHeadConfig,
    ModelConfig,
    Recipe,
    SamplingConfig,
    SuppressConfig,
    WindowConfig,
)
from tests.i3d_recipe import NARROW, PIXELS

HEAD = ContrastHeadConfig(
    kind="contrast", lengths_steps=(2, 4), margin_part=0.5, least_margin_steps=1, most_margin_steps=2, smoothing_steps=1
)
"""Margins of 1 and 2 steps, all starts; a score depends on 2 steps around its segment at most."""
CONTRAST = Recipe(
    name="contrast",
    classes=tuple("abcdefg"),
    model=ModelConfig(backbone=NARROW, tcm=None, head=HEAD),
    sampling=SamplingConfig(
        sample_fps=8.0, resize="squash", resize_px=32, crop_px=32, mean=PIXELS, std=PIXELS, fill="edge"
    ),
    window=WindowConfig(window_frames=192, clip_frames=16, overlap=2 / 3, ends_partly=True),
    candidates=CandidateConfig(per_window=60),
    suppress=SuppressConfig(score_threshold=0.001),
)
"""Windows of 12 clips, 24 steps of a second each, that step by 8 steps."""


def with_head(**changes: object) -> Recipe:
    """The same with other settings of the head."""
    head = replace(HEAD, **changes)  # type: ignore[arg-type]
    return replace(CONTRAST, model=replace(CONTRAST.model, head=head))
