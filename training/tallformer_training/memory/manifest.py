"""What a memory says about itself."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import BackboneConfig, Recipe, from_json, to_json
from tallformer_infer.errors import ConfigError, LongMemoryError

StoredType = Literal["float16", "float32"]

FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
ROWS_FILE = "rows.bin"
"""Features of all videos one after another, (rows, C), C order, no header."""
WRITTEN_FILE = "written.bin"
"""Step of the training run in which each row was written, -1 before the run, (rows,) int64."""

NEVER = -1


@dataclass(frozen=True, kw_only=True)
class StoredVideo:
    """One video of a memory."""

    steps: int
    """Feature steps."""
    sha256: str
    """Hash of its rows."""


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
    """What made the features, see `encoder_fingerprint`."""
    step_number: int
    """Training steps that have written to it; 0 for a fresh one."""
    written_sha256: str
    """Hash of `written.bin`."""
    videos: dict[str, StoredVideo]
    """By name, in the order of their rows."""

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
                "make the memory again"
            )
        return from_json(Manifest, value, where="manifest")
    except FileNotFoundError as error:
        raise LongMemoryError(f"{path.parent}: no long memory here (no {path.name})") from error
    except (OSError, ValueError, RecursionError, ConfigError) as error:
        raise LongMemoryError(f"{path}: not the manifest of a long memory: {error}") from error


def encoder_fingerprint(recipe: Recipe, *, weights_sha256: str = "") -> str:
    """Name what decides the features: the encoder's architecture, how it gets its frames, and its first weights.

    Stochastic depth and frozen stages are left out: they decide how the encoder is trained, not what it computes. So is
    the kind of Video Swin, which memories were made with before there was another.
    """
    backbone = to_json(recipe.model.backbone)
    if isinstance(recipe.model.backbone, BackboneConfig):
        del backbone["kind"], backbone["drop_path"], backbone["frozen_stages"]
    decisive = [backbone, to_json(recipe.sampling), recipe.window.clip_frames, weights_sha256]
    return hashlib.sha256(json.dumps(decisive, sort_keys=True).encode()).hexdigest()


def rows_sha256(rows: NDArray[np.generic]) -> str:
    """Hash of some rows as they lie on the disk."""
    return hashlib.sha256(np.ascontiguousarray(rows).data).hexdigest()
