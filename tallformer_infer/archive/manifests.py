"""Lists of videos: `.txt`, `.csv` or `.jsonl`, in a file or at an address."""

from __future__ import annotations

import csv
import json
import posixpath
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from tallformer_infer.errors import ArchiveError, MediaError
from tallformer_infer.media.addresses import is_address, is_web_address
from tallformer_infer.media.remote import RemoteBytes
from tallformer_infer.media.web import WebBytes

MANIFESTS = frozenset({".txt", ".csv", ".jsonl"})
MAX_REMOTE_BYTES = 1 << 26
"""Largest list that is fetched from an address: about a million lines."""
_COLUMNS = ("path", "video", "source", "file", "filename", "url")


def is_manifest(source: str) -> bool:
    """Whether the name of a file, or of an address, is that of a list."""
    name = urlsplit(source).path if is_web_address(source) else source
    return PurePosixPath(name).suffix.lower() in MANIFESTS


def read_manifest(manifest: Path) -> list[str]:
    """The videos that a manifest lists, each as a path or an address. Relative paths begin at the manifest's folder.

    `.txt` has one per line, empty lines and those that begin with `#` aside. `.csv` has a header, and a column named
    `path`, `video`, `source`, `file`, `filename` or `url`. `.jsonl` has a text, or an object with one of these keys,
    on each line.

    Raises:
        ArchiveError: It cannot be read, or a line has no video; the message names the line.
    """
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{manifest}: cannot be read: {error.strerror or error}") from error
    listed = _parse(content, str(manifest), manifest.suffix.lower())
    return [name if is_address(name) else str(manifest.parent / name) for name in listed]


def read_remote_manifest(address: str, allowed: Collection[str], *, only_public: bool) -> list[str]:
    """The videos that a manifest at an address lists, each as an address. Relative ones begin beside the manifest.

    Args:
        address: The manifest, see `read_manifest`.
        allowed: Protocols that may be used.
        only_public: See `WebBytes`.

    Raises:
        ArchiveError: It cannot be fetched, is too large, or a line has no video.
    """
    try:
        source = (
            WebBytes(address, only_public=only_public) if is_web_address(address) else RemoteBytes(address, allowed)
        )
        try:
            content = b""
            while len(content) <= MAX_REMOTE_BYTES and (block := source.read(1 << 20)):
                content += block
        finally:
            source.close()
    except MediaError as error:
        raise ArchiveError(str(error)) from error
    if source.failure:
        raise ArchiveError(f"{address}: cannot be read: {source.failure}")
    if len(content) > MAX_REMOTE_BYTES:
        raise ArchiveError(f"{address}: a list of more than {MAX_REMOTE_BYTES >> 20} MiB; save it first")
    name = urlsplit(address).path if is_web_address(address) else address
    listed = _parse(content, address, PurePosixPath(name).suffix.lower())
    return [entry if is_address(entry) else _beside(address, entry) for entry in listed]


def _beside(address: str, entry: str) -> str:
    """An entry that is no address, as seen from the list at `address`: on the same host or in the same bucket."""
    if is_web_address(address):
        return urljoin(address, "/" * entry.startswith("/") + entry.lstrip("/"))
    scheme, _, path = address.partition("://")
    bucket, _, place = path.partition("/")
    return f"{scheme}://{bucket}{posixpath.normpath(posixpath.join('/', posixpath.dirname(place), entry))}"


def _parse(content: bytes, manifest: str, suffix: str) -> list[str]:
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ArchiveError(f"{manifest}: cannot be read: not UTF-8") from error
    match suffix:
        case ".txt":
            listed = [line.strip() for line in text.splitlines() if not line.startswith("#")]
        case ".csv":
            listed = _from_csv(text, manifest)
        case _:
            listed = [
                _from_json(line, manifest, number) for number, line in enumerate(text.splitlines(), 1) if line.strip()
            ]
    videos = [name for name in listed if name]
    if not videos:
        raise ArchiveError(f"{manifest}: lists no video")
    return videos


def _from_csv(text: str, manifest: str) -> list[str]:
    rows = csv.DictReader(text.splitlines(keepends=True))
    names = {(name or "").strip().lower(): name for name in rows.fieldnames or ()}
    column = next((names[wanted] for wanted in _COLUMNS if wanted in names), None)
    if column is None:
        raise ArchiveError(f"{manifest}: its first line has none of the columns {', '.join(_COLUMNS)}")
    try:
        return [(row[column] or "").strip() for row in rows]
    except csv.Error as error:
        raise ArchiveError(f"{manifest}: line {rows.line_num}: {error}") from error


def _from_json(line: str, manifest: str, number: int) -> str:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ArchiveError(f"{manifest}: line {number}: not JSON: {error}") from error
    if isinstance(value, dict):
        value = next((value[key] for key in _COLUMNS if key in value), None)
    if not isinstance(value, str) or not value:
        raise ArchiveError(f"{manifest}: line {number}: expected a path, or an object with the key 'path'")
    return value
