"""The `Runtime` protocol, and what its implementations share: cancellation, batches, ports and the score threshold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import Recipe
from tallformer_infer.devices import RunsOn
from tallformer_infer.errors import BundleError, StoppedError
from tallformer_infer.structures import Candidates, Proposals

_MOST_CLIPS = 8
"""More gain nothing, and each needs memory of its own."""
_MOST_PIXELS = 1024 * 224 * 224
"""Of all clips together: a window of a minute that is one clip, which takes gigabytes by itself."""


class Cancellation:
    """Ends the calls of one run of a video from another thread: those that run now, and all later ones."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._stops: list[Callable[[], None]] = []

    def cancel(self) -> None:
        """Stop now. May be called again."""
        with self._lock:
            self._cancelled = True
            for stop in self._stops:
                stop()

    @property
    def is_cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    @contextmanager
    def stopping(self, stop: Callable[[], None]) -> Iterator[None]:
        """Have `stop` called if the block is cancelled.

        Raises:
            StoppedError: It was cancelled before the block began.
        """
        with self._lock:
            if self._cancelled:
                raise StoppedError("stopped before the video was done")
            self._stops.append(stop)
        try:
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)


class Runtime(Protocol):
    """Runs the graphs of one bundle. Steps may be called from one thread each, `encode` as `clips_per_call` says."""

    @property
    def name(self) -> str:
        """Name and version of the library that runs the graphs."""

    @property
    def device(self) -> RunsOn:
        """Where the graphs run."""

    @property
    def precision(self) -> str:
        """What the encoder computes in: its graph's precision, unless another was asked for when it was loaded."""

    @property
    def device_reason(self) -> str:
        """Why that device was chosen, for people."""

    @property
    def clips_at_once(self) -> int:
        """Clips that the device encodes best at the same time."""

    @property
    def clips_per_call(self) -> int:
        """How many of these one call of `encode` takes; the others go into calls from other threads."""

    def encode(
        self,
        clips: NDArray[np.uint8],
        real_frames: NDArray[np.int64],
        cancellation: Cancellation | None = None,
    ) -> NDArray[np.float32]:
        """Clips to feature steps.

        Args:
            clips: RGB pixels, shape (N, F, H, W, 3).
            real_frames: Frames of each clip that belong to the video, 0 to F, shape (N,). Those beyond are zero
                *after* normalisation, whatever their pixels.
            cancellation: Stops the call from another thread.

        Raises:
            StoppedError: It was stopped.

        Returns:
            Features, shape (N, C, F / encoder stride).
        """

    def localize(
        self,
        features: NDArray[np.float32],
        start_frames: NDArray[np.int64],
        real_frames: NDArray[np.int64],
    ) -> Candidates:
        """Windows of feature steps to candidates above the recipe's score threshold.

        Args:
            features: Shape (B, C, S).
            start_frames: First frame of each window, shape (B,).
            real_frames: Frames of each window that belong to the video, shape (B,).
        """

    def suppress(self, candidates: Candidates) -> Candidates:
        """Candidates of a whole video to its actions, sorted by falling score."""


@runtime_checkable
class ProposingRuntime(Runtime, Protocol):
    """A runtime that also tells proposals and classes apart, for models whose head gives both (`refined`)."""

    def propose(
        self,
        features: NDArray[np.float32],
        start_frames: NDArray[np.int64],
        real_frames: NDArray[np.int64],
    ) -> Proposals:
        """One window of feature steps to proposals, and to what the window shows.

        Args:
            features: Shape (1, C, S).
            start_frames: First frame of the window, shape (1,).
            real_frames: Frames of the window that belong to the video, shape (1,).

        Raises:
            BundleError: The localizer of the bundle does not give them.
        """


def most_clips(recipe: Recipe) -> int:
    """Clips that an encoder may see at once without taking more memory than one very long clip."""
    pixels = recipe.window.clip_frames * recipe.sampling.crop_px**2
    return min(max(_MOST_PIXELS // pixels, 1), _MOST_CLIPS)


@dataclass(frozen=True)
class Port:
    """An input or output."""

    name: str
    """As in the graph."""
    item_shape: tuple[int, ...]
    """Without the batch."""
    dtype: np.dtype[Any]
    """Of its numbers."""
    is_input: bool
    """Or an output."""

    def size_bytes(self, rows: int) -> int:
        """Of so many items."""
        return rows * int(np.prod(self.item_shape)) * self.dtype.itemsize


def split_batches(rows: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` rows that cover all; none for no rows."""
    for start in range(0, rows, most):
        yield slice(start, min(start + most, rows))


def candidates_above_threshold(
    segments: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], *, recipe: Recipe, given_by: str
) -> Candidates:
    """Candidates above the recipe's score threshold, of all windows together.

    Args:
        segments: In frames, shape (B, P, 2).
        scores: Shape (B, P).
        classes: Indices, shape (B, P).
        recipe: Names the classes.
        given_by: Bundle and graph, for the message.

    Raises:
        BundleError: There is a class that the recipe does not name.
    """
    if classes.size and not 0 <= classes.min() <= classes.max() < len(recipe.classes):
        raise BundleError(f"{given_by} gives class {classes.max()}, the recipe names {len(recipe.classes)} classes")
    above = scores > recipe.suppress.score_threshold
    return Candidates(segments[above], scores[above], classes[above])
