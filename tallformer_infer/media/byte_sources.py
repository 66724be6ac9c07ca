"""Open what the user named as a video, and read its bytes.

# Note [FFmpeg is only handed bytes]

A video file may come from anybody, and several formats are lists of other files and addresses: HLS and DASH playlists,
concat scripts, QuickTime data references, image patterns. So this package opens what the user named, and FFmpeg reads
its bytes through a callback. FFmpeg never sees a path or an address; its protocol whitelist is empty, so it can open
nothing by itself; and only demuxers of self-contained video formats are allowed (`containers.py`). A name with a colon
or with `%03d` in it is therefore just a name, and the bytes decide the format, not the suffix.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import stat
import sys
import threading
from pathlib import Path
from typing import Protocol

from tallformer_infer.errors import MediaError
from tallformer_infer.media.remote import RemoteBytes
from tallformer_infer.media.web import WebBytes

HASHED_AT_ONCE = 1 << 22
"""Bytes that are read at once for a hash alone."""
STDIN_NAMES = ("-", "pipe:", "pipe:0")
_WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)


class ByteSource(Protocol):
    """Byte stream of one video, read by one thread; only `abort` may be called from another."""

    failure: str | None
    """Why reading ended early; None at a normal end. `read` does not raise: FFmpeg sees the end of the file."""

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes from the current position; empty at the end, after a failure and after `abort`."""
        ...

    def seekable(self) -> bool:
        """Whether `seek` works."""
        ...

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it, counted from the start."""
        ...

    def tell(self) -> int:
        """Current position, counted from the start."""
        ...

    def abort(self) -> None:
        """Make a waiting `read`, and every later one, return at once."""
        ...

    def close(self) -> None:
        """Close the file, pipe or connection."""
        ...


def open_source(source: str | Path | WebBytes | RemoteBytes) -> ByteSource:
    """Open what the user named: a regular file, a named pipe, `-` (standard input) or an http(s) address.

    A `Path` is always a file. Sources that fsspec reads are passed in already opened, see `remote.py`. Redirects are
    not followed.

    Raises:
        MediaError: It does not exist, cannot be read, or is something else.
    """
    if isinstance(source, str):
        if source in STDIN_NAMES:
            return _from_descriptor(os.dup(_stdin_descriptor()), source)
        if _WEB_ADDRESS.match(source):
            return WebBytes(source)
    if isinstance(source, (WebBytes, RemoteBytes)):
        return source
    return _open_path(source)


def seek_hint(source: ByteSource) -> str:
    """Text to append to an error message where the source itself may be the cause."""
    return "" if source.seekable() else "; a pipe, or a server without ranges, cannot seek: save the file first"


def is_regular_file(source: str | Path) -> bool:
    """Whether `source` names a regular file (not standard input, not an address)."""
    if isinstance(source, str) and (source in STDIN_NAMES or _WEB_ADDRESS.match(source)):
        return False
    return os.path.isfile(source)  # noqa: PTH113 - unlike Path.is_file it takes a name with a null character


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


def _stdin_descriptor() -> int:
    try:
        return sys.stdin.fileno()
    except (OSError, ValueError, AttributeError) as error:
        raise MediaError("-: there is no standard input to read a video from") from error


def _open_path(source: str | Path) -> ByteSource:
    try:
        mode = os.stat(source).st_mode  # noqa: PTH116 - a name is taken as it is
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):  # opening a device may already do something
            raise MediaError(_wrong_kind(source, mode))
        return _from_descriptor(os.open(source, os.O_RDONLY | getattr(os, "O_BINARY", 0)), source)
    except FileNotFoundError as error:
        raise MediaError(_missing(source)) from error
    except (OSError, ValueError) as error:  # ValueError: a null character in the name
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise MediaError(f"{source}: cannot be read: {reason}") from error


def _from_descriptor(descriptor: int, source: str | Path) -> ByteSource:
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode):
        if status.st_size:
            return FileBytes(descriptor)
        problem = f"{source}: empty file"
    elif stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
        return PipeBytes(descriptor)
    else:
        problem = _wrong_kind(source, status.st_mode)
    os.close(descriptor)
    raise MediaError(problem)


def _missing(source: str | Path) -> str:
    if isinstance(source, str) and _ADDRESS.match(source):
        return f"{source}: no such video; only files, - (standard input) and http(s) addresses are read"
    return f"{source}: no such video"


def _wrong_kind(source: str | Path, mode: int) -> str:
    if stat.S_ISDIR(mode):
        return f"{source}: a directory, expected a video file"
    if stat.S_ISCHR(mode) and source in STDIN_NAMES:
        return f"{source}: standard input is a terminal or device, expected a video piped into it"
    return f"{source}: a device or socket, expected a video file"


class FileBytes:
    """Bytes of a regular file, hashed as they are read, so that a file is read only once."""

    def __init__(self, descriptor: int) -> None:
        self.failure: str | None = None
        self._descriptor = descriptor
        self._aborted = False
        self._version = self._told_version()
        self._place = os.lseek(descriptor, 0, os.SEEK_CUR)
        self._digest = hashlib.sha256()
        self._hashed = 0

    def read(self, size: int) -> bytes:
        """See `ByteSource`."""
        if self._aborted or self.failure:
            return b""
        try:
            data = os.read(self._descriptor, size)
        except OSError as error:
            self.failure = error.strerror or str(error)
            return b""
        if self._place <= self._hashed < self._place + len(data):
            self._digest.update(memoryview(data)[self._hashed - self._place :])
            self._hashed = self._place + len(data)
        self._place += len(data)
        return data

    def seekable(self) -> bool:
        """Always."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`."""
        self._place = os.lseek(self._descriptor, offset, whence)
        return self._place

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._place

    def sha256(self) -> str | None:
        """Hash of the whole file, reading what was skipped so far; None after a failure and after `abort`."""
        self.seek(self._hashed)
        while self.read(HASHED_AT_ONCE):
            pass
        return None if self._aborted or self.failure else self._digest.hexdigest()

    def is_changed(self) -> bool:
        """Whether size or modification time changed since the file was opened."""
        return self._told_version() != self._version

    def abort(self) -> None:
        """See `ByteSource`."""
        self._aborted = True

    def close(self) -> None:
        """See `ByteSource`."""
        os.close(self._descriptor)

    def _told_version(self) -> tuple[int, int]:
        status = os.fstat(self._descriptor)
        return status.st_size, status.st_mtime_ns


class PipeBytes:
    """Bytes of a pipe, read once, front to back."""

    def __init__(self, descriptor: int) -> None:
        self.failure: str | None = None
        self._descriptor = descriptor
        self._place = 0
        self._wake_read, self._wake_write = os.pipe()
        self._aborted = False
        self._is_closed = False
        self._closing = threading.RLock()  # the garbage collector may call `abort` in the reading thread

    def read(self, size: int) -> bytes:
        """See `ByteSource`. Waits for data without blocking in the kernel, so that `abort` gets through."""
        try:
            ready, _, _ = select.select([self._descriptor, self._wake_read], [], [])
            if self._aborted or self._descriptor not in ready:
                return b""
            data = os.read(self._descriptor, size)
        except OSError as error:
            self.failure = error.strerror or str(error)
            return b""
        self._place += len(data)
        return data

    def seekable(self) -> bool:
        """Never."""
        return False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Refused."""
        raise OSError(f"a pipe cannot go to {offset} ({whence})")

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._place

    def abort(self) -> None:
        """See `ByteSource`."""
        with self._closing:  # a closed descriptor's number may already be another file's
            self._aborted = True
            if not self._is_closed:
                os.write(self._wake_write, b"x")

    def close(self) -> None:
        """See `ByteSource`."""
        with self._closing:
            self._is_closed = True
        for descriptor in (self._descriptor, self._wake_read, self._wake_write):
            os.close(descriptor)
