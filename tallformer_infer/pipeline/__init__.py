"""From a video file to actions."""

from __future__ import annotations

from tallformer_infer.pipeline.choices import choose_layout, choose_point, choose_windows
from tallformer_infer.pipeline.detector import Detector, StreamStep
from tallformer_infer.pipeline.road import Progress

__all__ = ["Detector", "Progress", "StreamStep", "choose_layout", "choose_point", "choose_windows"]
