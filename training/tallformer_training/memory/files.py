"""Write folders atomically, and copy files within the kernel.

# Note [whole or absent]
A folder is filled under a name that starts with `TEMPORARY` and renamed when its content is on disk. A rename within a
file system is atomic, so a folder under its final name is complete. Remains of a killed process have a temporary name,
are never read, and are removed by the next process that owns the parent folder.
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
    """A temporary folder to fill, renamed to `folder` at the end; see Note [whole or absent].

    If `folder` exists by then, it is kept and the temporary one removed: for folders named by their content.
    """
    temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=folder.parent))
    try:
        yield temporary
        temporary.chmod(0o777 & ~_umask())
        rename_folder(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def rename_folder(source: Path, target: Path) -> None:
    """Sync the content of `source` to disk, then rename it, unless `target` exists."""
    for path in source.iterdir():
        sync(path)
    sync(source)
    if not target.exists():
        source.rename(target)
        sync(target.parent)


def remove_folder(folder: Path) -> None:
    """Remove a folder atomically: rename it, then delete it."""
    doomed = folder.with_name(f"{TEMPORARY}{folder.name}-{os.getpid()}")
    folder.rename(doomed)
    shutil.rmtree(doomed)


def remove_unfinished(parent: Path) -> None:
    """Remove remains of killed processes in `parent`."""
    for path in parent.glob(f"{TEMPORARY}*"):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Copy a file within the kernel; Btrfs and XFS share its blocks until one of the two is written."""
    if not hasattr(os, "copy_file_range"):
        shutil.copyfile(source, target)
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        left = os.fstat(reader.fileno()).st_size
        while left:
            try:
                done = os.copy_file_range(reader.fileno(), writer.fileno(), left)
            except OSError:  # not supported between these two file systems
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
