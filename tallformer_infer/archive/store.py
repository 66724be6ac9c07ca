"""Store features and candidates of videos in files, within a size limit; the least recently used are evicted first.

Note [a file of records]
    A header, then one record per clip (first frame, real frames, features as float16, CRC-32), then one with the facts
    of the video, after which the file gets its final name. A killed process leaves complete records and at most one
    incomplete one, which the checksum detects; the next process continues after the last complete one. About 15 KB per
    second of video at 1024 channels. Features are rounded to float16 before anything is computed from them, so that
    actions do not depend on whether they were stored.

Note [one writer per file]
    Two runs may share a store, and one run may have the same content twice. The partial file is locked by its writer,
    and a second one is refused; the lock is released when its process ends. A writer detects that its file was renamed
    or removed: the path no longer refers to the file that it has open.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
import sys
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import ConfigError
from tallformer_infer.files import replacing
from tallformer_infer.pipeline import EncodedClip, VideoCandidates, VideoFacts
from tallformer_infer.structures import Candidates

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl


PARTIAL = ".partial"
_HEADER = struct.Struct("<8sII")
_RECORD = struct.Struct("<qi")
_CHECKSUM = struct.Struct("<I")
_FEATURES_MAGIC = b"TFfeat1\n"
_FACTS = -1
_LONGEST_FACTS = 1 << 20
_LOCKED_BYTE = 0x7FFFFFFE
"""Windows locks byte ranges and blocks reading them, so lock a byte beyond the end of any file."""

Shape = tuple[int, int]
"""Shape of the features of a clip: (C, clip steps)."""


class DamagedError(Exception):
    """A stored file is damaged."""


class InUseError(OSError):
    """Another worker writes the file."""


class FeatureReader:
    """Reads a complete file, clip by clip."""

    def __init__(self, path: Path, shape: Shape) -> None:
        """Open the file.

        Raises:
            OSError: The file is missing, or cannot be read.
            DamagedError: It is not a feature file of this model.
        """
        self.facts: VideoFacts | None = None
        """Facts of the video; available after the last clip."""
        self._shape = shape
        self._file = path.open("rb")
        try:
            _check_header(self._file, shape)
        except BaseException:
            self._file.close()
            raise

    def clips(self) -> Iterator[EncodedClip]:
        """All clips, sorted by start.

        Raises:
            DamagedError: A checksum is wrong, or the file ends too early.
        """
        with self._file:
            while True:
                record = _read_record(self._file, self._shape)
                if isinstance(record, VideoFacts):
                    self.facts = record
                    return
                if record is None:
                    raise DamagedError("ends too early")
                yield record


class FeatureWriter:
    """Continues a file that may already hold the first clips of its video."""

    def __init__(self, path: Path, shape: Shape) -> None:
        """Open or create `path` with the suffix `.partial`, and truncate an incomplete last record.

        Raises:
            InUseError: Another worker writes the file, see Note [one writer per file].
            OSError: The file cannot be written.
        """
        self._path = path
        self._partial = path.with_name(path.name + PARTIAL)
        self._shape = shape
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        self._file = os.fdopen(descriptor, "r+b", buffering=0)
        self._opened = os.fstat(descriptor)
        if not (_try_lock(self._file) and self._is_in_place()):
            self._file.close()
            raise InUseError(errno.EBUSY, "another worker is writing them", str(self._partial))
        os.utime(self._partial)  # mark it as recently used, so that a full store evicts it last
        self.stored = self._go_to_end()
        """Number of clips already in the file."""

    def stored_clips(self) -> Iterator[EncodedClip]:
        """The clips already in the file, read one at a time."""
        with self._partial.open("rb") as file:
            _check_header(file, self._shape)
            for _ in range(self.stored):
                record = _read_record(file, self._shape)
                if not isinstance(record, EncodedClip):
                    raise DamagedError("changed while it was read")
                yield record

    def append(self, clip: EncodedClip) -> None:
        """Append a clip, whose features must be finite in float16.

        Raises:
            OSError: There is no space left.
        """
        content = _RECORD.pack(clip.start_frame, clip.real_frames) + clip.features.astype("<f2").tobytes()
        self._write(content + _CHECKSUM.pack(zlib.crc32(content)))

    def finish(self, facts: VideoFacts) -> None:
        """Append the facts of the video, and give the file its final name.

        Raises:
            InUseError: The file was removed, and another worker may write a new one.
            OSError: There is no space left.
        """
        encoded = facts.encoded()
        content = _RECORD.pack(_FACTS, len(encoded)) + encoded
        self._write(content + _CHECKSUM.pack(zlib.crc32(content)))
        os.fsync(self._file.fileno())
        if not self._is_in_place():
            raise InUseError(errno.EBUSY, "another worker is writing them", str(self._partial))
        if sys.platform == "win32":  # cannot rename an open file
            self._file.close()
            self._partial.replace(self._path)
        else:
            self._partial.replace(self._path)  # before closing the file releases the lock
            self._file.close()

    def close(self) -> None:
        """Close the file, and leave it to a later run."""
        self._file.close()

    def discard(self) -> None:
        """Close and remove the file, unless another worker has taken it over."""
        is_own = self._is_in_place()
        with contextlib.suppress(OSError):
            self._file.close()
        if is_own:
            with contextlib.suppress(OSError):
                self._partial.unlink()

    def _is_in_place(self) -> bool:
        """Whether the path of the partial file still refers to the open file."""
        try:
            return os.path.samestat(self._opened, self._partial.stat())
        except OSError:
            return False

    def _go_to_end(self) -> int:
        """Count complete records, and seek to their end."""
        try:
            _check_header(self._file, self._shape)
        except DamagedError:
            self._file.seek(0)
            self._file.truncate()
            self._write(_HEADER.pack(_FEATURES_MAGIC, *self._shape))
            return 0
        count, last_start, end = 0, -1, self._file.tell()
        with contextlib.suppress(DamagedError):
            while isinstance(record := _read_record(self._file, self._shape), EncodedClip):
                if record.start_frame <= last_start:
                    break
                count, last_start, end = count + 1, record.start_frame, self._file.tell()
        self._file.seek(end)
        self._file.truncate()
        return count

    def _write(self, content: bytes) -> None:
        view = memoryview(content)
        while view:  # an unbuffered file may write only a part
            view = view[self._file.write(view) :]


class FeatureFile:
    """Stores the features of a video in progress, if there is a store; failures only cost time."""

    def __init__(self, writer: FeatureWriter | None) -> None:
        """Store nothing if `writer` is None."""
        self._writer = writer
        self.problem: str | None = None
        """Why features are not stored."""

    def known(self) -> Iterator[EncodedClip]:
        """See `FeatureKeeper`."""
        return iter(()) if self._writer is None else self._writer.stored_clips()

    def keep(self, clip: EncodedClip) -> None:
        """See `FeatureKeeper`."""
        self._write(lambda writer: writer.append(clip))

    def finish(self, facts: VideoFacts) -> None:
        """Finish the file after the last clip."""
        self._write(lambda writer: writer.finish(facts))

    def close(self) -> None:
        """Leave an unfinished file to a later run."""
        if self._writer is not None:
            self._writer.close()

    def _write(self, write: Callable[[FeatureWriter], None]) -> None:
        """Write; on failure, continue without storing."""
        if self._writer is None:
            return
        try:
            write(self._writer)
        except OSError as error:
            self._writer.discard()
            self._writer = None
            self.problem = f"features are not stored: {error.strerror or error}"


def _try_lock(file: io.FileIO) -> bool:
    """Lock a file until it is closed; False if another process or writer holds the lock."""
    if sys.platform == "win32":
        file.seek(_LOCKED_BYTE)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        finally:
            file.seek(0)
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _check_header(file: io.RawIOBase | io.BufferedIOBase, shape: Shape) -> None:
    if (file.read(_HEADER.size) or b"") != _HEADER.pack(_FEATURES_MAGIC, *shape):
        raise DamagedError("is not a file of features of this model")


def _read_record(file: io.RawIOBase | io.BufferedIOBase, shape: Shape) -> EncodedClip | VideoFacts | None:
    """The next clip, or the facts; None at the end of the file, or at an incomplete last record."""
    head = file.read(_RECORD.size) or b""
    if len(head) < _RECORD.size:
        return None
    start_frame, number = _RECORD.unpack(head)
    size = 2 * shape[0] * shape[1] if start_frame != _FACTS else number
    if start_frame < _FACTS or not 0 <= size <= max(_LONGEST_FACTS, 2 * shape[0] * shape[1]):
        raise DamagedError("a record is damaged")
    body = file.read(size + _CHECKSUM.size) or b""
    if len(body) < size + _CHECKSUM.size:
        return None
    if zlib.crc32(body[:size], zlib.crc32(head)) != _CHECKSUM.unpack(body[size:])[0]:
        raise DamagedError("a checksum is wrong")
    if start_frame == _FACTS:
        try:
            return VideoFacts.decoded(body[:size])
        except (ConfigError, ValueError) as error:
            raise DamagedError(f"facts of another version: {error}") from error
    features = np.frombuffer(body[:size], "<f2").reshape(shape).astype(np.float32)
    return EncodedClip(start_frame, number, features)


_CANDIDATES_MAGIC = b"TFcand1\n"
_LEFT_PART = 0.9
_FEATURES, _CANDIDATES = ".features", ".candidates"


class FeatureStore:
    """Files in one folder, named by content and stage, see `storage_key`. Files may be removed at any time."""

    def __init__(self, folder: Path) -> None:
        """The folder is created with the first file."""
        self._folder = folder

    def read_features(self, key: str, shape: Shape) -> FeatureReader | None:
        """The complete features of a video; None if there are none. Damaged ones are removed."""
        path = self._path(key, _FEATURES)
        try:
            _touch(path)
            return FeatureReader(path, shape)
        except FileNotFoundError:
            return None
        except (OSError, DamagedError):
            self.forget_features(key)
            return None

    def mean_features(self, key: str) -> NDArray[np.float32] | None:
        """Mean feature of a video, weighted by frames, shape (C,); None if there are no features. Does not mark use."""
        path = self._path(key, _FEATURES)
        try:
            with path.open("rb") as file:
                _, channels, steps = _HEADER.unpack(file.read(_HEADER.size))
            total, frames = np.zeros(channels), 0
            for clip in FeatureReader(path, (channels, steps)).clips():
                total += clip.real_frames * clip.features.mean(axis=1)
                frames += clip.real_frames
        except (OSError, DamagedError, struct.error):
            return None
        return (total / frames).astype(np.float32) if frames else None

    def write_features(self, key: str, shape: Shape) -> FeatureWriter:
        """Start or continue writing the features of a video.

        Raises:
            OSError: The file cannot be written.
        """
        return FeatureWriter(self._path(key, _FEATURES), shape)

    def forget_features(self, key: str) -> None:
        """Remove the features of a video, complete or partial."""
        path = self._path(key, _FEATURES)
        for doomed in (path, path.with_name(path.name + PARTIAL)):
            with contextlib.suppress(OSError):
                doomed.unlink()

    def read_candidates(self, key: str, *, floor: float, have_classes: bool = True) -> VideoCandidates | None:
        """The candidates of a video with scores above `floor`; None if there are none, or they are damaged.

        Args:
            key: See `storage_key`.
            floor: Minimum score needed.
            have_classes: Whether the stored candidates have classes; False for proposals classified from a file.
        """
        path = self._path(key, _CANDIDATES)
        try:
            content = path.read_bytes()
            stored = _decode(content, have_classes=have_classes)
        except FileNotFoundError:
            return None
        except (OSError, DamagedError, ConfigError, ValueError, KeyError):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        _touch(path)
        return stored if stored.floor <= floor else None

    def write_candidates(self, key: str, stored: VideoCandidates) -> None:
        """Store the candidates of a video.

        Raises:
            OSError: The file cannot be written.
        """
        path = self._path(key, _CANDIDATES)
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path, is_synced=False) as temporary:  # damage is detected, and candidates are recomputed
            temporary.write_bytes(_encode(stored))

    def shrink(self, budget_bytes: int, *, keep: Collection[str] = ()) -> int:
        """Remove files, the least recently used first, until the total size is within the budget.

        Args:
            budget_bytes: Maximum total size, in bytes.
            keep: Keys of files that are being written.

        Returns:
            Remaining total size, in bytes.
        """
        files = list(self._listed())
        left_bytes = sum(size for _, _, size, _ in files)
        if left_bytes > budget_bytes:
            for _, name, size, path in sorted(files):
                if left_bytes <= budget_bytes:
                    break
                if name.partition(".")[0] not in keep:
                    with contextlib.suppress(OSError):
                        os.unlink(path)  # noqa: PTH108 (as listed)
                        left_bytes -= size
        return left_bytes

    def _listed(self) -> Iterator[tuple[int, str, int, str]]:
        """Last use in nanoseconds, name, size in bytes and path of every file. `glob` takes three times as long."""
        with contextlib.suppress(OSError), os.scandir(self._folder) as folders:
            for folder in folders:
                with contextlib.suppress(OSError), os.scandir(folder) as entries:
                    for entry in entries:
                        with contextlib.suppress(OSError):
                            status = entry.stat()
                            yield status.st_mtime_ns, entry.name, status.st_size, entry.path

    def size_bytes(self, keys: Iterable[str]) -> int:
        """Total size of the files with these keys, in bytes."""
        total = 0
        for key in keys:
            for kind in (_FEATURES, _CANDIDATES):
                with contextlib.suppress(OSError):
                    total += self._path(key, kind).stat().st_size
        return total

    def _path(self, key: str, kind: str) -> Path:
        return self._folder / key[:2] / f"{key}{kind}"


class StoreLimit:
    """Keeps a store within its budget, at a cost per video that does not grow with the store.

    Note [when the store is listed]
        Listing 200,000 files takes 0.7 s of CPU time, and 2 s or more on a busy machine. They are therefore listed once
        at the start, the sizes of new files are added up, and files are listed again when the sum exceeds the budget. A
        tenth of the budget is then freed, so that a tenth must be written before the next listing. All of this runs in
        a separate thread.
    """

    def __init__(self, store: FeatureStore, budget_bytes: int) -> None:
        self._store = store
        self._budget_bytes = budget_bytes
        self._stored_bytes = 0
        self._counting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._begin(budget_bytes, frozenset())

    def count(self, keys: Iterable[str], *, keep: Collection[str]) -> None:
        """Count newly stored files.

        Args:
            keys: Keys of the new files.
            keep: Keys of files that are being written.
        """
        size_bytes = self._store.size_bytes(keys)
        with self._counting:
            self._stored_bytes += size_bytes
        is_idle = self._thread is None or not self._thread.is_alive()
        if self._stored_bytes > self._budget_bytes and is_idle:
            self._begin(int(_LEFT_PART * self._budget_bytes), keep)

    def close(self) -> None:
        """Wait until the store is within its budget; nothing more will be stored."""
        if self._thread is not None:
            self._thread.join()
        if self._stored_bytes > self._budget_bytes:
            self._shrink(int(_LEFT_PART * self._budget_bytes), frozenset())

    def _begin(self, left_bytes: int, keep: Collection[str]) -> None:
        self._thread = threading.Thread(
            target=self._shrink, args=(left_bytes, keep), name="tallformer-store", daemon=True
        )
        self._thread.start()

    def _shrink(self, left_bytes: int, keep: Collection[str]) -> None:
        before = self._stored_bytes
        left = self._store.shrink(left_bytes, keep=keep)
        with self._counting:
            self._stored_bytes += left - before  # files stored during the removal stay counted


def _encode(stored: VideoCandidates) -> bytes:
    content = io.BytesIO()
    candidates = stored.candidates
    np.savez(
        content,
        segments_frames=candidates.segments_frames,
        scores=candidates.scores,
        classes=candidates.classes.astype(np.int32),
        floor=np.float64(stored.floor),
        facts=np.frombuffer(stored.facts.encoded(), np.uint8),
    )
    arrays = content.getvalue()
    return _CANDIDATES_MAGIC + zlib.crc32(arrays).to_bytes(4) + arrays


def _decode(content: bytes, *, have_classes: bool) -> VideoCandidates:
    start = len(_CANDIDATES_MAGIC)
    checksum, packed = content[start : start + 4], content[start + 4 :]
    if not content.startswith(_CANDIDATES_MAGIC) or zlib.crc32(packed).to_bytes(4) != checksum:
        raise DamagedError("a checksum is wrong")
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        candidates = Candidates(arrays["segments_frames"], arrays["scores"], arrays["classes"].astype(np.int64))
        return VideoCandidates(
            facts=VideoFacts.decoded(arrays["facts"].tobytes()),
            candidates=candidates,
            has_classes=have_classes,
            floor=float(arrays["floor"]),
        )


def _touch(path: Path) -> None:
    """Record the use of a file."""
    with contextlib.suppress(OSError):
        os.utime(path)
