"""Encode clips to features, in batches or in parallel, depending on the device.

Note [a clip in waiting]
    Parallel calls on the CPU do not finish together, as decoding competes with them unevenly. If clips were only
    submitted when all calls are done, cores would idle; with one more clip queued than calls run in parallel, each call
    that finishes is followed by the next.

Note [a clip that is done]
    Clips of a live source arrive one by one, seconds apart. An encoded clip must not wait for the next one, so a
    separate thread cuts and submits clips, at most one more than run in parallel.

Note [the empty clip]
    The padding after the end of a video is encoded once for all its windows, which would then wait for a whole clip
    with nothing else to do. It is therefore submitted as soon as the end is known, in parallel with the last clips, and
    cached per runtime: it is the same for every video.

Note [what counts as the same]
    Two clips are the same within a tolerance if, in every frame, the mean difference of each block of 8 × 8 pixels is
    at most the tolerance (pixel values 0 to 255). Camera and compression noise average out in a block; small moving
    objects do not. A clip is compared with the last encoded one, not with its predecessor, so that slow changes
    accumulate and are detected. Source: the TALLFormer paper, section 1, observes that most of a long video is
    redundant; the measure is ours.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import Recipe
from tallformer_infer.media import run_ahead
from tallformer_infer.runtime import Cancellation, Runtime
from tallformer_infer.timeline import Clip


@dataclass(frozen=True)
class EncodedClip:
    """Feature steps of one clip."""

    start_frame: int
    """First frame, counted from the start of the video."""
    real_frames: int
    """Number of frames that belong to the video; the others are padding."""
    features: NDArray[np.float32]
    """Shape (C, clip steps)."""


class OtherVideoError(Exception):
    """Stored features do not belong to the video being read."""


_BLOCK_PX = 8
_JOIN_S = 0.8
"""Timeout for joining the thread that cuts clips, in seconds: it may be waiting for a live source."""
_EMPTY: WeakKeyDictionary[Runtime, NDArray[np.float32]] = WeakKeyDictionary()
"""Cached features of the empty clip, by runtime."""


class ClipEncoder:
    """Encodes clips with a runtime and counts the time it takes."""

    def __init__(
        self, runtime: Runtime, recipe: Recipe, *, static_tolerance: float = 0.0, is_rounded: bool = False
    ) -> None:
        """Create an encoder; nothing is encoded yet.

        Args:
            runtime: Runs the encoder.
            recipe: Recipe of the model.
            static_tolerance: Clips that differ by less from the last encoded one reuse its features, see Note [what
                counts as the same].
            is_rounded: Whether to round features to float16, so that storing them does not change results.
        """
        self._runtime = runtime
        self._recipe = recipe
        self._tolerance = static_tolerance
        self._rounded = rounded if is_rounded else _as_they_are
        self.cancellation = Cancellation()
        """Stops the encoder from another thread."""
        self.clips = 0
        """Number of clips so far."""
        self.known = 0
        """Clips with stored features; they come first."""
        self.encoded = 0
        """Clips that went through the encoder."""
        self.reused = 0
        """Clips that reuse the features of an earlier clip."""
        self._busy = BusyTime()
        self._calls_at_once = runtime.clips_at_once // runtime.clips_per_call
        self._threads = ThreadPoolExecutor(self._calls_at_once, thread_name_prefix="tallformer-clip")
        self._empty: Future[NDArray[np.float32]] | None = None

    @property
    def encode_s(self) -> float:
        """Time during which the runtime encoded, so far, in seconds."""
        return self._busy.total_s

    def encode(self, clips: Iterable[Clip], known: Iterable[EncodedClip] = ()) -> Iterator[EncodedClip]:
        """Encode clips in order.

        A clip that shows the same as the last encoded one is not encoded again: stills and gaps in a recording cost
        almost nothing.

        Args:
            clips: Clips, sorted by start.
            known: Stored features of the first clips.

        Raises:
            OtherVideoError: `known` does not match the first clips.
        """
        marked = self._mark_repeats(clips)
        last: NDArray[np.float32] | None = None
        for kept in known:
            clip, _ = next(marked, (None, False))
            if clip is None or (clip.start_frame, clip.real_frames) != (kept.start_frame, kept.real_frames):
                raise OtherVideoError("not those of this video")
            last = kept.features
            self.clips += 1
            self.known += 1
            yield kept
        for clip, features in itertools.chain.from_iterable(self._encode_marked(marked)):
            if features is not None:
                last = self._rounded(features)
                self.encoded += 1
            assert last is not None, "the first clip repeats none"
            self.clips += 1
            yield EncodedClip(clip.start_frame, clip.real_frames, last)

    def _encode_marked(self, marked: Iterator[_Marked]) -> Iterator[list[_Encoded]]:
        per_call = self._runtime.clips_per_call
        batches = iter(lambda: list(itertools.islice(marked, per_call)), [])
        return self._encode_side_by_side(batches) if self._calls_at_once > 1 else map(self._encode_batch, batches)

    def _mark_repeats(self, clips: Iterable[Clip]) -> Iterator[_Marked]:
        """Clips, each with whether it repeats the last encoded one."""
        encoded: Clip | None = None
        for clip in clips:
            repeats = is_repeat(clip, encoded, self._tolerance)
            encoded = encoded if repeats else clip
            self.reused += repeats
            yield clip, repeats

    def prepare_empty(self) -> None:
        """Start encoding the empty clip in the background, see Note [the empty clip]."""
        if self._calls_at_once > 1 and self._empty is None and self._runtime not in _EMPTY:
            self._empty = self._threads.submit(self._encode_empty)

    def encode_empty(self) -> NDArray[np.float32]:
        """Features of the empty clip after the end of a video, shape (C, clip steps)."""
        if self._runtime not in _EMPTY:
            _EMPTY[self._runtime] = self._empty.result() if self._empty else self._encode_empty()
        return self._rounded(_EMPTY[self._runtime])

    def _encode_empty(self) -> NDArray[np.float32]:
        side = self._recipe.sampling.crop_px
        pixels = np.zeros((1, self._recipe.window.clip_frames, side, side, 3), np.uint8)
        features: NDArray[np.float32] = self._run(pixels, np.zeros(1, np.int64))[0]
        return features

    def _encode_side_by_side(self, batches: Iterator[Sequence[_Marked]]) -> Iterator[list[_Encoded]]:
        """See Notes [a clip in waiting] and [a clip that is done]."""
        calls: deque[Future[list[_Encoded]]] = deque()

        def submit() -> Iterator[None]:
            for batch in batches:
                calls.append(self._threads.submit(self._encode_batch, batch))
                yield

        submitted = run_ahead(submit(), max(self._calls_at_once - 1, 1), thread_name="tallformer-cut", join_s=_JOIN_S)
        try:
            with closing(submitted):
                for _ in submitted:
                    # Drop the reference: an exception holds this frame, and threads would outlive the encoder.
                    yield calls.popleft().result()
        finally:
            for call in calls:
                call.cancel()

    def _encode_batch(self, batch: Sequence[_Marked]) -> list[_Encoded]:
        """Clips with their features; None for repeats."""
        new = [clip for clip, is_repeat in batch if not is_repeat]
        if not new:
            return [(clip, None) for clip, _ in batch]
        real_frames = np.array([clip.real_frames for clip in new], np.int64)
        features = iter(self._run(np.stack([clip.frames for clip in new]), real_frames))
        return [(clip, None if is_repeat else next(features)) for clip, is_repeat in batch]

    def _run(self, pixels: NDArray[np.uint8], real_frames: NDArray[np.int64]) -> NDArray[np.float32]:
        with self._busy.counted():
            return self._runtime.encode(pixels, real_frames, self.cancellation)


_Marked = tuple[Clip, bool]
"""A clip, and whether it repeats an earlier one."""
_Encoded = tuple[Clip, NDArray[np.float32] | None]
"""A clip and its features; None if it repeats an earlier one."""


def is_repeat(clip: Clip, encoded: Clip | None, tolerance: float) -> bool:
    """Whether `clip` shows the same as `encoded`, see Note [what counts as the same].

    Args:
        clip: A clip.
        encoded: The last clip that was encoded; None before the first.
        tolerance: Maximum mean difference of a block, in pixel values; 0 requires identical pixels.
    """
    if encoded is None or clip.real_frames != encoded.real_frames:
        return False
    if tolerance == 0:  # the first frame usually differs already
        return np.array_equal(clip.frames[0], encoded.frames[0]) and np.array_equal(clip.frames, encoded.frames)
    return all(
        _largest_difference(frame, other) <= tolerance for frame, other in zip(clip.frames, encoded.frames, strict=True)
    )


def _largest_difference(frame: NDArray[np.uint8], other: NDArray[np.uint8]) -> float:
    """Largest mean absolute difference of a block, over all blocks of a frame of shape (H, W, 3)."""
    # Without a wider type: of two bytes, the larger less the smaller.
    difference = np.maximum(frame, other) - np.minimum(frame, other)
    rows = np.arange(0, frame.shape[0], _BLOCK_PX)
    columns = np.arange(0, frame.shape[1], _BLOCK_PX)
    by_row = np.add.reduceat(difference.sum(axis=2, dtype=np.uint32), rows, axis=0)
    sums = np.add.reduceat(by_row, columns, axis=1)
    heights = np.diff(np.append(rows, frame.shape[0]))
    widths = np.diff(np.append(columns, frame.shape[1]))
    return float((sums / (3 * np.outer(heights, widths))).max())


def rounded(features: NDArray[np.float32]) -> NDArray[np.float32]:
    """Round features to float16 precision; the result is float32.

    Raises:
        OverflowError: A value is out of the range of float16.
    """
    with np.errstate(over="ignore"):
        kept = features.astype(np.float16)
    if not np.isfinite(kept).all():
        raise OverflowError("features beyond float16: the largest is " + str(np.abs(features).max()))
    return kept.astype(np.float32)


def _as_they_are(features: NDArray[np.float32]) -> NDArray[np.float32]:
    return features


class BusyTime:
    """Wall time during which at least one thread was busy."""

    def __init__(self) -> None:
        self.total_s = 0.0
        """Total of all finished periods, in seconds."""
        self._lock = threading.Lock()
        self._active = 0
        self._since_s = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of the block, once for all threads inside it."""
        with self._lock:
            if self._active == 0:
                self._since_s = time.perf_counter()
            self._active += 1
        try:
            yield
        finally:
            with self._lock:
                self._active -= 1
                if self._active == 0:
                    self.total_s += time.perf_counter() - self._since_s
