"""The files of a bundle, in a folder or in a .zip of it.

Note [sizes of files]
    A .zip of a megabyte can unpack to a terabyte, and a name in a folder can be a device without an end. So whoever
    reads a file says how large it may be, nothing is read beyond that, and only regular files are read. Members are
    read one by one, never unpacked to disk, and a .zip inside a .zip is a file like any other. A name that a .zip has
    twice is refused: programs differ in which one they take. So are bzip2 and LZMA, which can ask for gigabytes.
"""

from __future__ import annotations

import os
import stat
import zipfile
import zlib
from pathlib import Path

from tallformer_infer.errors import BundleError

MOST_BYTES = 2**31
"""Of any file: what a protocol buffer, which a graph is, can hold."""
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, ValueError, OverflowError)
"""What `zipfile` raises where a .zip is damaged, or is none."""


def read_member(path: Path, name: str, *, most_bytes: int = MOST_BYTES) -> bytes:
    """Content of one file.

    Args:
        path: A folder or a .zip.
        name: Of a file at its top.
        most_bytes: It may be no larger, see Note [sizes of files].

    Raises:
        BundleError: It is not there, is larger, or cannot be read.
    """
    try:
        content = _read_file(path / name, most_bytes) if path.is_dir() else _read_zipped(path, name, most_bytes)
    except (FileNotFoundError, KeyError):
        raise BundleError(f"{path}: bundle has no {name}") from None
    except _ZIP_DAMAGE as error:
        reason = str(error) or f"{name} ends too early"
        raise BundleError(f"{path}: expected a bundle folder or a readable .zip of one: {reason}") from error
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error
    if len(content) > most_bytes:
        raise BundleError(f"{path}: {name} is larger than {most_bytes:,} bytes, which is the most that it may have")
    return content


def _read_file(file: Path, most_bytes: int) -> bytes:
    """One byte more than allowed at most."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)  # a pipe would make `open` wait
    descriptor = os.open(file, flags)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(f"{file.name} is not a regular file")
    with os.fdopen(descriptor, "rb") as opened:
        return opened.read(most_bytes + 1)


def _read_zipped(path: Path, name: str, most_bytes: int) -> bytes:
    """One byte more than allowed at most."""
    with zipfile.ZipFile(path) as archive:
        member = _zip_member(archive, name)
        if archive.namelist().count(member) > 1:
            raise zipfile.BadZipFile(f"it has two files named {member}")
        if archive.getinfo(member).compress_type not in _PACKINGS:
            raise zipfile.BadZipFile(f"{member} is packed by another method than Deflate")
        with archive.open(member) as opened:
            return opened.read(most_bytes + 1)


def files_beside(path: Path, description: str) -> list[str]:
    """Names of the files that lie beside the file `description`, sorted, without hidden ones.

    Raises:
        BundleError: The folder or .zip cannot be read.
    """
    try:
        if path.is_dir():
            names = [file.name for file in path.iterdir() if file.is_file()]
        else:
            with zipfile.ZipFile(path) as archive:
                folder = _zip_member(archive, description).removesuffix(description)
                names = [member.removeprefix(folder) for member in archive.namelist() if member.startswith(folder)]
    except (OSError, *_ZIP_DAMAGE) as error:
        raise BundleError(f"{path}: {error}") from error
    return sorted(
        name for name in names if Path(name).name == name != description and name and not name.startswith(".")
    )


def _zip_member(archive: zipfile.ZipFile, name: str) -> str:
    """The member at the top of the archive, or inside its only folder, as file managers zip a folder."""
    names = archive.namelist()
    if name in names:
        return name
    folders = {member.split("/", 1)[0] for member in names}
    return f"{folders.pop()}/{name}" if len(folders) == 1 else name
