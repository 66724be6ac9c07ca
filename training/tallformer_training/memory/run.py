"""The memory of one training run: written at every step, and restored to the step of the checkpoint.

# Note [one step for checkpoint and memory]
A run's folder contains

    working/                  the memory that the run reads and writes
    step-000000120-9f86d0.../ a snapshot: a finished memory, which is no longer written
    lock                      held by the process that may write

`working` is written in place through a memory map, so a killed process may leave a mixture of old and new rows in it.
Therefore it is never read after a restart: `begin` fills it from the finished memory, `resume` from a snapshot, whose
hashes are verified. A snapshot is a full copy, written under a temporary name (Note [whole or absent]) and named by its
content. This order keeps memory and checkpoint at one step:

    name = run.snapshot(step)      the memory after `step` steps
    save the checkpoint, which contains `name`, ending with a rename
    run.prune(names in the remaining checkpoints)

A process killed before the rename leaves the old checkpoint and its snapshot, one killed after it the new ones. A copy
needs no journal and no base, takes at most the memory's size on disk, and on file systems that share blocks (Btrfs,
XFS) no space until rows differ.

# Note [several processes, one memory]
On each machine one process writes (`begin` or `resume`), all others read (`attach`, after it). All read at the start of
a step; encoded clips of all processes are gathered and written by the writer in the order of ranks, after the forward
and before the backward pass (`write_back`). The gathering waits until all have read, and the gradient exchange until
everything is written, so no row is read while it is written, whatever the videos of the ranks, and two clips that cover
one row are always written in the same order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch import distributed as dist

from tallformer_infer.errors import LongMemoryError
from tallformer_infer.files import file_sha256, write_whole
from tallformer_training.memory.bank import (
    MANIFEST_FILE,
    NEVER,
    ROWS_FILE,
    WRITTEN_FILE,
    Manifest,
    Memory,
    StoredVideo,
    Window,
    read_manifest,
    rows_sha256,
)
from tallformer_training.memory.builder import stored
from tallformer_training.memory.files import copy_file, remove_folder, remove_unfinished, whole_folder

WORKING = "working"
LOCK_FILE = "lock"
LAYOUT_FILE = "layout.json"
"""Manifest of the source of `working`; its hashes are outdated, so it does not have a manifest's name."""


if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


class RunMemory:
    """A run's memory on the process that writes it."""

    def __init__(self, folder: Path, source: Memory) -> None:
        """Fill `folder/working` from `source`; use `begin` or `resume` instead."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(folder / LOCK_FILE)
        try:
            remove_unfinished(folder)
            source.verify()
            self.memory = _fill(folder / WORKING, source)
        except BaseException:
            self.close()
            raise
        self._hashes = {name: video.sha256 for name, video in source.manifest.videos.items()}
        self._changed: set[str] = set()

    @classmethod
    def begin(cls, base: Path, folder: Path, *, fingerprint: str | None = None) -> RunMemory:
        """Start a run from a finished memory, which is not changed.

        Args:
            base: The finished memory.
            folder: The run's own folder.
            fingerprint: Required origin of the memory; None accepts any.

        Raises:
            LongMemoryError: The memory is missing, damaged or of another origin, or the folder is in use.
        """
        run = cls(folder, Memory.open(base, fingerprint=fingerprint))
        run.memory.written[:] = NEVER
        return run

    @classmethod
    def resume(cls, folder: Path, snapshot: str) -> RunMemory:
        """Resume from a snapshot.

        Args:
            folder: The run's own folder.
            snapshot: Name in the checkpoint.

        Raises:
            LongMemoryError: There is no such snapshot, or it is damaged, or the folder is in use.
        """
        source = Memory.open(folder / snapshot)
        if _snapshot_name(source.manifest) != snapshot:
            raise LongMemoryError(
                f"{folder / snapshot / MANIFEST_FILE}: not written by this run; use another checkpoint"
            )
        return cls(folder, source)

    @staticmethod
    def attach(folder: Path) -> Memory:
        """Open the run's memory for reading in another process, which sees all writes; after `begin` or `resume`.

        Raises:
            LongMemoryError: No process has started or resumed the run.
        """
        return Memory(folder / WORKING, read_manifest(folder / WORKING / LAYOUT_FILE))

    def write(
        self, video: str, first_steps: Sequence[int], features: NDArray[np.floating], *, step_number: int
    ) -> None:
        """Write stretches of one video in the given order; steps outside the video are skipped.

        Args:
            video: Name of the video.
            first_steps: Feature step in which each of N stretches starts; may be negative or past the end.
            features: Shape (N, C, steps).
            step_number: The training step now, from 0.

        Raises:
            LongMemoryError: The video is not in the memory, or features are not finite in its number format.
        """
        channels = self.memory.manifest.channels
        if features.ndim != 3 or features.shape[:2] != (len(first_steps), channels):
            raise ValueError(
                f"expected features (N, C, steps) = ({len(first_steps)}, {channels}, any), got {features.shape}"
            )
        rows = stored(features, self.memory.manifest.row_type, video)
        self._changed.add(video)
        for first, stretch in zip(first_steps, rows, strict=True):
            target, inside = self.memory.inside(video, first, features.shape[2])
            self.memory.rows[target] = stretch[:, inside].T
            self.memory.written[target] = step_number

    def snapshot(self, step_number: int) -> str:
        """Save the current memory; see Note [one step for checkpoint and memory].

        Args:
            step_number: Training steps finished so far.

        Returns:
            The snapshot's name, for the checkpoint. Equal memories at equal steps have equal names.

        Raises:
            LongMemoryError: It cannot be written.
        """
        working = self.memory.folder
        manifest = self._manifest_now(step_number)
        name = _snapshot_name(manifest)
        try:
            with whole_folder(self.folder / name) as temporary:
                copy_file(working / ROWS_FILE, temporary / ROWS_FILE)
                copy_file(working / WRITTEN_FILE, temporary / WRITTEN_FILE)
                write_whole(temporary / MANIFEST_FILE, manifest.to_bytes())
        except OSError as error:
            raise LongMemoryError(f"{self.folder / name}: {error.strerror or error}") from error
        return name

    def snapshots(self) -> list[str]:
        """Names of all snapshots, earliest step first."""
        return sorted(path.name for path in self.folder.glob("step-*"))

    def prune(self, keep: Collection[str]) -> None:
        """Remove all snapshots except those of remaining checkpoints."""
        for name in self.snapshots():
            if name not in keep:
                remove_folder(self.folder / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Release the folder; writes since the last snapshot are lost."""
        self._lock.close()

    def _manifest_now(self, step_number: int) -> Manifest:
        manifest = self.memory.manifest
        for name in self._changed:  # hashing is slower than copying; most videos do not change between checkpoints
            self._hashes[name] = rows_sha256(self.memory.rows_of(name))
        self._changed.clear()
        return dataclasses.replace(
            manifest,
            step_number=step_number,
            written_sha256=file_sha256(self.memory.folder / WRITTEN_FILE),
            videos={
                name: StoredVideo(steps=video.steps, sha256=self._hashes[name])
                for name, video in manifest.videos.items()
            },
        )


def _fill(working: Path, source: Memory) -> Memory:
    """Copy `source` to the folder `working` and open it for writing."""
    try:
        if working.exists():
            shutil.rmtree(working)
        working.mkdir()
        copy_file(source.folder / ROWS_FILE, working / ROWS_FILE)
        copy_file(source.folder / WRITTEN_FILE, working / WRITTEN_FILE)
        write_whole(working / LAYOUT_FILE, source.manifest.to_bytes())
    except OSError as error:
        raise LongMemoryError(f"{working}: {error.strerror or error}") from error
    return Memory(working, source.manifest, mode="r+")


def _snapshot_name(manifest: Manifest) -> str:
    return f"step-{manifest.step_number:09d}-{hashlib.sha256(manifest.to_bytes()).hexdigest()[:16]}"


def _lock(path: Path) -> IO[str]:
    """Lock the run for this process; the system releases the lock when the process ends."""
    file = path.open("a")
    try:
        if sys.platform == "win32":
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            # Not flock: forked data loader workers would inherit the lock and keep it after this process is killed.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        raise LongMemoryError(
            f"{path.parent}: another process trains with this memory; wait for it or stop it"
        ) from error
    return file


def write_back(
    run: RunMemory | None,
    windows: Sequence[Window],
    encoded: Tensor,
    *,
    videos: Sequence[str],
    step_number: int,
) -> None:
    """Write the encoded clips of all processes, right after the forward pass.

    Every process of the group calls it once per step, even if it encoded nothing. Clips are written in the order of
    ranks, so that the last rank wins where two clips cover a row.

    Args:
        run: The machine's memory on the process that writes it, None on all others.
        windows: This process's batch.
        encoded: Its encoded clips, those of the first window first, shape (N, C, clip_steps).
        videos: Names of all videos of the memory, in the same order on all processes.
        step_number: The training step now, from 0.
    """
    numbers = {name: number for number, name in enumerate(videos)}
    clip_steps = encoded.shape[2]
    places = [
        (numbers[window.video], window.first_step + clip * clip_steps)
        for window in windows
        for clip in window.encoded_clips
    ]
    if len(places) != len(encoded):
        raise ValueError(f"expected {len(places)} encoded clips for these windows, got {encoded.shape = }")
    where = torch.tensor(places, dtype=torch.int64, device=encoded.device).reshape(-1, 2)  # (N, 2)
    where, features = gather_rows(where), gather_rows(encoded.detach().float())
    if run is None:
        return
    for (number, first_step), stretch in zip(where.tolist(), features.cpu().numpy(), strict=True):
        run.write(videos[number], [first_step], stretch[None], step_number=step_number)


def gather_rows(rows: Tensor) -> Tensor:
    """Rows of all ranks in the order of ranks, on every rank; ranks may have different numbers of rows, or none."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(count) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, count)
    longest = int(max(counts))
    padded = rows.new_zeros(longest, *rows.shape[1:])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(number)] for part, number in zip(parts, counts, strict=True)])
