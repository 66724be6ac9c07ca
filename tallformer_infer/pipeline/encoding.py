"""Clips to features, in batches that suit the device."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.clips import Clip
from tallformer_infer.config import Recipe
from tallformer_infer.runtime import Cancellation, Runtime


@dataclass(frozen=True)
class EncodedClip:
    """Feature steps of one clip."""

    start_frame: int
    """First frame, counted from the start of the video."""
    real_frames: int
    """Frames that belong to the video."""
    features: NDArray[np.float32]
    """Shape (C, clip steps)."""


class Encoder(Protocol):
    """Turns clips into features, from one thread."""

    cancellation: Cancellation
    """Stops it from another thread."""

    @property
    def encode_s(self) -> float:
        """Time spent in the runtime so far, in seconds."""

    def encode(self, clips: Iterable[Clip]) -> Iterator[EncodedClip]:
        """Each clip's features, in the order of the clips."""

    def encode_empty(self) -> NDArray[np.float32]:
        """Features of a clip beyond the end of the video, shape (C, clip steps)."""


class ClipEncoder:
    """Encodes clips with a runtime and counts the time it takes."""

    def __init__(self, runtime: Runtime, recipe: Recipe) -> None:
        self._runtime = runtime
        self._recipe = recipe
        self.cancellation = Cancellation()
        """Stops it from another thread."""
        self.encode_s = 0.0
        """Time spent in the runtime, in seconds."""

    def encode(self, clips: Iterable[Clip]) -> Iterator[EncodedClip]:
        """Each clip's features, in the order of the clips."""
        remaining = iter(clips)
        while batch := list(itertools.islice(remaining, self._runtime.clips_at_once)):
            pixels = np.stack([clip.frames for clip in batch])
            real_frames = np.array([clip.real_frames for clip in batch], np.int64)
            features = self._run(pixels, real_frames)
            for clip, steps in zip(batch, features, strict=True):
                yield EncodedClip(clip.start_frame, clip.real_frames, steps)

    def encode_empty(self) -> NDArray[np.float32]:
        """Features of a clip beyond the end of the video, shape (C, clip steps)."""
        side = self._recipe.sampling.crop_px
        pixels = np.zeros((1, self._recipe.window.clip_frames, side, side, 3), np.uint8)
        features: NDArray[np.float32] = self._run(pixels, np.zeros(1, np.int64))[0]
        return features

    def _run(self, pixels: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> NDArray[np.float32]:
        started = time.perf_counter()
        features = self._runtime.encode(pixels, real_frames, self.cancellation)
        self.encode_s += time.perf_counter() - started
        return features
