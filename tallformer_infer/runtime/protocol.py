"""The `Runtime` protocol, and what its implementations share: cancellation, batches, ports and the score threshold."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import Recipe
from tallformer_infer.devices import RunsOn
from tallformer_infer.errors import BundleError, StoppedError
from tallformer_infer.structures import Candidates, Proposals

_MOST_CLIPS = 8
"""Maximum number of parallel clips: more are not faster, and each needs its own memory."""
_MOST_PIXELS = 1024 * 224 * 224
"""Maximum number of pixels of all parallel clips: one clip of a minute, which alone takes gigabytes."""


class Cancellation:
    """Cancels the calls of one video from another thread: running calls and all later ones."""

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
        """Call `stop` if the block is cancelled.

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


class WindowBatch(NamedTuple):
    """Windows of feature steps: the inputs of a localizer, by their names in its graph."""

    features: NDArray[np.float32]
    """Shape (B, C, S)."""
    start_frames: NDArray[np.int64]
    """First frame of each window, shape (B,)."""
    real_frames: NDArray[np.int64]
    """Frames of each window that belong to the video, shape (B,)."""


class Runtime(Protocol):
    """Runs the graphs of one bundle. Each step is called from one thread; for `encode` see `clips_per_call`."""

    @property
    def name(self) -> str:
        """Name and version of the library that runs the graphs."""

    @property
    def device(self) -> RunsOn:
        """Where the graphs run."""

    @property
    def precision(self) -> str:
        """Precision of the encoder: that of its graph, unless another one was requested on loading."""

    @property
    def device_reason(self) -> str:
        """Why that device was chosen, to show to users."""

    @property
    def clips_at_once(self) -> int:
        """Number of clips to encode at the same time for the best speed."""

    @property
    def clips_per_call(self) -> int:
        """How many of these go into one call of `encode`; the others go into calls from other threads."""

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

    def localize(self, windows: WindowBatch) -> Candidates:
        """Windows of feature steps to candidates above the recipe's score threshold."""


@runtime_checkable
class ProposingRuntime(Runtime, Protocol):
    """A runtime that also gives proposals and classes separately, for models with a `refined` head."""

    def propose(self, window: WindowBatch) -> Proposals:
        """One window of feature steps (B = 1) to proposals and to the class scores of the window.

        Raises:
            BundleError: The localizer of the bundle does not give them.
        """


def most_clips(recipe: Recipe) -> int:
    """Number of clips to encode at once without using more memory than one very long clip."""
    pixels = recipe.window.clip_frames * recipe.sampling.crop_px**2
    return min(max(_MOST_PIXELS // pixels, 1), _MOST_CLIPS)


@dataclass(frozen=True)
class Port:
    """An input or output of a graph or engine."""

    name: str
    """Its name in the graph."""
    item_shape: tuple[int, ...]
    """Shape without the batch."""
    dtype: np.dtype[Any]
    """Number format."""
    is_input: bool
    """False for an output."""

    def size_bytes(self, rows: int) -> int:
        """Size of a batch of `rows` items."""
        return rows * int(np.prod(self.item_shape)) * self.dtype.itemsize


def split_batches(rows: int, most: int) -> Iterator[slice]:
    """Slices of at most `most` rows that together cover all rows; none if there are no rows."""
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
        given_by: Bundle and graph, for messages.

    Raises:
        BundleError: A class index is not in the recipe.
    """
    if classes.size and not 0 <= classes.min() <= classes.max() < len(recipe.classes):
        raise BundleError(f"{given_by} gives class {classes.max()}, the recipe names {len(recipe.classes)} classes")
    above = scores > recipe.suppress.score_threshold
    return Candidates(segments[above], scores[above], classes[above])
