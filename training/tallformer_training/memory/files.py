"""Files and folders that are whole or absent, whenever the process is killed.

# Note [whole or absent]
A folder is filled under a name that starts with `TEMPORARY` and renamed when everything in it is on the disk. Renaming
within a file system is atomic, so a folder under its final name is complete. What a killed process leaves behind has a
temporary name, is never read, and is removed by the next process that owns the parent folder.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tallformer_infer.files import TEMPORARY, sync


@contextmanager
def whole_folder(folder: Path) -> Iterator[Path]:
    """Give a temporary folder to fill, which becomes `folder` at the end; see Note [whole or absent].

    If `folder` exists by then, it stays and the temporary one is removed: for folders named by their content.
    """
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        rename_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rename_folder(source: Path, target: Path) -> None:
    """Bring everything in `source` to the disk, then rename it, unless `target` exists."""
    for path in source.iterdir():
        sync(path)
    sync(source)
    if not target.exists():
        source.rename(target)
        sync(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder so that it is whole or absent while that lasts."""
    doomed = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def remove_unfinished(parent: Path) -> None:
    """Remove what killed processes left in `parent`."""
    for path in parent.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Copy inside the kernel; file systems that can (Btrfs, XFS) share the blocks until one of both is written."""
    if not hasattr(os, "copy_file_range"):
        shutil.copyfile(source, target)
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        left = os.fstat(reader.fileno()).st_size
        while left:
            try:
                done = os.copy_file_range(reader.fileno(), writer.fileno(), left)
            except OSError:  # not across these two file systems
                break
            if not done:
                break
            left -= done
        else:
            return
    shutil.copyfile(source, target)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
