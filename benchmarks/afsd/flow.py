"""Optical flow as input of AFSD and the classifier: TV-L1, clamped to 20 pixels, as JPEG.

The authors used OpenCV's CUDA class; this is OpenCV's class for the CPU with its defaults, from
`pip install opencv-contrib-python-headless`. OpenCV's own threads do not speed it up, so every thread processes its own
pair of frames.

Source: Zach et al. (TV-L1, DAGM 2007); settings of open-mmlab/denseflow (commit da2cc5e): `-a=tvl1 -s=1 -b=20`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

BOUND_PX = 20.0
"""Larger displacements are clamped."""

Gray = NDArray[np.uint8]
Pair = tuple[Gray, Gray]


class FlowPool:
    """Computes flow on several threads."""

    def __init__(self, threads: int) -> None:
        cv2.setNumThreads(1)
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="flow")
        self._own = threading.local()

    def flows(self, pairs: Sequence[Pair]) -> tuple[list[NDArray[np.uint8]], list[float]]:
        """Flow of pairs of frames (H, W), each (H, W, 2) in bytes, and the seconds of each."""
        done = list(self._pool.map(self._flow, pairs))
        return [flow for flow, _ in done], [seconds for _, seconds in done]

    def _flow(self, pair: Pair) -> tuple[NDArray[np.uint8], float]:
        started = time.perf_counter()
        if not hasattr(self._own, "method"):
            self._own.method = cv2.optflow.createOptFlow_DualTVL1()
        flow = as_stored(tv_l1(*pair, self._own.method))
        return flow, time.perf_counter() - started


def tv_l1(before: Gray, after: Gray, method: Any = None) -> NDArray[np.float32]:
    """Displacement of every pixel between two gray frames (H, W), to the right and down, shape (H, W, 2)."""
    method = method or cv2.optflow.createOptFlow_DualTVL1()
    flow: NDArray[np.float32] = method.calc(before, after, None)
    return flow


def as_stored(flow: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Displacements in bytes, -20 to 20 pixels as 0 to 255, after JPEG compression as in the authors' files."""
    scaled = np.clip((flow + BOUND_PX) * (255 / (2 * BOUND_PX)), 0, 255).round().astype(np.uint8)
    planes = []
    for axis in range(2):
        _, written = cv2.imencode(".jpg", scaled[..., axis])
        planes.append(cv2.imdecode(written, cv2.IMREAD_GRAYSCALE))
    return np.stack(planes, axis=-1)
