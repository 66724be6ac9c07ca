"""Features and candidates of videos, kept under a limit of bytes; what was not used for longest goes first."""

from __future__ import annotations

import contextlib
import io
import os
import secrets
import zlib
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tallformer_infer.archive.facts import VideoFacts
from tallformer_infer.archive.features import PARTIAL, DamagedError, FeatureReader, FeatureWriter, Shape
from tallformer_infer.errors import ConfigError
from tallformer_infer.structures import Candidates

_MAGIC = b"TFcand1\n"
_FEATURES, _CANDIDATES, _TEMPORARY = ".features", ".candidates", ".temporary"


@dataclass(frozen=True)
class StoredCandidates:
    """What localization made of a video."""

    facts: VideoFacts
    """What is known of the video."""
    candidates: Candidates
    """Before suppression."""
    floor: float
    """Candidates at or below this score were left out."""


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

    def read_candidates(self, key: str, *, floor: float) -> StoredCandidates | None:
        """The candidates of a video with scores above `floor`; None where there are none, or damaged ones."""
        path = self._path(key, _CANDIDATES)
        try:
            content = path.read_bytes()
            stored = _decode(content)
        except FileNotFoundError:
            return None
        except (OSError, DamagedError, ConfigError, ValueError, KeyError):
            with contextlib.suppress(OSError):
                path.unlink()
            return None
        _touch(path)
        return stored if stored.floor <= floor else None

    def write_candidates(self, key: str, stored: StoredCandidates) -> None:
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

    def _path(self, key: str, kind: str) -> Path:
        return self._folder / key[:2] / f"{key}{kind}"


def _encode(stored: StoredCandidates) -> bytes:
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


def _decode(content: bytes) -> StoredCandidates:
    checksum, packed = content[len(_MAGIC) : len(_MAGIC) + 4], content[len(_MAGIC) + 4 :]
    if not content.startswith(_MAGIC) or zlib.crc32(packed).to_bytes(4) != checksum:
        raise DamagedError("a checksum is wrong")
    with np.load(io.BytesIO(packed), allow_pickle=False) as arrays:
        candidates = Candidates(arrays["segments_frames"], arrays["scores"], arrays["classes"].astype(np.int64))
        return StoredCandidates(VideoFacts.decoded(arrays["facts"].tobytes()), candidates, float(arrays["floor"]))


def _touch(path: Path) -> None:
    """Note that it was used."""
    with contextlib.suppress(OSError):
        os.utime(path)
