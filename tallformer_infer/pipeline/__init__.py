"""From a video file to actions."""

from __future__ import annotations

from tallformer_infer.pipeline.detector import Detector, choose_windows
from tallformer_infer.pipeline.operating import choose_point
from tallformer_infer.pipeline.progress import Progress
from tallformer_infer.pipeline.rates import choose_layout

__all__ = ["Detector", "Progress", "choose_layout", "choose_point", "choose_windows"]
