"""Small detectors with I3D, an eighth as wide as published."""

from __future__ import annotations

from dataclasses import replace

from tallformer_infer.config import I3dConfig, Recipe, SamplingConfig
from tests.small_detector import SMALL

NARROW = I3dConfig(kind="i3d", narrowing=8)
PIXELS = (127.5, 127.5, 127.5)
I3D: Recipe = replace(
    SMALL,
    name="small-i3d",
    model=replace(SMALL.model, backbone=NARROW),
    sampling=SamplingConfig(resize="squash", resize_px=36, crop_px=32, mean=PIXELS, std=PIXELS),
)
"""Windows of 4 clips of 16 frames, 2 feature steps each; levels of 8, 4 and 2 steps."""
FINE: Recipe = replace(I3D, model=replace(I3D.model, backbone=replace(NARROW, tap="mixed_4f")))
"""With twice the feature steps, and the same levels."""
