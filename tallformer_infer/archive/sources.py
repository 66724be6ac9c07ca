"""Turn sources into a list of videos: files, folders, patterns, URLs, and lists of these in a file."""

from __future__ import annotations

import csv
import glob
import json
import os
import posixpath
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from urllib.parse import urljoin, urlsplit

from tallformer_infer.errors import ArchiveError, MediaError
from tallformer_infer.media import (
    ALLOWED_PROTOCOLS,
    RemoteBytes,
    WebBytes,
    check_foreign,
    check_protocol,
    file_system,
    is_address,
    is_web_address,
    protocol_of,
)

MANIFESTS = frozenset({".txt", ".csv", ".jsonl"})
MAX_REMOTE_BYTES = 1 << 26
"""Maximum size of a list downloaded from a URL, in bytes: about a million lines."""
_COLUMNS = ("path", "video", "source", "file", "filename", "url")


def is_manifest(source: str) -> bool:
    """Whether a file name or URL has the suffix of a list."""
    name = urlsplit(source).path if is_web_address(source) else source
    return PurePosixPath(name).suffix.lower() in MANIFESTS


def read_manifest(manifest: Path) -> list[str]:
    """Read the videos in a list, each a path or an address. Relative paths are relative to the list's folder.

    `.txt` has one per line; empty lines and those that start with `#` are skipped. `.csv` has a header, and a column
    named `path`, `video`, `source`, `file`, `filename` or `url`. `.jsonl` has a string, or an object with one of these
    keys, on each line.

    Raises:
        ArchiveError: The list cannot be read, or a line has no video; the message names the line.
    """
    try:
        content = manifest.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{manifest}: cannot be read: {error.strerror or error}") from error
    listed = _parse(content, str(manifest), manifest.suffix.lower())
    return [name if is_address(name) else str(manifest.parent / name) for name in listed]


def read_remote_manifest(address: str, allowed: Collection[str], *, only_public: bool) -> list[str]:
    """Read the videos in a list at an address, each an address. Relative ones are relative to the list.

    Args:
        address: Address of the list, see `read_manifest`.
        allowed: Allowed protocols.
        only_public: See `WebBytes`.

    Raises:
        ArchiveError: The list cannot be downloaded, is too large, or a line has no video.
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
    """Resolve an entry that is not a URL against the list at `address`: same host, or same bucket."""
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


_VIDEO_ENDINGS = """
    3g2 3gp asf av1 avi divx dv f4v flv gif h264 h265 hevc ivf m1v m2t m2ts m2v m4v mj2 mjpeg mjpg mkv mov mp4 mpe
    mpeg mpg mpv mts mxf nut obu ogm ogv qt rm rmvb ts vob webm wmv wtv y4m
"""
VIDEO_SUFFIXES = frozenset(f".{ending}" for ending in _VIDEO_ENDINGS.split())
"""Suffixes of video files, whose problems are reported."""
_OTHER_ENDINGS = """
    7z aac aiff ass bak bin bmp c cfg conf cpp csv css db doc docx eaf flac gz h h5 html ini jpeg jpg js json jsonl
    log lock lua m3u m3u8 m4a md mid mp3 nfo npy npz oga ogg onnx opus otio par2 parquet part pdf pickle pkl png ppt
    pptx pt pth py pyc rar rst safetensors sh sqlite srt sub svg tar tif tiff tmp toml torrent tsv txt vtt wav webp
    wma xls xlsx xml xz yaml yml zip zst
"""
_DEEPEST = 8
OTHER_SUFFIXES = frozenset(f".{ending}" for ending in _OTHER_ENDINGS.split())
"""Suffixes of files in folders that are skipped; all others are probed."""


@dataclass(frozen=True)
class FoundSource:
    """A video to label, or, if `is_guess`, a file to probe."""

    source: str
    """Absolute path, or URL."""
    name: str
    """Name for its results: its path below the source, or its file name."""
    is_guess: bool = False
    """Whether it was found in a folder and has no known video suffix."""
    is_foreign: bool = False
    """Whether it comes from a list at a URL, see Note [addresses that others name]."""


def find_sources(
    given: Sequence[str], *, without: Sequence[Path] = (), protocols: Collection[str] = ALLOWED_PROTOCOLS
) -> list[FoundSource]:
    """Expand sources to videos, each once, in the order given; those of a folder by name.

    Args:
        given: Files, folders, patterns, lists and addresses.
        without: Subfolders to skip: those the run writes to.
        protocols: Allowed protocols of addresses.

    Raises:
        ArchiveError: A file or folder does not exist, a folder has no video or cannot be read, none of the files in a
            list exists, a pattern matches nothing, or an address is not allowed.
    """
    search = _Search({os.path.realpath(folder) for folder in without}, frozenset(protocols))
    found: dict[str, FoundSource] = {}
    for item in given:
        for source in search.expand(item):
            earlier = found.get(source.source)
            if earlier is None or (earlier.is_guess and not source.is_guess):
                found[source.source] = source
    return list(found.values())


class _Search:
    """Expands sources to videos, including nested lists."""

    def __init__(self, without: set[str], protocols: frozenset[str]) -> None:
        self._without = without
        self._protocols = protocols
        self._open_lists: list[str] = []
        self._checked_hosts: set[str] = set()

    def expand(self, item: str, *, is_foreign: bool = False) -> Iterable[FoundSource]:
        """The videos of one source; `is_foreign`: a list at a URL names it."""
        if item == "-":
            raise ArchiveError("-: standard input can only be read once; save it to a file first")
        if is_address(item):
            return self._at_address(item, is_foreign=is_foreign)
        path = Path(item)
        if path.is_dir():
            found = list(_in_folder(path, self._without))
            if not found:
                raise ArchiveError(f"{item}: no video in this folder or its subfolders")
            return found
        if is_manifest(item) and path.is_file():
            return self._listed(path)
        if not os.path.lexists(item) and any(character in item for character in "*?["):
            matches = sorted(glob.glob(item, recursive=True))  # noqa: PTH207
            if not matches:
                raise ArchiveError(f"{item}: nothing matches this pattern")
            return [source for match in matches for source in _matched(match, self._without)]
        if not os.path.lexists(item):
            raise ArchiveError(f"{item}: no such file or folder")
        return [_file(path)]

    def _listed(self, manifest: Path) -> list[FoundSource]:
        """The entries of a list. Single missing files fail later; if all are missing, the paths are wrong."""
        found: list[FoundSource] = []
        missing: list[str] = []
        with self._inside(os.path.realpath(manifest), str(manifest)):
            for entry in read_manifest(manifest):
                is_missing = not (is_address(entry) or os.path.lexists(entry) or any(sign in entry for sign in "*?["))
                missing += [entry] if is_missing else []
                found += [_file(Path(entry))] if is_missing else self.expand(entry)
        if missing and len(missing) == len(found):
            raise ArchiveError(
                f"{manifest}: none of its {len(missing)} files exists, such as {missing[0]}; relative paths start at "
                f"{manifest.parent}"
            )
        return found

    def _at_address(self, address: str, *, is_foreign: bool) -> Iterable[FoundSource]:
        try:
            check_protocol(address, self._protocols)
            if is_foreign:
                self._check_foreign(address)
        except MediaError as error:
            raise ArchiveError(str(error)) from error
        if is_manifest(address):
            return self._listed_at(address, is_foreign=is_foreign)
        return [replace(found, is_foreign=is_foreign) for found in _at_address(address, self._protocols)]

    def _listed_at(self, address: str, *, is_foreign: bool) -> list[FoundSource]:
        is_own_file = protocol_of(address) == "file"
        with self._inside(address, address):
            entries = read_remote_manifest(address, self._protocols, only_public=is_foreign)
            return [
                found
                for entry in entries
                for found in self._at_address(entry, is_foreign=is_foreign or not is_own_file)
            ]

    def _check_foreign(self, address: str) -> None:
        """Check each host once: a list may have a million lines."""
        host = address.partition("://")[2].partition("/")[0]
        key = f"{protocol_of(address)}://{host}"
        if key not in self._checked_hosts:
            check_foreign(address)
            self._checked_hosts.add(key)

    @contextmanager
    def _inside(self, place: str, name: str) -> Iterator[None]:
        """Read a list, unless it includes itself."""
        if place in self._open_lists:
            raise ArchiveError(f"{name}: a list that includes itself")
        if len(self._open_lists) >= _DEEPEST:
            raise ArchiveError(f"{name}: lists in lists, {_DEEPEST} deep; name the innermost one itself")
        self._open_lists.append(place)
        try:
            yield
        finally:
            self._open_lists.pop()


def _matched(match: str, without: set[str]) -> Iterable[FoundSource]:
    """The files that match a pattern, except for those with the suffix of another kind of file."""
    path = Path(match)
    if path.is_dir():
        return [] if os.path.realpath(path) in without else _in_folder(path, without)
    suffix = path.suffix.lower()
    if suffix in OTHER_SUFFIXES or any(str(folder) in without for folder in Path(os.path.realpath(path)).parents):
        return []
    return [FoundSource(_absolute(path), path.name, is_guess=suffix not in VIDEO_SUFFIXES)]


def _file(path: Path) -> FoundSource:
    return FoundSource(_absolute(path), path.name)


def _in_folder(folder: Path, without: set[str]) -> Iterator[FoundSource]:
    """Files in a folder and its subfolders, without hidden ones; links to folders are not followed."""
    problems: list[OSError] = []
    for here, folders, files in os.walk(folder, onerror=problems.append):
        if problems and here == str(folder):
            break
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and os.path.realpath(Path(here, name)) not in without
        )
        for name in sorted(files):
            path = Path(here, name)
            suffix = path.suffix.lower()
            if name.startswith(".") or suffix in OTHER_SUFFIXES or not path.is_file():
                continue
            yield FoundSource(
                _absolute(path), path.relative_to(folder).as_posix(), is_guess=suffix not in VIDEO_SUFFIXES
            )
    if problems:
        first = problems[0]
        raise ArchiveError(f"{first.filename}: cannot be read: {first.strerror or first}")


def _at_address(address: str, protocols: Collection[str]) -> Iterable[FoundSource]:
    """One video, or all in a pattern or folder at a URL."""
    if is_web_address(address):
        return [FoundSource(address, _last_part(address))]
    try:
        system, path = file_system(address, protocols)
        scheme = address[: address.index("://") + 3]
        if any(character in path for character in "*?["):
            paths, base = sorted(system.glob(path)), ""
        elif system.isdir(path):
            paths, base = sorted(system.find(path)), path.rstrip("/") + "/"
        else:
            return [FoundSource(address, _last_part(address))]
    except MediaError as error:
        raise ArchiveError(str(error)) from error
    except Exception as error:  # every protocol has its own errors
        raise ArchiveError(f"{address}: cannot be listed: {error}") from error
    found = [
        FoundSource(scheme + one.removeprefix(scheme), one.removeprefix(base) if base else _last_part(one))
        for one in paths
        if PurePosixPath(one).suffix.lower() in VIDEO_SUFFIXES  # probing all others would download them
    ]
    if not found:
        raise ArchiveError(f"{address}: no file with the suffix of a video in it")
    return found


def _last_part(address: str) -> str:
    path = address.partition("?")[0].partition("#")[0]
    return path.rstrip("/").rpartition("/")[2] or "video"


def _absolute(path: Path) -> str:
    return os.path.abspath(path)  # noqa: PTH100 (links may differ on purpose)
