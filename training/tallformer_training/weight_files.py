"""What a file of weights is by its first bytes, and why one could not be read or written."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

Kind = Literal["torch", "arrays", "safetensors", "other"]

_LONGEST_HEADER_BYTES = 100_000_000
"""What the safetensors library reads at most."""
_TORCH_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
"""Near the start of a pickle that `torch.save` wrote."""
ZIP_MAGIC = b"PK\x03\x04"
"""How a zip begins, as `torch.save` writes them since torch 1.6."""
_LFS_POINTER = b"version https://git-lfs."
"""How the small text file begins that stands for a large file in a repository."""


def file_kind(path: Path) -> Kind:
    """Tell files of `torch.save` (a zip, or a pickle of protocol 2 or later), other pickles (`arrays`, which is what
    they must hold to be read) and safetensors files from all others.

    Raises:
        OSError: It cannot be read.
    """
    head = first_bytes(path)
    if head.startswith(ZIP_MAGIC):
        return "torch"
    # Before pickles: the length of the header that a safetensors file begins with may have 0x80 as its first byte.
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") <= _LONGEST_HEADER_BYTES:
        return "safetensors"
    if not head.startswith(b"\x80"):
        return "other"
    return "torch" if _TORCH_MAGIC in head else "arrays"


def first_bytes(path: Path) -> bytes:
    """The first 32 bytes of a file, or all where there are less.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return file.read(32)


def not_weights(path: Path, *, expected: str) -> str:
    """One sentence about a file of kind `other`: what it is where that is known, else how it begins.

    Args:
        path: The file.
        expected: What should have been there, for files that are not known.

    Raises:
        OSError: It cannot be read.
    """
    head = first_bytes(path)
    if not head:
        return "is empty"
    if head.startswith(_LFS_POINTER):
        return "is a Git LFS pointer, not the file itself; fetch the file with `git lfs pull`"
    if re.match(rb"\s*<(!doctype|html|\?xml)", head, re.IGNORECASE):
        return "is a web page, not the file itself; open the download link in a browser, it may ask for a confirmation"
    return f"expected {expected}, and it begins with {head[:16].decode('latin-1')!a}"


def reason(error: Exception) -> str:
    """Why, in a few words: no class, no number and no temporary name.

    Args:
        error: Of Python, or of the safetensors library, which words errors of the system in its own way.
    """
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, IsADirectoryError):
        return "is a folder, expected a file"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    line = (str(error).splitlines() or [type(error).__name__])[0]
    line = re.sub(r"^Error while \w+( header)?: (I/O error: )?", "", line)
    return re.sub(r" \(os error \d+\).*", "", line)
