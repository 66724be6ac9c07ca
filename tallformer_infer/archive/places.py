"""Where result files go: a folder of this machine, or an address that fsspec writes to."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from tallformer_infer.archive.naming import place_in
from tallformer_infer.errors import OutputError
from tallformer_infer.results import write_content

RESULTS = "results"
"""Folder of result files inside the output folder."""


class NotTriedError(OutputError):
    """A file that was not tried to be written, as others could not be a moment ago."""


class ResultPlace(Protocol):
    """Takes files by name, from several threads at once."""

    @property
    def folder(self) -> Path | None:
        """The folder that names begin in; None where it is not on this machine."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Args:
            name: Below the place, with `/` between folders.
            content: All of it.

        Raises:
            OutputError: It cannot be written, or would lie outside of the place.
        """

    def has(self, name: str) -> bool:
        """Whether there is a file of this name."""

    def try_again(self) -> None:
        """Forget that something went wrong: what was refused because of it is worth another try."""


class ResultFolder:
    """A folder of this machine."""

    def __init__(self, out: Path) -> None:
        """Files go to the folder of results in `out`."""
        self.folder = out / RESULTS

    def write(self, name: str, content: bytes) -> None:
        """See `ResultPlace`."""
        write_content(content, place_in(self.folder, name))

    def has(self, name: str) -> bool:
        """See `ResultPlace`."""
        return self.folder.joinpath(*name.split("/")).is_file()

    def try_again(self) -> None:
        """Each file is tried anyway."""
