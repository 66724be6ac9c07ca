"""Lists of videos in a file: `.txt`, `.csv` or `.jsonl`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

from tallformer_infer.errors import ArchiveError
from tallformer_infer.media.remote import is_address

MANIFESTS = frozenset({".txt", ".csv", ".jsonl"})
_COLUMNS = ("path", "video", "source", "file", "filename", "url")


def read_manifest(manifest: Path) -> list[str]:
    """The videos that a manifest lists, each as a path or an address. Relative paths begin at the manifest's folder.

    `.txt` has one per line, empty lines and those that begin with `#` aside. `.csv` has a header, and a column named
    `path`, `video`, `source`, `file`, `filename` or `url`. `.jsonl` has a text, or an object with one of these keys,
    on each line.

    Raises:
        ArchiveError: It cannot be read, or a line has no video; the message names the line.
    """
    try:
        text = manifest.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ArchiveError(f"{manifest}: cannot be read: {reason}") from error
    match manifest.suffix.lower():
        case ".txt":
            listed = [line.strip() for line in text.splitlines() if not line.startswith("#")]
        case ".csv":
            listed = _from_csv(text, manifest)
        case _:
            listed = [
                _from_json(line, manifest, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()
            ]
    videos = [name if is_address(name) else str(manifest.parent / name) for name in listed if name]
    if not videos:
        raise ArchiveError(f"{manifest}: lists no video")
    return videos


def _from_csv(text: str, manifest: Path) -> list[str]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    column = next((names[wanted] for wanted in _COLUMNS if wanted in names), None)
    if column is None:
        raise ArchiveError(f"{manifest}: its first line has none of the columns {', '.join(_COLUMNS)}")
    try:
        return [(row[column] or "").strip() for row in rows]
    except csv.Error as error:
        raise ArchiveError(f"{manifest}: line {rows.line_num}: {error}") from error


def _from_json(line: str, manifest: Path, number: int) -> str:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise ArchiveError(f"{manifest}: line {number}: not JSON: {error}") from error
    if isinstance(value, dict):
        value = next((value[key] for key in _COLUMNS if key in value), None)
    if not isinstance(value, str) or not value:
        raise ArchiveError(f"{manifest}: line {number}: expected a path, or an object with the key 'path'")
    return value
