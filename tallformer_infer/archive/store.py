"""Features and candidates of videos, kept under a limit of bytes; what was not used for longest goes first."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import threading
import zlib
from collections.abc import Collection, Iterable
from pathlib import Path

import numpy as np

from tallformer_infer.archive.features import PARTIAL, DamagedError, FeatureReader, FeatureWriter, Shape
from tallformer_infer.errors import ConfigError
from tallformer_infer.pipeline.road import VideoCandidates, VideoFacts
from tallformer_infer.structures import Candidates

_MAGIC = b"TFcand1\n"
_LEFT_PART = 0.9
_FEATURES, _CANDIDATES, _TEMPORARY = ".features", ".candidates", ".temporary"


class FeatureStore:
    """Files in one folder, named by content and stage; see `archive.stages`. Files may go at any time."""

    def __init__(self, folder: Path) -> None:
        """Nothing is made before something is stored."""
        self._folder = folder

    def read_features(self, key: str, shape: Shape) -> FeatureReader | None:
        """The whole features of a video; None where there are none, or damaged ones, which are removed."""
        path = self._path(key, _FEATURES)
        try:
            _touch(path)
            return FeatureReader(path, shape)
        except FileNotFoundError:
            return None
        except (OSError, DamagedError):
            self.forget_features(key)
            return None

    def write_features(self, key: str, shape: Shape) -> FeatureWriter:
        """Begin, or go on with, the features of a video.

        Raises:
            OSError: Nothing can be written.
        """
        return FeatureWriter(self._path(key, _FEATURES), shape)

    def forget_features(self, key: str) -> None:
        """Remove the features of a video, whole or not."""
        path = self._path(key, _FEATURES)
        for doomed in (path, path.with_name(path.name + PARTIAL)):
            with contextlib.suppress(OSError):
                doomed.unlink()

    def read_candidates(self, key: str, *, floor: float, have_classes: bool = True) -> VideoCandidates | None:
        """The candidates of a video with scores above `floor`; None where there are none, or damaged ones.

        Args:
            key: See `storage_key`.
            floor: Lowest score that counts.
            have_classes: What is stored under the key; False of proposals that get their classes from a file.
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
        """Keep the candidates of a video.

        Raises:
            OSError: Nothing can be written.
        """
        path = self._path(key, _CANDIDATES)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"{secrets.token_hex(6)}{_TEMPORARY}")
        try:
            temporary.write_bytes(_encode(stored))
            temporary.replace(path)
        except BaseException:
            with contextlib.suppress(OSError):
                temporary.unlink()
            raise

    def shrink(self, budget_bytes: int, *, keep: Collection[str] = ()) -> int:
        """Remove files, those not used for longest first, until all are within the budget.

        Args:
            budget_bytes: Most bytes of all files together.
            keep: Keys of what is being written now.

        Returns:
            Bytes that are left.
        """
        files = []
        for path in self._folder.glob("*/*"):
            with contextlib.suppress(OSError):
                status = path.stat()
                files.append((status.st_mtime_ns, status.st_size, path))
        left_bytes = sum(size for _, size, _ in files)
        for _, size, path in sorted(files, key=lambda file: (file[0], file[2].name)):
            if left_bytes <= budget_bytes:
                break
            if path.name.partition(".")[0] not in keep:
                with contextlib.suppress(OSError):
                    path.unlink()
                    left_bytes -= size
        return left_bytes

    def size_bytes(self, keys: Iterable[str]) -> int:
        """Bytes of what is stored under some keys."""
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
        Listing 200,000 files took 4 to 6 s. So they are listed once in the beginning, what is stored after that is
        added up, and they are listed again when the sum exceeds the budget. A tenth of the budget is freed then, so
        that a tenth has to be written before the next time. All of it is done by a thread beside the driver.
    """

    def __init__(self, store: FeatureStore, budget_bytes: int) -> None:
        self._store = store
        self._budget_bytes = budget_bytes
        self._stored_bytes = 0
        self._counting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._begin(budget_bytes, frozenset())

    def count(self, keys: Iterable[str], *, keep: Collection[str]) -> None:
        """Files have been stored.

        Args:
            keys: Under which.
            keep: Keys of what is being written now.
        """
        size_bytes = self._store.size_bytes(keys)
        with self._counting:
            self._stored_bytes += size_bytes
        is_idle = self._thread is None or not self._thread.is_alive()
        if self._stored_bytes > self._budget_bytes and is_idle:
            self._begin(int(_LEFT_PART * self._budget_bytes), keep)

    def close(self) -> None:
        """Nothing more will be stored: wait until the store is within its budget."""
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
            self._stored_bytes += left - before  # what was counted meanwhile stays counted


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
    return _MAGIC + zlib.crc32(arrays).to_bytes(4) + arrays


def _decode(content: bytes, *, have_classes: bool) -> VideoCandidates:
    checksum, packed = content[len(_MAGIC) : len(_MAGIC) + 4], content[len(_MAGIC) + 4 :]
    if not content.startswith(_MAGIC) or zlib.crc32(packed).to_bytes(4) != checksum:
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
    """Note that it was used."""
    with contextlib.suppress(OSError):
        os.utime(path)
