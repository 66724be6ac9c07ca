"""Report on every tensor of an imported file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.errors import CheckpointError

_SHOWN = 12
"""Names listed per kind in the text report."""


@dataclass(frozen=True, kw_only=True)
class ImportReport:
    """Status of every name of the file and of every parameter of the model."""

    path: Path
    """Path of the file."""
    sha256: str
    """SHA-256 of the file."""
    recipe_name: str
    """Name of the recipe."""
    layout: str
    """Title of the naming scheme."""
    container: str
    """Member of the file that contained the weights, or `` for a bare state dict."""
    has_checksums: bool
    """Whether the file has checksums, which were verified."""
    loaded: tuple[str, ...]
    """Our names of loaded parameters."""
    missing: tuple[str, ...]
    """Our names of missing parameters that were not allowed to be missing."""
    initialised: tuple[str, ...]
    """Our names of missing parameters that were allowed to be missing, and got random weights."""
    unexpected: tuple[str, ...]
    """Names of the file without a counterpart."""
    reshaped: tuple[str, ...]
    """One line for each weight whose shape differs between file and model."""
    conflicts: tuple[str, ...]
    """One line for each contradiction with the recipe, and each damaged value."""
    ignored: tuple[tuple[str, str], ...]
    """Names that are not needed, with the reason."""
    twins: tuple[str, ...]
    """Other recipes whose names and shapes the weights fit."""
    advice: str
    """What the file contains and what to do with it; `` if it fits."""

    @property
    def complete(self) -> bool:
        """Whether every name and parameter is accounted for."""
        return not (self.missing or self.unexpected or self.reshaped or self.conflicts)

    def require_complete(self) -> None:
        """Refuse an incomplete import.

        Raises:
            CheckpointError: A name is missing, unexpected, of another shape or contradictory.
        """
        if self.complete:
            return
        kinds = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.reshaped,
            "contradictory": self.conflicts,
        }
        parts = [f"{len(names)} {kind} ({_first(names)})" for kind, names in kinds.items() if names]
        hint = f"; {self.advice}" if self.advice else ""
        raise CheckpointError(f"{self.path}: does not fit recipe {self.recipe_name}: {', '.join(parts)}{hint}")

    def facts(self) -> dict[str, Any]:
        """The report as JSON values: numbers of loaded and ignored names, and lists of all others."""
        return {
            "layout": self.layout,
            "container": self.container,
            "loaded": len(self.loaded),
            "missing": list(self.missing),
            "initialised": list(self.initialised),
            "unexpected": list(self.unexpected),
            "reshaped": list(self.reshaped),
            "conflicts": list(self.conflicts),
            "ignored": len(self.ignored),
        }

    def lines(self) -> list[str]:
        """The report as text, line by line."""
        inside = f", in its `{self.container}`" if self.container else ""
        parts = Counter(name.partition(".")[0] for name in self.loaded)
        lines = [
            f"{self.path}: {self.layout}{inside}",
            f"loaded: {len(self.loaded)}" + "".join(f", {part} {count}" for part, count in parts.items()),
        ]
        lines += _listed("missing", self.missing)
        lines += _listed("allowed to be missing, random weights", self.initialised)
        lines += _listed("unexpected", self.unexpected)
        lines += _listed("reshaped", self.reshaped)
        lines += _listed("contradictory", self.conflicts)
        if not self.has_checksums:
            lines.append("the file has no checksums, so damage to single weights cannot be detected")
        if self.complete and self.twins:
            same = ", ".join(self.twins)
            lines.append(f"names and shapes are also those of {same}: use the recipe that the file was trained with")
        reasons = Counter(reason for _, reason in self.ignored)
        return lines + [f"ignored: {count}, {reason}" for reason, count in reasons.items()]


def _listed(kind: str, names: tuple[str, ...]) -> list[str]:
    if not names:
        return [f"{kind}: 0"]
    rest = [f"  … and {len(names) - _SHOWN} more"] if len(names) > _SHOWN else []
    return [f"{kind}: {len(names)}", *(f"  {name}" for name in names[:_SHOWN]), *rest]


def _first(names: tuple[str, ...]) -> str:
    return names[0] + (", …" if len(names) > 1 else "")
