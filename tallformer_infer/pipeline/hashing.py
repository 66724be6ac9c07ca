"""The hash of a file, computed beside the work."""

from __future__ import annotations

import threading
from pathlib import Path

from tallformer_infer.errors import MediaError
from tallformer_infer.media import file_sha256
from tallformer_infer.media.given import GivenVideo


class FileHash:
    """Hashes a file in a daemon thread, so that Ctrl-C never waits for it."""

    def __init__(self, source: GivenVideo) -> None:
        """Start at once."""
        self._source = source
        self._sha256: str | None = None
        self._thread = threading.Thread(target=self._run, name="tallformer-hash", daemon=True)
        self._thread.start()

    def wait(self) -> str | None:
        """The hash; None for what is not a regular file, or went away meanwhile."""
        self._thread.join()
        return self._sha256

    def _run(self) -> None:
        try:
            self._sha256 = file_sha256(self._source) if isinstance(self._source, (str, Path)) else None
        except MediaError:
            self._sha256 = None
