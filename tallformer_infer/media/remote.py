"""Addresses of every kind: http(s) by Python's own client (`web.py`), all others by fsspec, where it is installed.

Only who asks for it gets fsspec: by default a name such as `file://x` or `ftp://x` is just a name, see `sources.py`.

Ranges of bytes are asked for, ahead of where FFmpeg reads; nothing is copied to the disk unless a protocol (an archive
inside an archive, for instance) cannot do otherwise.
"""

from __future__ import annotations

import os
import re
from types import ModuleType
from typing import IO, Any
from urllib import error, request

from tallformer_infer.errors import MediaError
from tallformer_infer.media.web import open_without_redirects, refusal_of

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*(::[a-z][a-z0-9+.-]*)*://", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_BLOCK_BYTES = 1 << 22
"""Bytes asked for at once: a second or so of ordinary video."""


def is_address(source: str) -> bool:
    """Whether `source` names something by an address, `scheme://…`."""
    return _ADDRESS.match(source) is not None


def is_web_address(source: str) -> bool:
    """Whether `source` is an http(s) address."""
    return _WEB.match(source) is not None


def file_system(address: str) -> tuple[Any, str]:
    """The fsspec file system of an address, and the path in it.

    Raises:
        MediaError: fsspec is not installed, or does not know the scheme.
    """
    try:
        found: tuple[Any, str] = _fsspec(address).core.url_to_fs(address)
    except Exception as failure:  # every protocol has its own errors, for wrong names and for packages that are missing
        raise MediaError(f"{address}: cannot be opened: {_one_line(failure)}") from failure
    return found


def version_of_address(address: str) -> tuple[str, int | None]:
    """What tells one version of the bytes at an address from another, as far as the server says, and their number.

    Raises:
        MediaError: It cannot be reached, or there is nothing.
    """
    if is_web_address(address):
        return _version_on_web(address)
    system, path = file_system(address)
    try:
        details = system.info(path)
        version = f"{address} {system.ukey(path)}"
    except Exception as failure:
        raise MediaError(f"{address}: {_reason(failure)}") from failure
    size = details.get("size")
    return version, int(size) if size is not None else None


def _version_on_web(address: str) -> tuple[str, int | None]:
    asked = request.Request(address, method="HEAD", headers={"Accept-Encoding": "identity", "User-Agent": "tallformer"})
    try:
        with open_without_redirects(asked) as answer:
            headers = answer.headers
    except error.HTTPError as refusal:
        with refusal:
            if refusal.code in (405, 501):  # a server that answers to GET only
                return address, None
            raise MediaError(f"{address}: {refusal_of(refusal)}") from refusal
    except (OSError, ValueError) as failure:
        raise MediaError(f"{address}: cannot be reached: {getattr(failure, 'reason', None) or failure}") from failure
    size = headers.get("Content-Length")
    told = [headers.get(name, "") for name in ("ETag", "Last-Modified", "Content-Length")]
    return " ".join([address, *told]), int(size) if size and size.isdigit() else None


class RemoteBytes:
    """Bytes behind an address that fsspec reads."""

    def __init__(self, address: str) -> None:
        """Open it.

        Raises:
            MediaError: It cannot be opened.
        """
        self.failure: str | None = None
        self._address = address
        self._aborted = False
        system, path = file_system(address)
        try:
            self._file: IO[bytes] = system.open(path, "rb", block_size=_BLOCK_BYTES)
        except Exception as failure:
            raise MediaError(f"{address}: {_reason(failure)}") from failure

    def __str__(self) -> str:
        return self._address

    def read(self, size: int) -> bytes:
        """See `ByteSource`."""
        if self._aborted or self.failure:
            return b""
        try:
            return self._file.read(size)
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
        """See `ByteSource`; a read that waits for the server goes on until that answers."""
        self._aborted = True

    def close(self) -> None:
        """See `ByteSource`."""
        self._file.close()


def _fsspec(address: str) -> ModuleType:
    try:
        import fsspec  # noqa: PLC0415 (an extra)
    except ModuleNotFoundError as missing:
        raise MediaError(
            f"{address}: such addresses need the extra 'archive': pip install 'tallformer[archive]'"
        ) from missing
    module: ModuleType = fsspec
    return module


def _reason(failure: Exception) -> str:
    return "no such video" if isinstance(failure, FileNotFoundError) else f"cannot be read: {_one_line(failure)}"


def _one_line(failure: Exception) -> str:
    return " ".join(str(failure).split()) or type(failure).__name__
