"""What is wrong with annotations, gathered so that the user sees all of it at once."""

from __future__ import annotations

from tallformer_infer.errors import AnnotationError


class Findings:
    """Problems of annotations and their videos, in the order in which they were found; all of them are shown."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        """One per problem: file, key, what is wrong."""

    def add(self, source: str, key: str, problem: str) -> None:
        """Note a problem at `key`, a path into the file `source` or a line of it."""
        self.lines.append(f"{source}: {key}: {problem}")

    def raise_if_any(self) -> None:
        """Refuse to go on if there is a problem.

        Raises:
            AnnotationError: One line per problem.
        """
        if self.lines:
            raise AnnotationError("\n".join(self.lines))
