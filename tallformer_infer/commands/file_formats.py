"""Names of formats on the command line; nothing is imported, so that `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import typer

OutputFormat = Literal[
    "json",
    "html",
    "activitynet",
    "csv",
    "tsv",
    "jsonl",
    "srt",
    "vtt",
    "eaf",
    "labelstudio",
    "via",
    "boris",
    "otio",
    "edl",
    "fcp7",
    "ffmetadata",
]
"""What `detect` writes."""

ConvertedFormat = Literal[
    "truth",
    "activitynet",
    "csv",
    "tsv",
    "jsonl",
    "srt",
    "vtt",
    "eaf",
    "labelstudio",
    "labelstudio-config",
    "via",
    "boris",
    "otio",
    "edl",
    "fcp7",
    "ffmetadata",
]
"""What `convert` writes."""

ReadFormat = Literal[
    "json", "csv", "tsv", "jsonl", "parquet", "srt", "vtt", "eaf", "labelstudio", "via", "boris", "ffmetadata"
]
"""What `convert` reads."""

_Suffixed = Literal["csv", "tsv", "jsonl", "srt", "vtt", "eaf", "boris", "otio", "edl"]
_BY_SUFFIX: dict[str, _Suffixed] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".srt": "srt",
    ".vtt": "vtt",
    ".eaf": "eaf",
    ".boris": "boris",
    ".otio": "otio",
    ".edl": "edl",
}


def output_format(out: Path | None) -> OutputFormat:
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


def converted_format(out: Path) -> ConvertedFormat:
    """What `convert` writes to a file of this name when not told; truth for .json and for a name without an ending.

    Raises:
        typer.BadParameter: The ending is that of no format.
    """
    suffix = out.suffix.lower() if _is_file_name(out) else ""
    return "truth" if suffix in ("", ".json") else _known_suffix(suffix, out, (".json",))


def _is_file_name(out: Path) -> bool:
    """Whether the ending of a name means something: not that of a folder, a pipe or a device."""
    return not out.exists() or out.is_file()


def _known_suffix(suffix: str, out: Path | None, others: tuple[str, ...]) -> _Suffixed:
    if suffix not in _BY_SUFFIX:
        known = ", ".join((*others, *_BY_SUFFIX))
        raise typer.BadParameter(f"--out {out}: unknown ending {suffix}; expected one of {known}, or name the format")
    return _BY_SUFFIX[suffix]
