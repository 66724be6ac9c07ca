"""Names of result files: they come from the videos' own, and stay in the folder of results."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from pathlib import Path

from tallformer_infer.archive.sources import FoundSource
from tallformer_infer.errors import OutputError

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_BYTES = 180
"""Of one part of a path; with an ending it must fit in 255."""
_MARK_DIGITS = 10


def choose_names(found: Iterable[FoundSource], taken: set[str]) -> list[tuple[FoundSource, str, str]]:
    """A name of its own for every video.

    Args:
        found: The videos, in an order that does not change.
        taken: Keys of the names of others; those chosen are added.

    Returns:
        Each video with its name, whose parts are separated by `/`, and the name's key. Keys differ even where a file
        system takes upper and lower case, or two ways to write an accent, for the same.
    """
    chosen = []
    for source in found:
        name = _safe(source.name, source.source)
        if _key(name) in taken:
            name = f"{name}~{_mark(source.source)}"
        taken.add(_key(name))
        chosen.append((source, name, _key(name)))
    return chosen


def place_in(folder: Path, name: str) -> Path:
    """The path of a result file; its folder is made.

    Raises:
        OutputError: It would lie outside of `folder`, by a link that was put there, or its folder cannot be made.
    """
    path = folder.joinpath(*name.split("/"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{path}: lies outside of {folder}: {path.parent} leads to {path.parent.resolve()}")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _safe(name: str, source: str) -> str:
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(_safe_part(part, source) for part in parts) or f"video~{_mark(source)}"


def _safe_part(part: str, source: str) -> str:
    """A part of a path that every system takes; one that had to be changed is marked, so that it stays unique."""
    encoded = part.encode("utf-8", "surrogateescape")
    kept = encoded.decode("utf-8", "replace").replace("\ufffd", "_")
    kept = _UNSAFE.sub("_", kept).rstrip(". ")
    kept = kept.encode()[:_LONGEST_BYTES].decode("utf-8", "ignore")
    if kept == part and not _RESERVED.fullmatch(part):
        return part
    stem, dot, suffix = kept.rpartition(".")
    return f"{stem}~{_mark(source)}{dot}{suffix}" if stem else f"{kept or 'video'}~{_mark(source)}"


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _mark(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:_MARK_DIGITS]
