"""Standard output that cannot be written is an error in one line, like any other output."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO

from tallformer_infer.errors import OutputError


def guard_streams() -> None:
    """Have writing to a full or closed standard output raise `OutputError`; a closed standard error takes everything.

    A character that a stream cannot carry becomes a question mark. What is to be exact is written as bytes.
    """
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (as long as the program)
    sys.stdout = _guarded(sys.stdout)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")


def _guarded(stdout: TextIO | None) -> TextIO:
    if stdout is None:  # as `>&-` makes it
        return _ClosedOutput()  # type: ignore[return-value]
    buffer = stdout.buffer
    raw = getattr(buffer, "raw", buffer)
    if not isinstance(stdout, io.TextIOWrapper) or type(raw) is not io.FileIO:  # a console of Windows, a test
        return stdout
    return io.TextIOWrapper(
        io.BufferedWriter(_Output(raw.fileno(), "w", closefd=False)),
        encoding=stdout.encoding,
        line_buffering=stdout.line_buffering or stdout.write_through,
    )


class _Output(io.FileIO):
    """Fails once; then it takes everything, as what is left in buffers is written again when the program ends."""

    _has_failed = False

    def write(self, data: Any, /) -> int:
        """As `FileIO`, with an `OutputError`; a reader that went away stays the error that it is."""
        if self._has_failed:
            return len(data)
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._has_failed = True
            raise OutputError(f"standard output: cannot be written: {error.strerror or error}") from error


class _ClosedOutput(io.TextIOBase):
    @property
    def closed(self) -> bool:
        """Yes, for whoever asks before writing."""
        return True

    def isatty(self) -> bool:
        """No."""
        return False

    def flush(self) -> None:
        """Nothing to do."""

    def write(self, _text: str, /) -> int:
        """Refuse."""
        raise OutputError("standard output: is closed; leave it open, or write to a file")
