"""Files that were made for this machine, kept in the user's cache.

A kept file is named by what it was made from and by the hash of its own bytes, so one that was damaged or changed is
not used but made again.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from pathlib import Path


def kept_file(folder: Path, name: str, ending: str) -> bytes | None:
    """Content of the file that was kept under a name; None if there is none.

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
    """Keep a file; where the cache cannot be written it is made again next time.

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
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".", suffix=".partial", delete=False) as partial:
            try:
                partial.write(content)
                partial.close()
                Path(partial.name).replace(file)
            except BaseException:
                Path(partial.name).unlink(missing_ok=True)
                raise
        _drop_oldest(folder, ending, keep=file, most_bytes=most_bytes)


def _drop_oldest(folder: Path, ending: str, *, keep: Path, most_bytes: int) -> None:
    files = sorted(folder.glob(f"*{ending}"), key=lambda file: file.stat().st_mtime, reverse=True)
    total = 0
    for file in (keep, *(one for one in files if one != keep)):
        total += file.stat().st_size
        if total > most_bytes and file != keep:
            file.unlink(missing_ok=True)
