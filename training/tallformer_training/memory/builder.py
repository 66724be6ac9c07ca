"""Build a memory: hours of encoding, which can be resumed after any interruption.

# Note [making a memory]
Rows go to `FOLDER.partial`; each video is written once, by one worker. A video is done when its rows, and then a line
with their hash in the worker's journal, are on disk: a process killed in between leaves rows without a line, which are
written again. Incomplete lines at the end of a journal are ignored. When all videos are done, hashes are compared, the
manifest is written, and the folder gets its final name; see Note [whole or absent].
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import LongMemoryError
from tallformer_infer.files import file_sha256, sync, write_whole
from tallformer_training.memory.bank import (
    FORMAT_VERSION,
    MANIFEST_FILE,
    NEVER,
    ROWS_FILE,
    WRITTEN_FILE,
    Manifest,
    Memory,
    StoredType,
    StoredVideo,
    rows_sha256,
)
from tallformer_training.memory.files import remove_unfinished, rename_folder

PLAN_FILE = "plan.json"


class MemoryBuilder:
    """A memory under construction; opening it again continues it."""

    def __init__(
        self,
        folder: Path,
        entries: Mapping[str, int],
        *,
        channels: int,
        dtype: StoredType = "float16",
        fingerprint: str = "",
        worker: int = 0,
    ) -> None:
        """Start a memory, or continue one.

        Args:
            folder: Folder of the finished memory.
            entries: Feature steps of every video, by name.
            channels: Channels C of a feature step.
            dtype: Number format on disk.
            fingerprint: Origin of the features (`encoder_fingerprint`).
            worker: Number of this process among those that build this memory.

        Raises:
            LongMemoryError: There is a finished memory, or one under construction of another origin, or no space.
        """
        if not entries or min(entries.values()) < 1 or channels < 1:
            raise ValueError(f"expected videos of at least one feature step and {channels = } of at least 1")
        if folder.exists():
            raise LongMemoryError(f"{folder}: exists already; use it, or remove it to build it again")
        self.folder = folder
        self.partial = folder.with_name(f"{folder.name}.partial")
        self._journal = self.partial / f"done-{worker}.jsonl"
        self._manifest = _plan(entries, channels, dtype, fingerprint)
        self._first_rows = self._manifest.first_rows()
        self._prepare()

    def missing(self, *, workers: int = 1, worker: int = 0) -> list[str]:
        """Videos that this worker still has to write; each belongs to one of `workers`."""
        done = self._done()
        return [name for name in list(self._manifest.videos)[worker::workers] if name not in done]

    def write(self, video: str, features: NDArray[np.floating]) -> None:
        """Write all feature steps of a video, shape (C, steps).

        Raises:
            LongMemoryError: The features are not finite in the memory's number format, or there is no space.
        """
        expected = (self._manifest.channels, self._manifest.videos[video].steps)
        if features.shape != expected:
            raise ValueError(f"video {video}: expected features (C, steps) = {expected}, got {features.shape}")
        rows = np.ascontiguousarray(stored(features, self._manifest.row_type, video).T)
        row_bytes = self._manifest.channels * rows.itemsize
        try:
            with (self.partial / ROWS_FILE).open("r+b") as file:
                file.seek(self._first_rows[video] * row_bytes)
                file.write(rows.data)
                file.flush()
                os.fsync(file.fileno())
            with self._journal.open("ab") as journal:
                # Start a new line even after an incomplete one of a killed process.
                journal.write(f"\n{json.dumps({'video': video, 'sha256': rows_sha256(rows)})}\n".encode())
                journal.flush()
                os.fsync(journal.fileno())
        except OSError as error:
            raise LongMemoryError(f"{self.partial}: {error.strerror or error}") from error

    def finish(self) -> Memory:
        """Check that all rows are present and unchanged, and rename the memory; for one process, after all others.

        Raises:
            LongMemoryError: Videos are missing, or rows changed since they were written.
        """
        done = self._done()
        missing = [name for name in self._manifest.videos if name not in done]
        if missing:
            raise LongMemoryError(
                f"{self.partial}: {len(missing)} of {len(self._manifest.videos)} videos are not written yet, "
                f"such as {missing[0]}"
            )
        np.full(self._manifest.rows, NEVER, "<i8").tofile(self.partial / WRITTEN_FILE)
        values: dict[str, Any] = {
            **vars(self._manifest),
            "written_sha256": file_sha256(self.partial / WRITTEN_FILE),
            "videos": {
                name: StoredVideo(steps=video.steps, sha256=done[name]) for name, video in self._manifest.videos.items()
            },
        }
        manifest = Manifest(**values)
        Memory(self.partial, manifest).verify()
        write_whole(self.partial / MANIFEST_FILE, manifest.to_bytes())
        remove_unfinished(self.partial)
        rename_folder(self.partial, self.folder)
        for leftover in (PLAN_FILE, *(path.name for path in self.folder.glob("done-*.jsonl"))):
            (self.folder / leftover).unlink(missing_ok=True)
        return Memory.open(self.folder)

    def _prepare(self) -> None:
        plan = self._manifest.to_bytes()
        try:
            self.partial.mkdir(parents=True, exist_ok=True)
            path = self.partial / PLAN_FILE
            if not path.exists():
                write_whole(path, plan)
            if path.read_bytes() != plan:
                raise LongMemoryError(
                    f"{self.partial}: started for other videos, channels, number format or recipe; "
                    "continue with those, or remove the folder"
                )
            self._allocate()
        except OSError as error:
            raise LongMemoryError(f"{self.partial}: {error.strerror or error}") from error

    def _allocate(self) -> None:
        """Reserve all space now, to detect a full disk before hours of encoding."""
        size = self._manifest.rows * self._manifest.channels * self._manifest.row_type.itemsize
        descriptor = os.open(self.partial / ROWS_FILE, os.O_CREAT | os.O_RDWR, 0o666)
        try:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(descriptor, 0, size)
            else:
                os.ftruncate(descriptor, size)
        finally:
            os.close(descriptor)
        sync(self.partial)

    def _done(self) -> dict[str, str]:
        done: dict[str, str] = {}
        for journal in sorted(self.partial.glob("done-*.jsonl")):
            for line in journal.read_bytes().splitlines():
                try:
                    entry = json.loads(line)
                    done[entry["video"]] = entry["sha256"]
                except (ValueError, TypeError, KeyError):
                    continue  # an empty or incomplete line; see Note [making a memory]
        return done


def _plan(entries: Mapping[str, int], channels: int, dtype: StoredType, fingerprint: str) -> Manifest:
    """The manifest before anything is encoded, without hashes."""
    return Manifest(
        format_version=FORMAT_VERSION,
        channels=channels,
        dtype=dtype,
        fingerprint=fingerprint,
        step_number=0,
        written_sha256="",
        videos={name: StoredVideo(steps=steps, sha256="") for name, steps in entries.items()},
    )


def stored(features: NDArray[np.floating], kind: np.dtype[np.floating], video: str) -> NDArray[np.floating]:
    """Features in the number format of a memory.

    Raises:
        LongMemoryError: They are not finite in that format.
    """
    with np.errstate(over="ignore"):
        rows = features.astype(kind)
    if not np.isfinite(rows).all():
        if not np.isfinite(features).all():
            raise LongMemoryError(f"video {video}: features are not finite; the encoder or its input is broken")
        raise LongMemoryError(
            f"video {video}: features up to {np.abs(features).max():.3g} do not fit {kind.name}; use a float32 memory"
        )
    return rows
