"""Write documents atomically."""

from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tallformer_infer.errors import OutputError
from tallformer_infer.files import name_beside, write_whole, writing

STDOUT = Path("-")


def check_destination(out: Path, *, inputs: Sequence[str] = (), example: str = "actions.json") -> None:
    """Check that a destination can be written, before a long run.

    Args:
        out: A file, or `-` for standard output.
        inputs: Files that the run reads, and that must not be replaced.
        example: Example of a file name, for the message if `out` is a folder.

    Raises:
        OutputError: It is a folder, or one of `inputs`, or its folder is missing, or it is not writable.
    """
    if out == STDOUT:
        _check_stdout()
        return
    with writing(out):
        if out.is_dir():
            raise OutputError(f"{out}: is a folder; name a file in it, for example {out / example}")
        _check_folder(out)
        if out.exists():
            _check_existing(out, inputs)
        if _is_replaced_whole(out):
            _probe(out)


def write_document(document: dict[str, Any], out: Path) -> None:
    """Write a document as JSON.

    A file is written under a temporary name in the same folder, synced and renamed: readers see the old content or the
    new one, never a part, even if the program is stopped. A pipe or device is written directly.

    Args:
        document: JSON values.
        out: A file, or `-` for standard output.

    Raises:
        OutputError: It cannot be written. What was there before is untouched.
    """
    write_content(encode_document(document), out)


def encode_document(document: dict[str, Any]) -> bytes:
    """Encode a document as the content of a file."""
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        return f"{text}\n".encode()
    except UnicodeEncodeError:  # a file name that is not UTF-8 needs \u escapes
        return f"{json.dumps(document, indent=2, allow_nan=False)}\n".encode()


def write_content(content: bytes, out: Path) -> None:
    """Write the content of a file atomically, see `write_document`.

    Raises:
        OutputError: It cannot be written. What was there before is untouched.
    """
    if out == STDOUT:
        _write_stdout(content)
        return
    try:
        if _is_replaced_whole(out):
            write_whole(out.resolve(), content)
        else:
            out.write_bytes(content)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"{out}: cannot be written: {error.strerror or error}") from error


def _write_stdout(content: bytes) -> None:
    _check_stdout()
    try:
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise OutputError(f"standard output: cannot be written: {error.strerror or error}") from error


def _check_stdout() -> None:
    if sys.stdout is None or sys.stdout.closed:  # None after `>&-`
        raise OutputError("standard output: is closed; leave it open, or write to a file")


def _is_replaced_whole(out: Path) -> bool:
    return not out.exists() or stat.S_ISREG(out.stat().st_mode)


def _check_folder(out: Path) -> None:
    folder = out.parent
    if not folder.exists():
        raise OutputError(f"{out}: there is no folder {folder}; make it first: mkdir -p {folder}")
    if not folder.is_dir():
        raise OutputError(f"{out}: {folder} is not a folder")


def _check_existing(out: Path, inputs: Sequence[str]) -> None:
    for path in inputs:
        if Path(path).exists() and out.samefile(path):
            raise OutputError(f"{out}: is what this run reads; name another file to write")
    if not os.access(out, os.W_OK):
        raise OutputError(f"{out}: is write-protected; name another file, or allow writing: chmod u+w {out}")


def _probe(out: Path) -> None:
    """Create and remove a file where the result will be: only trying it is reliable (read-only disk, root, quota)."""
    temporary = name_beside(out.resolve())
    temporary.open("xb").close()
    temporary.unlink()
