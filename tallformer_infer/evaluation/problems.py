"""What is wrong with an input file, gathered so that the user sees all of it at once."""

from __future__ import annotations

from tallformer_infer.errors import AnnotationError

SHOWN = 20
"""Problems that are written out; of the others only the number."""


class Problems:
    """The problems of one file, in the order in which they were found."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._lines: list[str] = []
        self.notes: list[str] = []
        """What was passed over although nothing is wrong with it, one line each."""

    def add(self, key: str, problem: str) -> None:
        """Note a problem at `key` (a path into the file, or a line of it)."""
        self._lines.append(f"{self._source}: {key}: {problem}")

    def note(self, text: str) -> None:
        """Note what was passed over."""
        self.notes.append(f"{self._source}: {text}")

    @property
    def count(self) -> int:
        """Problems so far."""
        return len(self._lines)

    def raise_if_any(self) -> None:
        """Refuse the file if there is a problem.

        Raises:
            AnnotationError: One line per problem.
        """
        if not self._lines:
            return
        more = len(self._lines) - SHOWN
        tail = [f"{self._source}: and {more} more problems"] if more > 0 else []
        raise AnnotationError("\n".join(self._lines[:SHOWN] + tail))
