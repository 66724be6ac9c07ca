"""Clips to features, in batches or side by side, as it suits the device.

Note [a clip in waiting]
    Calls that run side by side on the CPU do not end together: decoding takes time from one of them and not from the
    other. If the next clips were only handed out when all have ended, cores would wait; with one clip more than run
    at a time, whoever is done finds the next.

Note [the empty clip]
    What stands behind the end of a video is encoded once for all its windows, which then wait for it: a whole clip's
    time with nothing else to do. So it is begun as soon as the end is known, beside the last clips, and kept for the
    next videos of the same runtime: it is always the same.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol
from weakref import WeakKeyDictionary

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
        """Time during which the runtime encoded, so far, in seconds."""

    def encode(self, clips: Iterable[Clip]) -> Iterator[EncodedClip]:
        """Each clip's features, in the order of the clips."""

    def prepare_empty(self) -> None:
        """Begin with what `encode_empty` will be asked for, where that can be done beside other clips."""

    def encode_empty(self) -> NDArray[np.float32]:
        """Features of a clip beyond the end of the video, shape (C, clip steps)."""


_EMPTY: WeakKeyDictionary[Runtime, NDArray[np.float32]] = WeakKeyDictionary()
"""Features of the empty clip, of each runtime that was asked for it."""


class ClipEncoder:
    """Encodes clips with a runtime and counts the time it takes."""

    def __init__(self, runtime: Runtime, recipe: Recipe) -> None:
        self._runtime = runtime
        self._recipe = recipe
        self.cancellation = Cancellation()
        """Stops it from another thread."""
        self._busy = BusyTime()
        self._calls_at_once = runtime.clips_at_once // runtime.clips_per_call
        self._threads = ThreadPoolExecutor(self._calls_at_once, thread_name_prefix="tallformer-clip")
        self._empty: Future[NDArray[np.float32]] | None = None

    @property
    def encode_s(self) -> float:
        """Time during which the runtime encoded, so far, in seconds."""
        return self._busy.total_s

    def encode(self, clips: Iterable[Clip]) -> Iterator[EncodedClip]:
        """Each clip's features, in the order of the clips.

        A clip that equals the one before it is not encoded again: stills and gaps of a recording cost next to nothing.
        """
        marked = _mark_repeats(clips)
        per_call = self._runtime.clips_per_call
        batches = iter(lambda: list(itertools.islice(marked, per_call)), [])
        is_parallel = self._calls_at_once > 1
        encoded = self._encode_side_by_side(batches) if is_parallel else map(self._encode_batch, batches)
        last: NDArray[np.float32] | None = None
        for clip, features in itertools.chain.from_iterable(encoded):
            last = last if features is None else features
            assert last is not None, "the first clip repeats none"
            yield EncodedClip(clip.start_frame, clip.real_frames, last)

    def prepare_empty(self) -> None:
        """Begin with what `encode_empty` will be asked for, see Note [the empty clip]."""
        if self._calls_at_once > 1 and self._empty is None and self._runtime not in _EMPTY:
            self._empty = self._threads.submit(self._encode_empty)

    def encode_empty(self) -> NDArray[np.float32]:
        """Features of a clip beyond the end of the video, shape (C, clip steps)."""
        if self._runtime not in _EMPTY:
            _EMPTY[self._runtime] = self._empty.result() if self._empty else self._encode_empty()
        return _EMPTY[self._runtime]

    def _encode_empty(self) -> NDArray[np.float32]:
        side = self._recipe.sampling.crop_px
        pixels = np.zeros((1, self._recipe.window.clip_frames, side, side, 3), np.uint8)
        features: NDArray[np.float32] = self._run(pixels, np.zeros(1, np.int64))[0]
        return features

    def _encode_side_by_side(self, batches: Iterator[Sequence[_Marked]]) -> Iterator[list[_Encoded]]:
        """See Note [a clip in waiting]."""
        calls: deque[Future[list[_Encoded]]] = deque()
        try:
            for batch in batches:
                calls.append(self._threads.submit(self._encode_batch, batch))
                while calls and (calls[0].done() or len(calls) > self._calls_at_once):
                    yield calls.popleft().result()
            while calls:
                yield calls.popleft().result()
        finally:
            for call in calls:
                call.cancel()

    def _encode_batch(self, batch: Sequence[_Marked]) -> list[_Encoded]:
        """Clips with their features; None for those that repeat the clip before."""
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
"""A clip, and whether it equals the one before."""
_Encoded = tuple[Clip, NDArray[np.float32] | None]
"""A clip and its features; None where it equals the one before."""


def _mark_repeats(clips: Iterable[Clip]) -> Iterator[_Marked]:
    before: Clip | None = None
    for clip in clips:
        is_repeat = before is not None and _are_equal(clip, before)
        before = clip
        yield clip, is_repeat


def _are_equal(one: Clip, other: Clip) -> bool:
    if one.real_frames != other.real_frames or not np.array_equal(one.frames[0], other.frames[0]):
        return False
    return np.array_equal(one.frames, other.frames)


class BusyTime:
    """Wall time during which at least one thread was at something."""

    def __init__(self) -> None:
        self.total_s = 0.0
        """Of all that has ended."""
        self._lock = threading.Lock()
        self._active = 0
        self._since_s = 0.0

    @contextmanager
    def counted(self) -> Iterator[None]:
        """Count the time of the block, once for all threads that are in it."""
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
