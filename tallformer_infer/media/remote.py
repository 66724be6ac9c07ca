"""Read addresses: http(s) with Python's own client (`web.py`), all others with fsspec, if it is installed.

Only `label` uses fsspec: for `detect`, a name such as `file://x` or `ftp://x` is just a name, see `byte_sources.py`.

Byte ranges are requested ahead of where FFmpeg reads; nothing is copied to disk.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection
from types import ModuleType
from typing import IO, Any, TypeVar

from tallformer_infer.errors import MediaError
from tallformer_infer.installing import install_command
from tallformer_infer.media.addresses import ALLOWED_PROTOCOLS, check_protocol, is_web_address
from tallformer_infer.media.web import PATIENCE_S, version_on_web

T = TypeVar("T")
_BLOCK_BYTES = 1 << 22
"""Bytes requested at a time: about a second of ordinary video."""


def file_system(address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS) -> tuple[Any, str]:
    """fsspec file system of an address, and the path in it.

    Raises:
        MediaError: Its protocol is not allowed, or fsspec is not installed or does not know it.
    """
    check_protocol(address, allowed)
    try:
        found: tuple[Any, str] = _fsspec(address).core.url_to_fs(address)
    except Exception as failure:  # every protocol has its own errors, for wrong names and for packages that are missing
        raise MediaError(f"{address}: cannot be opened: {_one_line(failure)}") from failure
    return found


def version_of_address(
    address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS, *, only_public: bool = False
) -> tuple[str, int | None]:
    """Version of the bytes at an address, as far as the server gives one, and their number.

    Args:
        address: The address.
        allowed: Protocols that may be used.
        only_public: See `WebBytes`.

    Raises:
        MediaError: It cannot be reached, or there is nothing.
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
    """Bytes behind an address that fsspec reads."""

    def __init__(self, address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS) -> None:
        """Open it.

        Raises:
            MediaError: It cannot be opened, or its protocol is not allowed.
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
        """Whether the protocol reads ranges."""
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
    """Call `ask` with a limit of `PATIENCE_S`: protocols have time limits of their own, or none.

    Raises:
        TimeoutError: No answer in time; the thread is abandoned and ends with the process at the latest.
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
