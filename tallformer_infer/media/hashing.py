"""The identity of a video file."""

from __future__ import annotations

import hashlib
from pathlib import Path

from tallformer_infer.errors import MediaError
from tallformer_infer.media.sources import is_regular_file


def file_sha256(source: str | Path) -> str | None:
    """SHA-256 of a file's bytes in hexadecimal; None for anything that is not a regular file.

    Raises:
        MediaError: The file cannot be read.
    """
    if not is_regular_file(source):
        return None
    try:
        with open(source, "rb") as file:  # noqa: PTH123 - a name is taken as it is
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise MediaError(f"{source}: cannot be read: {error.strerror}") from error
