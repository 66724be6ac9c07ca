"""Reading from a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import LongMemoryError
from tallformer_infer.files import file_sha256
from tallformer_training.memory.manifest import (
    MANIFEST_FILE,
    ROWS_FILE,
    WRITTEN_FILE,
    Manifest,
    read_manifest,
    rows_sha256,
)

Number = TypeVar("Number", bound=np.generic)

OUTSIDE = -1
"""Age of a feature step before the start or past the end of its video."""


@dataclass(frozen=True)
class Rows:
    """Stretches of feature steps read from one video."""

    features: NDArray[np.float32]
    """Features, zeros outside the video, shape (N, C, steps)."""
    ages_steps: NDArray[np.int64]
    """Training steps since each feature step was written, `OUTSIDE` outside the video, shape (N, steps)."""


@dataclass(frozen=True)
class Staleness:
    """How old what was read is."""

    mean_steps: float
    """Mean age in training steps; 0 where nothing was read."""
    max_steps: int
    """Largest age in training steps; 0 where nothing was read."""
    rows: int
    """Feature steps read inside their videos."""


class Memory:
    """Features of every clip of every video of a data set, mapped from disk.

    Several processes may read one memory. What `RunMemory` writes is seen at once by every process of the machine.
    """

    def __init__(self, folder: Path, manifest: Manifest, *, mode: Literal["r", "r+"] = "r") -> None:
        """Map the files of `folder`; use `open` or `RunMemory` instead.

        Raises:
            LongMemoryError: A file is missing or has the wrong size.
        """
        self.folder = folder
        self.manifest = manifest
        self._first_rows = manifest.first_rows()
        shape = (manifest.rows, manifest.channels)
        self.rows: NDArray[np.floating] = _map(folder / ROWS_FILE, manifest.row_type, shape, mode)
        """Features of all videos, shape (rows, C)."""
        self.written: NDArray[np.int64] = _map(folder / WRITTEN_FILE, np.dtype("<i8"), shape[:1], mode)
        """Training step in which each row was written, shape (rows,)."""

    @classmethod
    def open(cls, folder: Path, *, fingerprint: str | None = None) -> Memory:
        """Open a finished memory for reading.

        Args:
            folder: Where it is.
            fingerprint: What must have made it (`encoder_fingerprint`); None takes any.

        Raises:
            LongMemoryError: It is missing, damaged, of another version, or made by something else.
        """
        manifest = read_manifest(folder / MANIFEST_FILE)
        if fingerprint is not None and manifest.fingerprint != fingerprint:
            raise LongMemoryError(
                f"{folder}: made with another encoder, frame rate, size or clip length than this recipe's; "
                "make it again with this recipe"
            )
        return cls(folder, manifest)

    def require(self, entries: Mapping[str, int], *, channels: int) -> None:
        """Check that every video of a data set is here, with its number of feature steps.

        Raises:
            LongMemoryError: A video is missing or has another length, or the channels differ.
        """
        if channels != self.manifest.channels:
            raise LongMemoryError(
                f"{self.folder}: holds {self.manifest.channels} channels, the encoder gives {channels}"
            )
        for video, steps in entries.items():
            if self.steps(video) != steps:
                raise LongMemoryError(
                    f"{self.folder}: holds {self.steps(video)} feature steps of video {video}, the file gives {steps}; "
                    "make the memory again"
                )

    def steps(self, video: str) -> int:
        """Feature steps of a video.

        Raises:
            LongMemoryError: The video is not in the memory.
        """
        try:
            return self.manifest.videos[video].steps
        except KeyError:
            raise LongMemoryError(
                f"{self.folder}: no video {video} among the {len(self.manifest.videos)}; make the memory again"
            ) from None

    def read(self, video: str, first_steps: Sequence[int], steps: int, *, step_number: int = 0) -> Rows:
        """Read stretches of one video, in the given order; they may overlap and reach beyond the video.

        Args:
            video: Name of the video.
            first_steps: Feature step in which each of N stretches starts; may be negative or past the end.
            steps: Feature steps per stretch.
            step_number: The training step now, for the ages.

        Raises:
            LongMemoryError: The video is not in the memory.
        """
        features = np.zeros((len(first_steps), self.manifest.channels, steps), np.float32)
        ages = np.full((len(first_steps), steps), OUTSIDE, np.int64)
        for index, first in enumerate(first_steps):
            rows, inside = self.inside(video, first, steps)
            features[index, :, inside] = self.rows[rows].T
            ages[index, inside] = step_number - self.written[rows]
        return Rows(features, ages)

    def rows_of(self, video: str) -> NDArray[np.floating]:
        """All rows of a video, shape (steps, C), without a copy."""
        first = self._first_rows[video]
        return self.rows[first : first + self.steps(video)]

    def inside(self, video: str, first_step: int, steps: int) -> tuple[slice, slice]:
        """The part of a stretch that lies in its video: its rows in the memory, and its place in the stretch."""
        begin = min(max(-first_step, 0), steps)
        end = min(max(self.steps(video) - first_step, begin), steps)
        row = self._first_rows[video] + first_step
        return (slice(row + begin, row + end) if end > begin else slice(0, 0)), slice(begin, end)

    def verify(self) -> None:
        """Compare every row with the hashes of the manifest.

        Raises:
            LongMemoryError: Rows were changed or damaged; the message names their videos.
        """
        damaged = [
            name for name, video in self.manifest.videos.items() if rows_sha256(self.rows_of(name)) != video.sha256
        ]
        if damaged:
            shown = ", ".join(damaged[:5]) + (", ..." if len(damaged) > 5 else "")
            raise LongMemoryError(
                f"{self.folder}: damaged rows of {len(damaged)} videos: {shown}; make the memory again, "
                "or resume from another checkpoint"
            )
        if file_sha256(self.folder / WRITTEN_FILE) != self.manifest.written_sha256:
            raise LongMemoryError(
                f"{self.folder / WRITTEN_FILE}: damaged; make the memory again, or resume from another checkpoint"
            )


def staleness(ages_steps: NDArray[np.int64]) -> Staleness:
    """Sum up the ages of what was read, any shape."""
    ages = ages_steps[ages_steps != OUTSIDE]
    if not len(ages):
        return Staleness(0.0, 0, 0)
    return Staleness(float(ages.mean()), int(ages.max()), len(ages))


def _map(path: Path, kind: np.dtype[Number], shape: tuple[int, ...], mode: Literal["r", "r+"]) -> NDArray[Number]:
    expected = kind.itemsize * int(np.prod(shape))
    try:
        found = path.stat().st_size
        if found != expected:
            raise LongMemoryError(
                f"{path}: {found} bytes, expected {expected}; make the memory again, or resume from another checkpoint"
            )
        return np.memmap(path, kind, mode, shape=shape)
    except OSError as error:
        raise LongMemoryError(f"{path}: {error.strerror or error}") from error
