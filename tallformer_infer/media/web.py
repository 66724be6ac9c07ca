"""Read the bytes of a video from an http(s) address, and decide which addresses may be read.

This uses Python's own client, not FFmpeg's: it checks certificates, follows no redirects, and can be interrupted.
See Note [FFmpeg is only handed bytes].

Note [a file that changes]
    If a file is replaced between two range requests, their bytes must not be spliced. Every response must match the
    entity tag, date and size of the first; if the server gave a strong tag or a date, `If-Range` makes it check.

Note [how long a server may be silent]
    A worker of `label` counts as hanging after 60 s (`archive/processes.py`). Reading therefore fails `PATIENCE_S`
    after the last byte, with a reason, regardless of the number of attempts.

Note [addresses that others name]
    A list fetched from an address is untrusted. It must not make this machine read local files or contact hosts that
    only this machine can reach: loopback, private and link-local ones, where cloud machines serve credentials. Such a
    list may therefore not name files, and only public hosts. Host names are resolved when sources are listed, and again
    for each connection, which uses the address that was checked. The command line and local lists may name anything.

Note [chains]
    fsspec reads `a::b` as a file system inside another (`zip::https://…`, `reference::…`), and some of these evaluate
    templates found in the data. Chains are never passed to fsspec.
"""

from __future__ import annotations

import http.client
import ipaddress
import os
import re
import socket
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any
from urllib import error, request
from urllib.parse import urlsplit

from tallformer_infer.errors import MediaError

ALLOWED_PROTOCOLS = frozenset({"file", "http", "https", "s3", "gs", "az"})
"""Protocols that are allowed by default; `--allow-protocol` adds more."""
_ALIASES = {"local": "file", "s3a": "s3", "gcs": "gs", "abfs": "az", "abfss": "az"}
"""Aliases that fsspec knows for these."""
_WITHOUT_HOST = frozenset({"s3", "gs", "az"})
"""Protocols whose addresses name a bucket of a service that the user configured."""
_ADDRESS = re.compile(r"[a-z][a-z0-9+._-]*(::[a-z][a-z0-9+._-]*)*://", re.IGNORECASE)
_WEB = re.compile(r"https?://", re.IGNORECASE)
_CHAIN_ON_WEB = re.compile(r"::[a-z][a-z0-9+._-]*://", re.IGNORECASE)

TIMEOUT_S = 15.0
"""Time without a byte before the next attempt, in seconds."""
PATIENCE_S = 45.0
"""Time without a byte over all attempts, in seconds, after which reading fails."""
RECONNECTS = 3
"""Consecutive attempts without a byte after which reading fails."""
_WAIT_S = 0.5
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")
_WEAK_TAG = "W/"
_NO_HEAD = frozenset({401, 403, 404, 405, 501})
"""Status codes for HEAD from servers that may accept GET: addresses signed for GET only, or HEAD not supported."""
_BUSY = frozenset({408, 425, 429, 500, 502, 503, 504})
"""Status codes that are retried."""


def is_address(source: str) -> bool:
    """Whether `source` is an address, `scheme://…`."""
    return _ADDRESS.match(source) is not None


def is_web_address(source: str) -> bool:
    """Whether `source` is an http(s) address."""
    return _WEB.match(source) is not None


def check_protocol(address: str, allowed: Collection[str] = ALLOWED_PROTOCOLS) -> None:
    """Refuse chains and protocols that are not allowed, see Note [chains].

    Args:
        address: The address.
        allowed: Names of allowed protocols.

    Raises:
        MediaError: The protocol is not allowed, or the address is a chain.
    """
    # A web address is read by our own client, and may contain `::`, as in http://[::1]/
    chained = _CHAIN_ON_WEB.search(address) if is_web_address(address) else "::" in address
    if chained:
        raise MediaError(f"{address}: chains of protocols (::) are not read; name the file itself")
    protocol = protocol_of(address)
    if protocol not in {_ALIASES.get(name, name) for name in allowed}:
        names = ", ".join(sorted(allowed))
        raise MediaError(
            f"{address}: protocol {protocol} is not allowed; expected {names}, or add --allow-protocol {protocol}"
        )


def check_foreign(address: str) -> None:
    """Refuse an address from an untrusted list that is local or not public.

    See Note [addresses that others name].

    Raises:
        MediaError: It is a local file, or its host is not public or cannot be resolved.
    """
    protocol = protocol_of(address)
    if protocol == "file":
        raise MediaError(f"{address}: a list at an address may not name files of this machine")
    if protocol in _WITHOUT_HOST:
        return
    try:
        parts = urlsplit(address)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise MediaError(f"{address}: not an address: {error}") from error
    if not host:
        raise MediaError(f"{address}: no host in the address")
    try:
        public_addresses(host, port or 443)
    except PermissionError as error:
        raise MediaError(f"{address}: {error}") from error
    except OSError as error:
        if not is_web_address(address):  # web addresses are resolved again on connecting, so they may fail then
            raise MediaError(f"{address}: {error.strerror or error}") from error


def public_addresses(host: str, port: int) -> list[str]:
    """Resolve a host and check that all its addresses are public.

    Raises:
        PermissionError: An address is loopback, private, link-local or otherwise not public.
        OSError: The host cannot be resolved.
    """
    try:
        found = [str(info[4][0]) for info in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    except UnicodeError as error:
        raise OSError(f"host {host!r} cannot be found") from error
    hidden = next((address for address in found if not _is_public(address)), None)
    if hidden is not None:
        raise PermissionError(
            f"host {host} is at {hidden}, which is not public; name it on the command line or in a list on this machine"
        )
    return found


def host_of(address: str) -> str:
    """Host of a web address in lower case; empty if it has none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def protocol_of(address: str) -> str:
    """Protocol of an address in lower case, with aliases resolved."""
    name = address.partition(":")[0].lower()
    return _ALIASES.get(name, name)


def _is_public(address: str) -> bool:
    parsed = ipaddress.ip_address(address.partition("%")[0])
    parsed = getattr(parsed, "ipv4_mapped", None) or getattr(parsed, "sixtofour", None) or parsed
    return parsed.is_global and not parsed.is_multicast


@dataclass(frozen=True)
class Version:
    """Version of a file according to the server."""

    tag: str
    """Entity tag, or empty."""
    date: str
    """Date of the last change, or empty."""
    size: int | None
    """Bytes of the whole file."""

    @staticmethod
    def of(answer: http.client.HTTPResponse) -> Version:
        """Read the version from the headers of a full or partial response."""
        headers = answer.headers
        found = _CONTENT_RANGE.match(headers.get("Content-Range", "")) if answer.status == 206 else None
        length = headers.get("Content-Length", "")
        size = int(found[2]) if found else int(length) if answer.status == 200 and length.isdigit() else None
        return Version(headers.get("ETag", ""), headers.get("Last-Modified", ""), size)

    @property
    def validator(self) -> str:
        """Value for `If-Range`: a strong tag, otherwise the date, otherwise empty."""
        return self.date if not self.tag or self.tag.startswith(_WEAK_TAG) else self.tag

    def differs_from(self, other: Version) -> bool:
        """Whether any value given by both differs; partial responses need not repeat every header."""
        pairs = [(self.tag, other.tag), (self.date, other.date), (self.size, other.size)]
        return any(one and another and one != another for one, another in pairs)


class WebBytes:
    """Bytes at an http(s) address; seekable if the server supports ranges."""

    def __init__(self, address: str, *, only_public: bool = False) -> None:
        """Connect to `address`.

        Args:
            address: An http(s) address.
            only_public: Connect to public hosts only, see Note [addresses that others name].

        Raises:
            MediaError: The server cannot be reached, refuses, or redirects.
        """
        self.failure: str | None = None
        self._address = address
        self._opener = _PUBLIC_OPENER if only_public else _OPENER
        self._place = 0
        self._size: int | None = None
        self._version: Version | None = None
        self._tries_left = RECONNECTS
        self._heard_s = time.monotonic()
        self._aborting = threading.Event()
        self._response: http.client.HTTPResponse | None = None
        self._closing = threading.RLock()  # the garbage collector may call `abort` in the reading thread
        reason, _ = self._connect()
        if reason:
            raise MediaError(f"{address}: {reason}")

    def __str__(self) -> str:
        return self._address

    def read(self, size: int) -> bytes:
        """See `ByteSource`."""
        while not (self._aborting.is_set() or self.failure or self._at_end()):
            if self._response is None:
                reason, is_passing = self._connect()
                if reason:
                    self._try_again(reason, is_passing=is_passing)
                    continue
            assert self._response is not None, "connected"
            with suppress(OSError, http.client.HTTPException):
                data = self._response.read1(size)
                self._place += len(data)
                if data:
                    self._tries_left, self._heard_s = RECONNECTS, time.monotonic()
                if data or (self._size is None and not self._response.length):
                    return data
            self._drop()
            self._try_again(f"the connection broke after {self._place} bytes", is_passing=self.seekable())
        return b""

    def seekable(self) -> bool:
        """Whether the server supports ranges."""
        return self._size is not None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`. The next `read` reconnects."""
        if self._size is None:
            raise OSError("the server does not support range requests")
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if base + offset != self._place:
            self._drop()
            self._place = max(base + offset, 0)
            self._heard_s = time.monotonic()
        return self._place

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._place

    def abort(self) -> None:
        """See `ByteSource`."""
        with self._closing:  # a closed descriptor's number may already be another file's
            self._aborting.set()
            if self._response is None or self._response.closed:
                return
            with suppress(OSError), socket.socket(fileno=os.dup(self._response.fileno())) as connection:
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `ByteSource`."""
        self._drop()

    def _at_end(self) -> bool:
        return self._size is not None and self._place >= self._size

    def _try_again(self, reason: str, *, is_passing: bool) -> None:
        """Wait before the next attempt, or give up."""
        self._tries_left -= 1
        silent_s = time.monotonic() - self._heard_s
        if not is_passing or self._tries_left < 0:
            self.failure = reason
        elif silent_s >= PATIENCE_S:
            self.failure = f"the server sent nothing for {silent_s:.0f} s"
        elif self._tries_left < RECONNECTS - 1:  # the first try follows at once
            self._aborting.wait(_WAIT_S)

    def _connect(self) -> tuple[str | None, bool]:
        """Request bytes from the current position; return the reason for a failure or None, and whether to retry."""
        headers = _headers(Range=f"bytes={self._place}-")
        if self._version is not None and self._version.validator:
            headers["If-Range"] = self._version.validator
        left_s = PATIENCE_S - (time.monotonic() - self._heard_s)
        try:
            response = self._opener.open(
                request.Request(self._address, headers=headers), timeout=max(min(TIMEOUT_S, left_s), 1.0)
            )
        except error.HTTPError as refusal:
            with refusal:
                return refusal_of(refusal), refusal.code in _BUSY
        except (OSError, ValueError, http.client.HTTPException) as failure:
            return f"cannot be reached: {getattr(failure, 'reason', None) or failure}", isinstance(failure, OSError)
        reason = self._take(response)
        if reason:
            response.close()
            return reason, False
        self._response = response
        return None, True

    def _take(self, response: http.client.HTTPResponse) -> str | None:
        """Check that a response continues the file at the current position; return the reason if not."""
        version = Version.of(response)
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", "")) if response.status == 206 else None
        if self._version is not None and version.differs_from(self._version):
            return "changed while it was read; try again"
        if found and int(found[1]) == self._place:
            self._size = int(found[2])
        elif self._place:
            return f"the server did not continue at byte {self._place}"
        self._version = self._version or version
        return None

    def _drop(self) -> None:
        with self._closing:
            if self._response is not None:
                self._response.close()
                self._response = None


def version_on_web(address: str, *, only_public: bool = False) -> Version:
    """Ask a server for the version of a file.

    Raises:
        MediaError: It cannot be reached, refuses, or redirects.
    """
    opener = _PUBLIC_OPENER if only_public else _OPENER
    try:
        try:
            with opener.open(request.Request(address, method="HEAD", headers=_headers()), timeout=TIMEOUT_S) as answer:
                return Version.of(answer)
        except error.HTTPError as refusal:
            with refusal:
                if refusal.code not in _NO_HEAD:
                    raise
        first_byte = request.Request(address, headers=_headers(Range="bytes=0-0"))
        with opener.open(first_byte, timeout=TIMEOUT_S) as answer:
            return Version.of(answer)
    except error.HTTPError as refusal:
        with refusal:
            raise MediaError(f"{address}: {refusal_of(refusal)}") from refusal
    except (OSError, ValueError, http.client.HTTPException) as failure:
        raise MediaError(f"{address}: cannot be reached: {getattr(failure, 'reason', None) or failure}") from failure


def refusal_of(refusal: error.HTTPError) -> str:
    """Describe why a server refused."""
    if 300 <= refusal.code < 400:
        target = refusal.headers.get("Location", "another address")
        return f"redirects to {target}; use that address if you trust it"
    return f"the server answered {refusal.code} {refusal.reason}"


def _headers(**more: str) -> dict[str, str]:
    return {"Accept-Encoding": "identity", "User-Agent": "tallformer", **more}


class _RefuseRedirects(request.HTTPRedirectHandler):
    def redirect_request(
        self,
        req: request.Request,
        fp: IO[bytes],
        code: int,
        msg: str,
        headers: http.client.HTTPMessage,
        newurl: str,
    ) -> None:
        """Refuse every redirect."""


def _connect_to_public(address: tuple[str, int], *arguments: Any, **options: Any) -> socket.socket:
    """Like `socket.create_connection`, to the first address of a host if all are public."""
    host, port = address
    return socket.create_connection((public_addresses(host, port)[0], port), *arguments, **options)


class _PublicHttpConnection(http.client.HTTPConnection):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._create_connection = _connect_to_public


class _PublicHttpsConnection(http.client.HTTPSConnection):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._create_connection = _connect_to_public


class _PublicHttp(request.HTTPHandler):
    def http_open(self, req: request.Request) -> http.client.HTTPResponse:
        """Connect to public hosts only; with a configured proxy, the proxy connects."""
        return self.do_open(http.client.HTTPConnection if req.has_proxy() else _PublicHttpConnection, req)


class _PublicHttps(request.HTTPSHandler):
    def https_open(self, req: request.Request) -> http.client.HTTPResponse:
        """See `_PublicHttp.http_open`."""
        is_proxied = getattr(req, "_tunnel_host", None) is not None
        connection = http.client.HTTPSConnection if is_proxied else _PublicHttpsConnection
        return self.do_open(connection, req)  # with the default context, which checks certificates


_OPENER = request.build_opener(_RefuseRedirects)


_PUBLIC_OPENER = request.build_opener(_RefuseRedirects, _PublicHttp, _PublicHttps)
