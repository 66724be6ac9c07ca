"""Read the bytes of what the user named as a video: a file, a pipe, an http(s) address, or one for fsspec.

# Note [FFmpeg is only handed bytes]

A video file may come from anybody, and several formats are lists of other files and addresses: HLS and DASH playlists,
concat scripts, QuickTime data references, image patterns. So this package opens what the user named, and FFmpeg reads
its bytes through a callback. FFmpeg never sees a path or an address; its protocol whitelist is empty, so it cannot
open anything itself; and only demuxers of self-contained video formats are allowed (`decoding.py`). A name with a colon
or with `%03d` in it is therefore just a name, and the bytes determine the format, not the suffix.

Only `label` uses fsspec: for `detect`, a name such as `file://x` or `ftp://x` is just a name. Byte ranges are requested
ahead of where FFmpeg reads; nothing is copied to disk.

# Note [MP4 from a pipe]

An MP4 or QuickTime file whose index (`moov`) follows its pictures (`mdat`) cannot be read from front to back. Cameras
and phones write such files. From a pipe, or a server without range requests, they are spooled to a temporary file. All
others, including MP4 with its index first, are streamed.
"""

from __future__ import annotations

import hashlib
import os
import re
import select
import stat
import struct
import sys
import tempfile
import threading
from collections.abc import Callable, Collection
from pathlib import Path
from types import ModuleType
from typing import IO, Any, Protocol, TypeVar

from tallformer_infer.errors import MediaError
from tallformer_infer.installing import install_command
from tallformer_infer.media.web import (
    ALLOWED_PROTOCOLS,
    PATIENCE_S,
    WebBytes,
    check_protocol,
    is_web_address,
    version_on_web,
)

HASHED_AT_ONCE = 1 << 22
"""Bytes per read when the only purpose is hashing."""
STDIN_NAMES = ("-", "pipe:", "pipe:0")
_WEB_ADDRESS = re.compile(r"https?://", re.IGNORECASE)
_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+:", re.IGNORECASE)

T = TypeVar("T")
_BLOCK_BYTES = 1 << 22
"""Bytes per request: about a second of ordinary video."""

MAX_SPOOLED_BYTES = 8 << 30
"""Maximum size of a spooled file, in bytes."""
_BEGINNINGS = frozenset({b"ftyp", b"wide", b"free", b"skip", b"mdat", b"moov", b"pnot"})
"""Boxes that an MP4 or QuickTime file can start with."""
_INDEX = frozenset({b"moov", b"moof", b"sidx"})
_MAX_BEGINNING_BYTES = 1 << 24
_SPOOL_BLOCK_BYTES = 1 << 20


class ByteSource(Protocol):
    """Byte stream of one video, read by one thread; only `abort` may be called from another thread."""

    failure: str | None
    """Why reading ended early; None at a normal end. `read` does not raise; FFmpeg sees an end of file instead."""

    def read(self, size: int) -> bytes:
        """Read up to `size` bytes; empty at the end of the file, after a failure and after `abort`."""
        ...

    def seekable(self) -> bool:
        """Whether `seek` works."""
        ...

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position and return it, in bytes from the start."""
        ...

    def tell(self) -> int:
        """Current position, in bytes from the start."""
        ...

    def abort(self) -> None:
        """Unblock a waiting `read`; it and all later reads return empty bytes."""
        ...

    def close(self) -> None:
        """Close the file, pipe or connection."""
        ...


def open_source(source: str | Path | WebBytes | RemoteBytes) -> ByteSource:
    """Open what the user named: a regular file, a named pipe, `-` (standard input) or an http(s) address.

    A `Path` is always a file. fsspec sources are passed in already opened, as `RemoteBytes`. Redirects are not
    followed.

    Raises:
        MediaError: The source does not exist, cannot be read, or is a directory or device.
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
    """Text to append to an error message when a source that cannot seek may be the cause."""
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
        """Always True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`."""
        self._place = os.lseek(self._descriptor, offset, whence)
        return self._place

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._place

    def sha256(self) -> str | None:
        """Hash of the whole file; reads any bytes not hashed yet. None after a failure and after `abort`."""
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
        """See `ByteSource`. Waits in `select`, not in `read`, so that `abort` can interrupt it."""
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
        """Always False."""
        return False

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Always raise OSError."""
        raise OSError(f"cannot seek in a pipe (offset {offset}, whence {whence})")

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


def file_system(address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS) -> tuple[Any, str]:
    """fsspec file system of an address, and the path within it.

    Raises:
        MediaError: The protocol is not allowed, or fsspec is not installed or does not support it.
    """
    check_protocol(address, allowed)
    try:
        found: tuple[Any, str] = _fsspec(address).core.url_to_fs(address)
    except Exception as failure:  # each protocol raises its own errors for wrong names and missing packages
        raise MediaError(f"{address}: cannot be opened: {_one_line(failure)}") from failure
    return found


def version_of_address(
    address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS, *, only_public: bool = False
) -> tuple[str, int | None]:
    """Version string of the file at an address, if the server gives one, and its size in bytes, or None if unknown.

    Args:
        address: The address.
        allowed: Protocols that may be used.
        only_public: See `WebBytes`.

    Raises:
        MediaError: The address cannot be reached, or nothing is there.
    """
    if is_web_address(address):
        told = version_on_web(address, only_public=only_public)
        parts = [address, told.tag, told.date, "" if told.size is None else str(told.size)]
        return address if not any(parts[1:]) else " ".join(parts), told.size
    system, path = file_system(address, allowed)
    try:
        details, version = _in_time(lambda: (system.info(path), system.ukey(path)))
    except Exception as failure:
        raise MediaError(f"{address}: {_reason(failure)}") from failure
    size = details.get("size")
    return f"{address} {version}", int(size) if size is not None else None


class RemoteBytes:
    """Bytes at an address, read through fsspec."""

    def __init__(self, address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS) -> None:
        """Open the address.

        Raises:
            MediaError: The address cannot be opened, or its protocol is not allowed.
        """
        self.failure: str | None = None
        self._address = address
        self._aborting = threading.Event()
        self._system, self._path = file_system(address, allowed)
        try:
            self._version = self._told_version()
            self._file: IO[bytes] = _in_time(self._open)
        except Exception as failure:
            raise MediaError(f"{address}: {_reason(failure)}") from failure

    def __str__(self) -> str:
        return self._address

    def read(self, size: int) -> bytes:
        """See `ByteSource`."""
        if self._aborting.is_set() or self.failure:
            return b""
        try:
            data = _in_time(lambda: self._file.read(size), self._aborting)
            if not data and self._told_version() != self._version:
                self.failure = "changed while it was read; try again"
            return data
        except _AbortedError:
            return b""
        except Exception as failure:
            self.failure = _one_line(failure)
            return b""

    def seekable(self) -> bool:
        """Whether the protocol supports range requests."""
        return self._file.seekable()

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`."""
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._file.tell()

    def abort(self) -> None:
        """See `ByteSource`; a request in progress is abandoned."""
        self._aborting.set()

    def close(self) -> None:
        """See `ByteSource`."""
        self._file.close()

    def _open(self) -> IO[bytes]:
        opened: IO[bytes] = self._system.open(self._path, "rb", block_size=_BLOCK_BYTES)
        return opened

    def _told_version(self) -> str:
        """Current version; empty if the protocol has none."""
        self._system.invalidate_cache()
        try:
            return str(_in_time(lambda: self._system.ukey(self._path), self._aborting))
        except (NotImplementedError, FileNotFoundError):
            return ""


class _AbortedError(Exception):
    """The read was aborted."""


def _in_time(ask: Callable[[], T], aborting: threading.Event | None = None) -> T:
    """Call `ask` with a timeout of `PATIENCE_S`, as protocols have different timeouts or none.

    Raises:
        TimeoutError: No answer in time; the daemon thread is abandoned.
    """
    answers: list[T] = []
    failures: list[BaseException] = []
    done = threading.Event()

    def run() -> None:
        try:
            answers.append(ask())
        except BaseException as failure:
            failures.append(failure)
        finally:
            done.set()

    threading.Thread(target=run, name="tallformer-remote", daemon=True).start()
    waited_s, step_s = 0.0, 0.2 if aborting is not None else PATIENCE_S
    while not done.wait(step_s):
        waited_s += step_s
        if aborting is not None and aborting.is_set():
            raise _AbortedError
        if waited_s >= PATIENCE_S:
            raise TimeoutError(f"the server sent nothing for {PATIENCE_S:.0f} s")
    if failures:
        raise failures[0]
    return answers[0]


def _fsspec(address: str) -> ModuleType:
    try:
        import fsspec  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as missing:
        raise MediaError(
            f"{address}: such addresses need the extra 'archive': {install_command('archive')}"
        ) from missing
    module: ModuleType = fsspec
    return module


def _reason(failure: Exception) -> str:
    return "no such video" if isinstance(failure, FileNotFoundError) else f"cannot be read: {_one_line(failure)}"


def _one_line(failure: Exception) -> str:
    return " ".join(str(failure).split()) or type(failure).__name__


class SpooledBytes:
    """Bytes of a source that cannot seek. Nothing is read until `seekable` or `read` is called."""

    def __init__(self, source: ByteSource) -> None:
        """Wrap `source`, which is closed together with this object."""
        self.failure: str | None = None
        self._source = source
        self._beginning = b""
        self._place = 0
        self._is_prepared = False
        self._is_aborted = False
        self._file: IO[bytes] | None = None

    def read(self, size: int) -> bytes:
        """See `ByteSource`."""
        self._prepare()
        if self._is_aborted or self.failure:
            return b""
        if self._file is not None:
            return self._file.read(size)
        data, self._beginning = self._beginning[:size], self._beginning[size:]
        data = data or self._source.read(size)
        self._place += len(data)
        self.failure = self._source.failure
        return data

    def seekable(self) -> bool:
        """Whether the source is spooled. Reads enough to decide, then spools the whole source if needed."""
        self._prepare()
        return self._file is not None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`."""
        if self._file is None:
            raise OSError(f"cannot seek (offset {offset}, whence {whence})")
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._place if self._file is None else self._file.tell()

    def abort(self) -> None:
        """See `ByteSource`."""
        self._is_aborted = True
        self._source.abort()

    def close(self) -> None:
        """See `ByteSource`; this deletes the temporary file."""
        self._source.close()
        if self._file is not None:
            self._file.close()

    def _prepare(self) -> None:
        if self._is_prepared:
            return
        self._is_prepared = True
        if self._has_index_last():
            try:
                self._spool()
            except OSError as error:
                self.failure = f"cannot be written to a temporary file: {error.strerror or error}"
        self.failure = self.failure or self._source.failure

    def _has_index_last(self) -> bool:
        """Whether `mdat` precedes the index; reads the beginning box by box."""
        start = 0
        while start < _MAX_BEGINNING_BYTES:
            while len(self._beginning) < start + 16 and (data := self._source.read(start + 16 - len(self._beginning))):
                self._beginning += data
            if len(self._beginning) < start + 16:
                return False
            size, kind, long_size = struct.unpack_from(">I4sQ", self._beginning, start)
            if kind == b"mdat":
                return True
            if kind in _INDEX or (start == 0 and kind not in _BEGINNINGS):
                return False
            size = long_size if size == 1 else size
            if size < 8:
                return False
            start += size
        return False

    def _spool(self) -> None:
        self._file = file = tempfile.TemporaryFile(prefix="tallformer-")  # noqa: SIM115 (closed with this)
        kept, data = 0, self._beginning
        while data and not self._is_aborted:
            kept += len(data)
            if kept > MAX_SPOOLED_BYTES:
                self.failure = f"its index comes last, after more than {MAX_SPOOLED_BYTES >> 30} GiB: save it first"
                break
            file.write(data)
            data = self._source.read(_SPOOL_BLOCK_BYTES)
        file.seek(0)
