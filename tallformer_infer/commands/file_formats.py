"""Names of formats on the command line; nothing is imported, so that `--help` is instant."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

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

ReadFormat = Literal["json", "csv", "tsv", "jsonl", "srt", "vtt", "eaf", "labelstudio", "via", "boris"]
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
    """What `detect` writes to a file of this name when not told; JSON where the ending says nothing."""
    suffix = "" if out is None else out.suffix.lower()
    return "html" if suffix in (".html", ".htm") else _BY_SUFFIX.get(suffix, "json")


def converted_format(out: Path) -> ConvertedFormat:
    """What `convert` writes to a file of this name when not told; truth where the ending says nothing."""
    return _BY_SUFFIX.get(out.suffix.lower(), "truth")
