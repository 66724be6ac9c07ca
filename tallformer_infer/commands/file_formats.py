"""Formats on the command line. Their names are looked up when a command runs, so that `--help` is instant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import typer


def output_named(name: str) -> str:
    """A format that `detect` writes."""
    from tallformer_infer.labels.formats import FOR_RESULTS

    return _one_of(name, ("json", "html", *FOR_RESULTS[1:]))


def converted_named(name: str) -> str:
    """A format that `convert` writes."""
    from tallformer_infer.labels.formats import WRITABLE

    return _one_of(name, WRITABLE)


def readable_named(name: str) -> str:
    """A format that `convert` reads."""
    from tallformer_infer.labels.formats import READABLE

    return _one_of(name, READABLE)


def exported_named(name: str) -> str:
    """A format that `archive export` writes."""
    from tallformer_infer.archive.exporting import EXPORT_FORMATS

    return _one_of(name, EXPORT_FORMATS)


def output_format(out: Path | None) -> str:
    """What `detect` writes to a file of this name when not told; JSON for a name without an ending.

    Raises:
        typer.BadParameter: The ending is that of no format.
    """
    suffix = "" if out is None or not _is_file_name(out) else out.suffix.lower()
    if suffix in (".html", ".htm"):
        return "html"
    if suffix in ("", ".json"):
        return "json"
    return _known_suffix(suffix, out, (".json", ".html"))


def converted_format(out: Path) -> str:
    """What `convert` writes to a file of this name when not told; truth for .json and for a name without an ending.

    Raises:
        typer.BadParameter: The ending is that of no format.
    """
    suffix = out.suffix.lower() if _is_file_name(out) else ""
    return "truth" if suffix in ("", ".json") else _known_suffix(suffix, out, (".json",))


def _is_file_name(out: Path) -> bool:
    """Whether the ending of a name means something: not that of a folder, a pipe or a device."""
    return not out.exists() or out.is_file()


def _known_suffix(suffix: str, out: Path | None, others: tuple[str, ...]) -> str:
    from tallformer_infer.labels.formats import BY_SUFFIX, WRITABLE

    known = {suffix: name for suffix, name in BY_SUFFIX.items() if name in WRITABLE}
    if suffix not in known:
        named = ", ".join((*others, *known))
        raise typer.BadParameter(f"--out {out}: unknown ending {suffix}; expected one of {named}, or name the format")
    return known[suffix]


def _one_of(name: str, names: Sequence[str]) -> str:
    if name not in names:
        raise typer.BadParameter(f"{name!r} is not one of {', '.join(names)}")
    return name
