"""Whether `detect` runs on a device: the default model is loaded there, and takes one clip and one window."""

from __future__ import annotations

from typing import Any, cast

import numpy as np

from tallformer_infer.pipeline import Detector
from tallformer_infer.runtime import Device


def run_device(device: str) -> dict[str, Any]:
    """Load the default model as `detect --device` does, and run its graphs on black frames.

    Raises:
        TallformerError: The device cannot be had, or there is no model to try it with.
    """
    detector = Detector.load(device=cast(Device, device))
    recipe, runtime = detector.bundle.recipe, detector.runtime
    frames, side = recipe.window.clip_frames, recipe.sampling.crop_px
    clip = np.zeros((1, frames, side, side, 3), np.uint8)
    step = runtime.encode(clip, np.array([frames], np.int64))
    clips = recipe.window.window_frames // frames
    window = np.tile(step, (1, 1, clips))
    found = runtime.localize(window, np.zeros(1, np.int64), np.array([recipe.window.window_frames], np.int64))
    runtime.suppress(found)
    return {"device": detector.device, "reason": runtime.device_reason, "runtime": runtime.name}
