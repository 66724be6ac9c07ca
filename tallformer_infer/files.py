"""Write files and folders atomically, hash files, and cache files in the user's cache folder.

# Note [whole or absent]
Content is written under another name in the same folder, synced to disk, and renamed. A rename within a file system is
atomic, so a file is either what was there before or complete.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tallformer_infer.errors import OutputError

TEMPORARY = ".tallformer-"
"""Prefix of the names of unfinished files and folders."""


@contextmanager
def replacing(path: Path, *, is_synced: bool = True) -> Iterator[Path]:
    """Give the name of a file to write, which replaces `path` at the end; see Note [whole or absent].

    After an error or Ctrl-C it is removed, and `path` is unchanged.

    Args:
        path: The file.
        is_synced: Whether to wait for the disk. False is faster, but after a power cut the file may be empty.

    Raises:
        OSError: It cannot be written.
    """
    temporary = name_beside(path)
    try:
        yield temporary
        if is_synced:
            sync(temporary)
        temporary.replace(path)
    except BaseException:  # Ctrl-C too
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    if is_synced:
        with contextlib.suppress(OSError):  # the rename survives a power cut; not every system can open a folder
            sync(path.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write a file atomically; see Note [whole or absent].

    Raises:
        OSError: The file cannot be written; an existing one is unchanged.
    """
    with replacing(path) as temporary, temporary.open("xb") as file:
        file.write(content)


@contextmanager
def writing(path: Path | str) -> Iterator[None]:
    """Translate an OSError of the block to a one-line OutputError.

    Raises:
        OutputError: The block raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error


def make_folder(folder: Path, *, mode: int = 0o777) -> None:
    """Create a folder, and those above it, where they are missing.

    Args:
        folder: Its path.
        mode: Permissions of a new folder, before the umask.

    Raises:
        OutputError: It cannot be created, or a file is in its place.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=mode)
    except OSError as error:
        raise OutputError(f"{folder}: cannot be created: {error.strerror or error}") from error


def replace_folder(made: Path, place: Path) -> None:
    """Rename the folder `made` to `place`, replacing an existing folder.

    Not every system can exchange folders atomically, so the old one is renamed first. After any failure, including
    Ctrl-C, it is renamed back; it is only removed when the new one is in place.

    Raises:
        OSError: It cannot be renamed; the old folder is where it was.
    """
    aside = place.with_name(f".{place.name}.replaced-{secrets.token_hex(6)}")
    try:
        if place.exists():
            place.rename(aside)
        made.rename(place)
    except BaseException:  # Ctrl-C too
        if aside.exists() and not place.exists():
            aside.rename(place)
        raise
    finally:
        if place.exists():
            shutil.rmtree(aside, ignore_errors=True)


def name_beside(path: Path) -> Path:
    """A name in the folder of `path` that no file has; by its ending nobody takes it for what it will be."""
    return path.with_name(f"{TEMPORARY}{secrets.token_hex(6)}.tmp")


def sync(path: Path) -> None:
    """Wait until a file or folder is on the disk.

    Raises:
        OSError: It cannot be opened.
    """
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)  # Windows syncs what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def user_cache_folder() -> Path:
    """Folder for cached files: `tallformer` in the user's cache folder; it need not exist.

    Source: XDG Base Directory Specification 0.8 on Linux; Apple's and Microsoft's conventions elsewhere.
    """
    if sys.platform == "win32":
        base = os.environ.get("LOCALAPPDATA")
        return Path(base) / "tallformer" / "cache" if base else Path.home() / "AppData/Local/tallformer/cache"
    if sys.platform == "darwin":
        return Path.home() / "Library/Caches/tallformer"
    base = os.environ.get("XDG_CACHE_HOME")
    # the specification says to ignore relative paths
    return (Path(base) if base and Path(base).is_absolute() else Path.home() / ".cache") / "tallformer"


def kept_file(folder: Path, name: str, ending: str) -> bytes | None:
    """Content of a cached file; None if there is none, or it was changed.

    The file name ends with the hash of the content, so a damaged or changed file is detected and removed.

    Args:
        folder: Where such files are kept.
        name: Says what it was made from.
        ending: Of its file name.
    """
    for file in folder.glob(f"{name}-*{ending}"):
        with contextlib.suppress(OSError):
            content = file.read_bytes()
            if file.stem == f"{name}-{hashlib.sha256(content).hexdigest()}":
                os.utime(file)
                return content
            file.unlink()
    return None


def keep_file(folder: Path, name: str, content: bytes, ending: str, *, most_bytes: int) -> None:
    """Cache a file for `kept_file`. If the folder cannot be written, this is a no-op.

    Args:
        folder: Is made.
        name: Says what it was made from.
        content: Of the file.
        ending: Of its file name.
        most_bytes: Of all files with that ending together; beyond that the oldest go.
    """
    with contextlib.suppress(OSError):
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"{name}-{hashlib.sha256(content).hexdigest()}{ending}"
        write_whole(file, content)
        _drop_oldest(folder, ending, keep=file, most_bytes=most_bytes)


def _drop_oldest(folder: Path, ending: str, *, keep: Path, most_bytes: int) -> None:
    files = sorted(folder.glob(f"*{ending}"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in (keep, *(one for one in files if one != keep)):
        total += file.stat().st_size
        if total > most_bytes and file != keep:
            file.unlink(missing_ok=True)
