"""Bytes of a video behind an http(s) address.

Python's own client rather than FFmpeg's: it checks certificates, follows no redirect to an address that the user did
not name, and can be interrupted. See Note [FFmpeg is only handed bytes].
"""

from __future__ import annotations

import http.client
import os
import re
import socket
import threading
from contextlib import suppress
from typing import IO
from urllib import error, request

from tallformer_infer.errors import MediaError

TIMEOUT_S = 30.0
"""Longest silence of a server."""
RECONNECTS = 3
"""Times a dropped connection is taken up again where it broke."""
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+)")


class WebBytes:
    """Bytes behind an address; seekable when the server answers to ranges."""

    def __init__(self, address: str) -> None:
        """Connect to `address`.

        Raises:
            MediaError: The server cannot be reached, refuses, or redirects.
        """
        self.failure: str | None = None
        self._address = address
        self._place = 0
        self._size: int | None = None
        self._reconnects_left = RECONNECTS
        self._aborted = False
        self._response: http.client.HTTPResponse | None = None
        self._closing = threading.RLock()  # the garbage collector may call `abort` in the reading thread
        reason = self._connect()
        if reason:
            raise MediaError(f"{address}: {reason}")

    def read(self, size: int) -> bytes:
        """See `ByteSource`."""
        while not (self._aborted or self.failure or self._at_end()):
            if self._response is None:
                self.failure = self._connect()
                continue
            with suppress(OSError, http.client.HTTPException):
                data = self._response.read1(size)
                self._place += len(data)
                if data or (self._size is None and not self._response.length):
                    return data
            self._drop()
            self._reconnects_left -= 1
            if not self.seekable() or self._reconnects_left < 0:
                self.failure = f"the connection broke after {self._place} bytes"
        return b""

    def seekable(self) -> bool:
        """Whether the server answered to a range."""
        return self._size is not None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`. Connects anew at the next `read`."""
        if self._size is None:
            raise OSError("the server answers to no ranges")
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._size}[whence]
        if base + offset != self._place:
            self._drop()
            self._place = max(base + offset, 0)
        return self._place

    def tell(self) -> int:
        """See `ByteSource`."""
        return self._place

    def abort(self) -> None:
        """See `ByteSource`."""
        with self._closing:  # a closed descriptor's number may already be another file's
            self._aborted = True
            if self._response is None or self._response.closed:
                return
            with suppress(OSError), socket.socket(fileno=os.dup(self._response.fileno())) as connection:
                connection.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """See `ByteSource`."""
        self._drop()

    def _at_end(self) -> bool:
        return self._size is not None and self._place >= self._size

    def _connect(self) -> str | None:
        """Ask for the bytes from the current place on; a reason why not, or None."""
        headers = {"Range": f"bytes={self._place}-", "Accept-Encoding": "identity", "User-Agent": "tallformer"}
        try:
            response = _OPENER.open(request.Request(self._address, headers=headers), timeout=TIMEOUT_S)
        except error.HTTPError as refusal:
            with refusal:
                return refusal_of(refusal)
        except (OSError, ValueError, http.client.HTTPException) as failure:
            return f"cannot be reached: {getattr(failure, 'reason', None) or failure}"
        found = _CONTENT_RANGE.match(response.headers.get("Content-Range", "")) if response.status == 206 else None
        if found and int(found[1]) == self._place:
            self._size = int(found[2])
        elif self._place:
            response.close()
            return f"the server did not continue at byte {self._place}"
        self._response = response
        return None

    def _drop(self) -> None:
        with self._closing:
            if self._response is not None:
                self._response.close()
                self._response = None


def open_without_redirects(asked: request.Request) -> http.client.HTTPResponse:
    """Ask a server.

    Raises:
        urllib.error.HTTPError: It refuses, or redirects; see `refusal_of`.
        OSError: It cannot be reached.
    """
    answer: http.client.HTTPResponse = _OPENER.open(asked, timeout=TIMEOUT_S)
    return answer


def refusal_of(refusal: error.HTTPError) -> str:
    """Why a server did not give what it was asked for."""
    if 300 <= refusal.code < 400:
        target = refusal.headers.get("Location", "another address")
        return f"redirects to {target}; name that address itself if you trust it"
    return f"the server says {refusal.code} {refusal.reason}"


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
        """No address follows from another."""


_OPENER = request.build_opener(_RefuseRedirects)
