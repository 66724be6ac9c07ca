"""Spool ordinary MP4 from a pipe, or a server without ranges, to a temporary file.

An MP4 or QuickTime file whose index (`moov`) follows its pictures (`mdat`) cannot be read from front to back. Cameras
and phones write such files. Others, also MP4 with its index first, are passed on as they come.
"""

from __future__ import annotations

import os
import struct
import tempfile
from typing import IO

from tallformer_infer.media.byte_sources import ByteSource

MAX_SPOOLED_BYTES = 8 << 30
"""Largest file that is spooled."""
_BEGINNINGS = frozenset({b"ftyp", b"wide", b"free", b"skip", b"mdat", b"moov", b"pnot"})
"""Boxes that an MP4 or QuickTime file can start with."""
_INDEX = frozenset({b"moov", b"moof", b"sidx"})
_MAX_BEGINNING_BYTES = 1 << 24
_BLOCK_BYTES = 1 << 20


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
        """Whether the source is spooled. Reads as much as is needed to decide, and then to spool."""
        self._prepare()
        return self._file is not None

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """See `ByteSource`."""
        if self._file is None:
            raise OSError(f"cannot go to {offset} ({whence})")
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
                self._keep()
            except OSError as error:
                self.failure = f"cannot be kept in a temporary file: {error.strerror or error}"
        self.failure = self.failure or self._source.failure

    def _has_index_last(self) -> bool:
        """Whether pictures come before their index; reads the beginning box by box."""
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

    def _keep(self) -> None:
        self._file = file = tempfile.TemporaryFile(prefix="tallformer-")  # noqa: SIM115 (closed with this)
        kept, data = 0, self._beginning
        while data and not self._is_aborted:
            kept += len(data)
            if kept > MAX_SPOOLED_BYTES:
                self.failure = f"its index comes last, after more than {MAX_SPOOLED_BYTES >> 30} GiB: save it first"
                break
            file.write(data)
            data = self._source.read(_BLOCK_BYTES)
        file.seek(0)
