"""The files of a bundle, in a folder or in a .zip of it."""

from __future__ import annotations

import lzma
import zipfile
import zlib
from pathlib import Path

from tallformer_infer.errors import BundleError

_ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError, OverflowError)
"""What `zipfile` raises where a .zip is damaged, or is none."""


def read_member(path: Path, name: str) -> bytes:
    """Content of one file.

    Args:
        path: A folder or a .zip.
        name: Of a file at its top.

    Raises:
        BundleError: It is not there, or cannot be read.
    """
    try:
        if path.is_dir():
            return (path / name).read_bytes()
        with zipfile.ZipFile(path) as archive:
            return archive.read(_zip_member(archive, name))
    except (FileNotFoundError, KeyError):
        raise BundleError(f"{path}: bundle has no {name}") from None
    except _ZIP_DAMAGE as error:
        reason = str(error) or f"{name} ends too early"
        raise BundleError(f"{path}: expected a bundle folder or a readable .zip of one: {reason}") from error
    except OSError as error:
        raise BundleError(f"{path}: {error.strerror or error}") from error


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
