"""Read a memory: its manifest, its features, and the feature sequence of a window from encoded and remembered clips."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import BackboneConfig, Recipe, from_json, to_json
from tallformer_infer.errors import ConfigError, LongMemoryError
from tallformer_infer.files import file_sha256

Number = TypeVar("Number", bound=np.generic)

OUTSIDE = -1
"""Age of feature steps outside their video."""

StoredType = Literal["float16", "float32"]

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
ROWS_FILE = "rows.bin"
"""File of the features of all videos, concatenated, (rows, C), C order, no header."""
WRITTEN_FILE = "written.bin"
"""File of the training step in which each row was written, -1 before the run, (rows,) int64."""

NEVER = -1


@dataclass(frozen=True)
class Rows:
    """Stretches of feature steps read from one video."""

    features: NDArray[np.float32]
    """Features, zeros outside the video, shape (N, C, steps)."""
    ages_steps: NDArray[np.int64]
    """Training steps since each feature step was written, `OUTSIDE` outside the video, shape (N, steps)."""


@dataclass(frozen=True)
class Staleness:
    """Age of the features that were read."""

    mean_steps: float
    """Mean age in training steps; 0 if nothing was read."""
    max_steps: int
    """Largest age in training steps; 0 if nothing was read."""
    rows: int
    """Feature steps read inside their videos."""


class Memory:
    """Features of every clip of every video of a data set, mapped from disk.

    Several processes may read one memory. Writes of `RunMemory` are visible at once to all processes of the machine.
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
            folder: Folder of the memory.
            fingerprint: Required origin (`encoder_fingerprint`); None accepts any.

        Raises:
            LongMemoryError: It is missing, damaged, of another version or of another origin.
        """
        manifest = read_manifest(folder / MANIFEST_FILE)
        if fingerprint is not None and manifest.fingerprint != fingerprint:
            raise LongMemoryError(
                f"{folder}: made with another encoder, frame rate, size or clip length than this recipe's; "
                "build it again with this recipe"
            )
        return cls(folder, manifest)

    def require(self, entries: Mapping[str, int], *, channels: int) -> None:
        """Check that the memory contains every video of a data set, with its number of feature steps.

        Raises:
            LongMemoryError: A video is missing or has another length, or the channels differ.
        """
        if channels != self.manifest.channels:
            raise LongMemoryError(
                f"{self.folder}: contains {self.manifest.channels} channels, the encoder has {channels}"
            )
        for video, steps in entries.items():
            if self.steps(video) != steps:
                raise LongMemoryError(
                    f"{self.folder}: {self.steps(video)} feature steps of video {video}, the file has {steps}; "
                    "build the memory again"
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
                f"{self.folder}: no video {video} among the {len(self.manifest.videos)}; build the memory again"
            ) from None

    def read(self, video: str, first_steps: Sequence[int], steps: int, *, step_number: int = 0) -> Rows:
        """Read stretches of one video, in the given order; they may overlap and extend beyond the video.

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
        """The part of a stretch inside its video: rows of the memory, and position in the stretch."""
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
                f"{self.folder}: damaged rows of {len(damaged)} videos: {shown}; build the memory again, "
                "or resume from another checkpoint"
            )
        if file_sha256(self.folder / WRITTEN_FILE) != self.manifest.written_sha256:
            raise LongMemoryError(
                f"{self.folder / WRITTEN_FILE}: damaged; build the memory again, or resume from another checkpoint"
            )


def staleness(ages_steps: NDArray[np.int64]) -> Staleness:
    """Summarise the ages of features that were read, of any shape."""
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
                f"{path}: {found} bytes, expected {expected}; build the memory again, or resume from another checkpoint"
            )
        return np.memmap(path, kind, mode, shape=shape)
    except OSError as error:
        raise LongMemoryError(f"{path}: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class Window:
    """One window of a batch."""

    video: str
    """Name of the video in the memory."""
    first_step: int
    """Feature step of the video in which the window starts; may be negative.

    For a window that starts at an odd frame it is the frame number over the stride, rounded down, as in the official
    code, for reading and for writing.
    """
    encoded_clips: tuple[int, ...]
    """Clips of the window that are encoded, each once; the others come from the memory."""


def read_windows(
    memory: Memory, windows: Sequence[Window], *, clips: int, clip_steps: int, step_number: int
) -> tuple[Tensor, NDArray[np.int64]]:
    """Read the clips of a batch that are not encoded.

    Args:
        memory: The memory to read.
        windows: The batch.
        clips: Clips per window.
        clip_steps: Feature steps per clip.
        step_number: The training step now, for the ages.

    Returns:
        Features with zeros for clips to be encoded and outside the video, float32, shape (B, C, clips * clip_steps);
        ages in training steps with `OUTSIDE` there, shape (B, clips * clip_steps), for `staleness`.
    """
    channels = memory.manifest.channels
    features = np.zeros((len(windows), clips, channels, clip_steps), np.float32)
    ages = np.full((len(windows), clips, clip_steps), OUTSIDE, np.int64)
    for index, window in enumerate(windows):
        remembered = [clip for clip in range(clips) if clip not in window.encoded_clips]
        rows = memory.read(
            window.video,
            [window.first_step + clip * clip_steps for clip in remembered],
            clip_steps,
            step_number=step_number,
        )
        features[index, remembered] = rows.features
        ages[index, remembered] = rows.ages_steps
    total = clips * clip_steps
    sequences = features.swapaxes(1, 2).reshape(len(windows), channels, total)
    return torch.from_numpy(sequences), ages.reshape(len(windows), total)


def join_windows(remembered: Tensor, encoded: Tensor, windows: Sequence[Window]) -> Tensor:
    """Put encoded clips at their positions; gradients flow only to `encoded`.

    Args:
        remembered: From `read_windows`, on the device of `encoded`, shape (B, C, clips * clip_steps).
        encoded: Encoded clips of the first window, then of the second and so on, shape (N, C, clip_steps).
        windows: The batch.

    Returns:
        Features of the windows, shape (B, C, clips * clip_steps).
    """
    batch, channels, total = remembered.shape
    rows = [index for index, window in enumerate(windows) for _ in window.encoded_clips]
    places = [clip for window in windows for clip in window.encoded_clips]
    if len(places) != len(encoded):
        raise ValueError(f"expected {len(places)} encoded clips for these windows, got {encoded.shape = }")
    if not places:
        return remembered
    clips = remembered.reshape(batch, channels, -1, encoded.shape[-1]).transpose(1, 2)  # (B, clips, C, clip_steps)
    index = (torch.tensor(rows, device=encoded.device), torch.tensor(places, device=encoded.device))
    joined = clips.to(encoded.dtype).index_put(index, encoded)
    return joined.transpose(1, 2).reshape(batch, channels, total)


@dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """One video of a memory."""

    steps: int
    """Feature steps."""
    sha256: str
    """SHA-256 of its rows."""


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """Shapes, hashes and origin of a memory; `manifest.json` in its folder."""

    format_version: int
    """Version of this layout of files."""
    channels: int
    """Channels C of a feature step."""
    dtype: StoredType
    """Number format of the rows, little endian."""
    fingerprint: str
    """Origin of the features, see `encoder_fingerprint`."""
    step_number: int
    """Training steps that have written to it; 0 for a new one."""
    written_sha256: str
    """Hash of `written.bin`."""
    videos: dict[str, StoredVideo]
    """Videos by name, in the order of their rows."""

    @property
    def rows(self) -> int:
        """Feature steps of all videos."""
        return sum(video.steps for video in self.videos.values())

    @property
    def row_type(self) -> np.dtype[np.floating]:
        """Number format of the rows for NumPy."""
        return np.dtype(self.dtype).newbyteorder("<")

    def first_rows(self) -> dict[str, int]:
        """Row in which each video starts."""
        first, firsts = 0, {}
        for name, video in self.videos.items():
            firsts[name] = first
            first += video.steps
        return firsts

    def to_bytes(self) -> bytes:
        """The file's content; equal manifests give equal bytes."""
        return (json.dumps(to_json(self), indent=1, ensure_ascii=False) + "\n").encode()


def read_manifest(path: Path) -> Manifest:
    """Read and check a manifest.

    Raises:
        LongMemoryError: The file is missing, damaged or of another version.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(value, dict) and value.get("format_version", FORMAT_VERSION) != FORMAT_VERSION:
            raise LongMemoryError(
                f"{path}: memory format {value['format_version']}, this version of tallformer reads {FORMAT_VERSION}; "
                "build the memory again"
            )
        return from_json(Manifest, value, where="manifest")
    except FileNotFoundError as error:
        raise LongMemoryError(f"{path.parent}: not a long memory (no {path.name})") from error
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise LongMemoryError(f"{path}: not the manifest of a long memory: {error}") from error


def encoder_fingerprint(recipe: Recipe, *, weights_sha256: str = "") -> str:
    """Hash everything that determines the features: encoder architecture, sampling, and initial weights.

    Stochastic depth and frozen stages are left out: they affect how the encoder is trained, not what it computes. So is
    the kind of Video Swin, because memories were made before there was another kind.
    """
    backbone = to_json(recipe.model.backbone)
    if isinstance(recipe.model.backbone, BackboneConfig):
        del backbone["kind"], backbone["drop_path"], backbone["frozen_stages"]
    decisive = [backbone, to_json(recipe.sampling), recipe.window.clip_frames, weights_sha256]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def rows_sha256(rows: NDArray[np.generic]) -> str:
    """Hash of rows in their format on disk."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
