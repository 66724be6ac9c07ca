"""An encoder that never encodes a clip twice: not one that is stored, and not one like the clip before."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.archive.facts import VideoFacts
from tallformer_infer.archive.features import DamagedError, FeatureWriter, rounded
from tallformer_infer.archive.repeats import is_repeat
from tallformer_infer.clips import Clip
from tallformer_infer.config import Recipe
from tallformer_infer.pipeline.encoding import ClipEncoder, EncodedClip
from tallformer_infer.runtime import Runtime

T = TypeVar("T")


class StoringEncoder:
    """Takes the first clips from a file of features, encodes the others and adds them to it."""

    def __init__(
        self, runtime: Runtime, recipe: Recipe, writer: FeatureWriter | None, *, static_tolerance: float
    ) -> None:
        """Nothing is encoded yet.

        Args:
            runtime: What runs the encoder.
            recipe: Of the model.
            writer: Where features are kept; None keeps none.
            static_tolerance: See `archive.repeats`.
        """
        self._encoder = ClipEncoder(runtime, recipe)
        self._at_once = runtime.clips_at_once
        self._writer = writer
        self._tolerance = static_tolerance
        self.cancellation = self._encoder.cancellation
        self.clips = 0
        """Clips so far."""
        self.encoded = 0
        """Of these, those that went through the encoder."""
        self.reused = 0
        """Of these, those that share the features of a clip before."""
        self.problem: str | None = None
        """Why features are not kept."""

    @property
    def encode_s(self) -> float:
        """Time spent in the runtime so far, in seconds."""
        return self._encoder.encode_s

    def encode(self, clips: Iterable[Clip]) -> Iterator[EncodedClip]:
        """Each clip's features, as float16 keeps them, in the order of the clips."""
        marked = self._mark_repeats(clips)
        stored = self._writer.stored_clips() if self._writer else iter(())
        last = None
        for (clip, _), kept in zip(_first(marked, self._writer.stored if self._writer else 0), stored, strict=False):
            if kept.start_frame != clip.start_frame or kept.real_frames != clip.real_frames:
                raise DamagedError("not those of this video")
            self.clips += 1
            last = kept
            yield kept
        for features in self._encode_new(marked, last):
            self.clips += 1
            self._keep(features)
            yield features

    def prepare_empty(self) -> None:
        """Begin with what `encode_empty` will be asked for."""
        self._encoder.prepare_empty()

    def encode_empty(self) -> NDArray[np.float32]:
        """Features of a clip beyond the end of the video, shape (C, clip steps)."""
        return rounded(self._encoder.encode_empty())

    def _mark_repeats(self, clips: Iterable[Clip]) -> Iterator[tuple[Clip, bool]]:
        """Clips, and whether each shows what the last one that is none did."""
        encoded: Clip | None = None
        for clip in clips:
            repeats = is_repeat(clip, encoded, self._tolerance)
            encoded = encoded if repeats else clip
            self.reused += repeats
            yield clip, repeats

    def _encode_new(self, marked: Iterator[tuple[Clip, bool]], last: EncodedClip | None) -> Iterator[EncodedClip]:
        """Features of clips, encoded in batches that suit the device; `last` is what a repeat goes back to."""
        while batch := _batch(marked, self._at_once):
            new = iter([clip for clip, repeats in batch if not repeats])
            encoded = self._encoder.encode(new)
            for clip, repeats in batch:
                if not repeats:
                    last = next(encoded)
                    last = replace(last, features=rounded(last.features))
                    self.encoded += 1
                assert last is not None, "the first clip repeats none"
                yield replace(last, start_frame=clip.start_frame, real_frames=clip.real_frames)

    def finish(self, facts: VideoFacts) -> None:
        """The video has no more clips."""
        if self._writer is not None:
            self._write(self._writer.finish, facts)

    def _keep(self, clip: EncodedClip) -> None:
        if self._writer is not None:
            self._write(self._writer.append, clip)

    def _write(self, write: Callable[[T], None], what: T) -> None:
        """Write, or go on without: stored features only save time."""
        assert self._writer is not None
        try:
            write(what)
        except OSError as error:
            self._writer.discard()
            self._writer = None
            self.problem = f"features are not kept: {error.strerror or error}"


def _batch(marked: Iterator[tuple[Clip, bool]], size: int) -> list[tuple[Clip, bool]]:
    """The next clips: `size` that are no repeats, with the repeats between them, or what is left."""
    batch: list[tuple[Clip, bool]] = []
    count = 0
    for clip, repeats in marked:
        batch.append((clip, repeats))
        count += not repeats
        if count == size or len(batch) == 4 * size:
            break
    return batch


def _first(marked: Iterator[tuple[Clip, bool]], count: int) -> Iterator[tuple[Clip, bool]]:
    return itertools.islice(marked, count)
