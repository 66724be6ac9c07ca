"""Result files: their names, the folder or URL they go to, and how a finished video is written there and recorded.

Note [whole at an address]
    If a protocol can rename (sftp, ftp, smb, hdfs, a mounted disk), a file is written under another name next to its
    own and renamed. Object stores cannot, and need not: an object appears when its upload is complete, not before.

Note [an address that does not answer]
    An attempt may take minutes, in which the driver hears no worker. After three failures in a row, files are refused
    without an attempt, for 30 s or ten times as long as the last attempt took. What was refused is in the database.

Note [whose address]
    Names of result files are chosen by one database. So a URL belongs to the folder that first wrote to it; if the
    folder is empty, its copy of the database is fetched, and the run resumes from there.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import re
import secrets
import sqlite3
import threading
import time
import unicodedata
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tallformer_infer import __version__
from tallformer_infer.archive.database import DATABASE, ArchiveDatabase, Labelled, VideoRow
from tallformer_infer.archive.sources import FoundSource
from tallformer_infer.archive.stages import StageHashes, hash_recipe
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import from_json, to_json
from tallformer_infer.errors import ArchiveError, MediaError, OutputError
from tallformer_infer.files import file_sha256, name_beside, replacing, write_whole
from tallformer_infer.labels import (
    FORMATS,
    WRITABLE,
    activitynet_document,
    encode_labels,
    labelled_video,
    require_libraries,
)
from tallformer_infer.media import ALLOWED_PROTOCOLS, file_system
from tallformer_infer.report import require_report
from tallformer_infer.report.results import result_page, source_of
from tallformer_infer.results import Selection, actions_document, encode_document, write_content
from tallformer_infer.structures import Result

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_BYTES = 180
"""Most bytes of a path component; with an ending it must fit in 255."""
_MARK_DIGITS = 10


def choose_names(found: Iterable[FoundSource], taken: set[str]) -> list[tuple[FoundSource, str, str]]:
    """A name of its own for every video.

    Args:
        found: The videos, in an order that does not change.
        taken: Keys of the names of others; those chosen are added.

    Returns:
        Each video with its name, whose parts are separated by `/`, and the name's key. Keys differ even where a file
        system takes upper and lower case, or two ways to write an accent, for the same.
    """
    chosen = []
    for source in found:
        name = _safe(source.name, source.source)
        if _key(name) in taken:
            name = f"{name}~{_mark(source.source)}"
        taken.add(_key(name))
        chosen.append((source, name, _key(name)))
    return chosen


def place_in(folder: Path, name: str) -> Path:
    """The path of a result file; its folder is made.

    Raises:
        OutputError: It would lie outside of `folder`, by a link that was put there, or its folder cannot be made.
    """
    path = folder.joinpath(*name.split("/"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{path}: lies outside of {folder}: {path.parent} leads to {path.parent.resolve()}")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written: {error.strerror or error}") from error
    return path


def _safe(name: str, source: str) -> str:
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(_safe_part(part, source) for part in parts) or f"video~{_mark(source)}"


def _safe_part(part: str, source: str) -> str:
    """A path component that is valid on every system; a changed one gets a hash, so that it stays unique."""
    encoded = part.encode("utf-8", "surrogateescape")
    kept = encoded.decode("utf-8", "replace").replace("\ufffd", "_")
    kept = _UNSAFE.sub("_", kept).rstrip(". ")
    kept = kept.encode()[:_LONGEST_BYTES].decode("utf-8", "ignore")
    if kept == part and not _RESERVED.fullmatch(part):
        return part
    stem, dot, suffix = kept.rpartition(".")
    return f"{stem}~{_mark(source)}{dot}{suffix}" if stem else f"{kept or 'video'}~{_mark(source)}"


def _key(name: str) -> str:
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", name).casefold())


def _mark(source: str) -> str:
    return hashlib.sha256(source.encode("utf-8", "surrogateescape")).hexdigest()[:_MARK_DIGITS]


RESULTS = "results"
"""Folder of result files inside the output folder."""


class NotTriedError(OutputError):
    """A file was not attempted, because others have just failed."""


class ResultPlace(Protocol):
    """Stores result files by name; called from several threads."""

    @property
    def folder(self) -> Path | None:
        """The folder that names start from; None if it is not on this machine."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file, whole or not at all.

        Args:
            name: Below the place, with `/` between folders.
            content: All of it.

        Raises:
            OutputError: It cannot be written, or would lie outside of the place.
        """

    def has(self, name: str) -> bool:
        """Whether a file of this name exists."""

    def try_again(self) -> None:
        """Forget a failure, so that refused files are attempted again."""


class ResultFolder:
    """A folder of this machine."""

    def __init__(self, out: Path) -> None:
        """Write to the results folder in `out`."""
        self.folder = out / RESULTS

    def write(self, name: str, content: bytes) -> None:
        """See `ResultPlace`."""
        write_content(content, place_in(self.folder, name))

    def has(self, name: str) -> bool:
        """See `ResultPlace`."""
        return self.folder.joinpath(*name.split("/")).is_file()

    def try_again(self) -> None:
        """Every file is attempted anyway."""


T = TypeVar("T")

_FAILURES_IN_A_ROW = 3
_LEAST_QUIET_S = 30.0
_QUIET_FACTOR = 10.0
_TEMPORARY = re.compile(r"/\.tallformer-[0-9a-f]{12}\.tmp$")


class RemotePlace:
    """A URL with a folder of results, and files next to it."""

    folder = None

    def __init__(self, address: str, protocols: Collection[str] = ALLOWED_PROTOCOLS) -> None:
        """Connect, and see what is there.

        Args:
            address: Where files go.
            protocols: Of addresses that may be used.

        Raises:
            OutputError: It cannot be reached, or fsspec is not installed.
        """
        self.address = address.rstrip("/")
        """As the user named it."""
        self._protocols = protocols
        self._system: Any = None
        self._root = ""
        self._one_at_a_time = threading.Lock()
        self._failures = 0
        self._quiet_until_s = 0.0
        self._names = set(self._do("", self._list))

    def write(self, name: str, content: bytes) -> None:
        """See `ResultPlace`."""
        self._put(f"{RESULTS}/{name}", lambda system, path: system.pipe_file(path, content))

    def has(self, name: str) -> bool:
        """Whether a file of this name existed at the start, or exists now."""
        return f"{RESULTS}/{name}" in self._names

    def try_again(self) -> None:
        """See `ResultPlace`."""
        self._quiet_until_s = 0.0

    def has_beside(self, name: str) -> bool:
        """Whether a file of this name exists next to the results."""
        return name in self._names

    def upload(self, file: Path, name: str) -> None:
        """Copy a file of this machine to a name beside the results, whole or not at all.

        Raises:
            OutputError: It cannot be written.
        """
        self._put(name, lambda system, path: system.put_file(str(file), path))

    def download(self, name: str, file: Path) -> None:
        """Copy what lies beside the results to a file of this machine, which is replaced whole.

        Raises:
            OutputError: It cannot be read.
        """
        with replacing(file) as temporary:
            self._do(name, lambda system: system.get_file(self._path(name), str(temporary)), verb="read")

    def _list(self, system: Any) -> list[str]:
        system.invalidate_cache()
        found: list[str] = []
        if system.exists(self._root):
            found += system.ls(self._root, detail=False)
        if system.exists(self._path(RESULTS)):
            found += system.find(self._path(RESULTS))
        for path in found:
            if _TEMPORARY.search(path):  # of a run that was cut off
                with contextlib.suppress(Exception):
                    system.rm_file(path)
        return [path.removeprefix(self._root).lstrip("/") for path in found]

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    def _put(self, name: str, put: Callable[[Any, str], object]) -> None:
        """See Note [whole at an address]."""
        if time.monotonic() < self._quiet_until_s:
            raise NotTriedError(f"{self.address}/{name}: cannot be written: the address did not answer a moment ago")
        self._do(name, lambda system: self._put_whole(system, name, put))
        self._names.add(name)

    def _put_whole(self, system: Any, name: str, put: Callable[[Any, str], object]) -> None:
        if not _can_rename(system):
            put(system, self._path(name))
            return
        if _is_local(system):  # a link in it may lead elsewhere
            place_in(Path(self._root), name)
        folder = self._path(name).rpartition("/")[0]
        _make_folder(system, folder)
        temporary = f"{folder}/.tallformer-{secrets.token_hex(6)}.tmp"
        try:
            put(system, temporary)
            _rename(system, temporary, self._path(name))
        except Exception:  # after Ctrl-C there is no time; the next run removes it
            with contextlib.suppress(Exception):
                system.rm_file(temporary)
            raise

    def _do(self, name: str, work: Callable[[Any], T], *, verb: str = "written") -> T:
        """Run an operation on the URL, reconnect after a failure, and translate errors."""
        began_s = time.monotonic()
        try:
            with self._alone():
                done = work(self._connected())
        except OutputError:
            raise
        except Exception as error:  # every protocol has its own errors
            self._note_failure(time.monotonic() - began_s)
            reason = " ".join(str(error).split()) or type(error).__name__
            place, what = (f"{self.address}/{name}", verb) if name else (self.address, "reached")
            raise OutputError(f"{place}: cannot be {what}: {reason}") from error
        self._failures = 0
        return done

    def _connected(self) -> Any:
        system = self._system
        if system is None:
            try:
                system, root = file_system(self.address, self._protocols)
            except MediaError as error:
                raise ConnectionError(str(error).removeprefix(f"{self.address}: ")) from error
            self._system, self._root = system, root.rstrip("/")
        return system

    def _alone(self) -> contextlib.AbstractContextManager[Any]:
        """Serialise operations of protocols that have one connection."""
        system = self._system
        is_parallel = system is not None and (system.async_impl or _is_local(system))
        return contextlib.nullcontext() if is_parallel else self._one_at_a_time

    def _note_failure(self, took_s: float) -> None:
        self._system = None
        self._failures += 1
        if self._failures >= _FAILURES_IN_A_ROW:
            self._quiet_until_s = time.monotonic() + max(_LEAST_QUIET_S, _QUIET_FACTOR * took_s)


def _make_folder(system: Any, folder: str) -> None:
    try:
        system.makedirs(folder, exist_ok=True)
    except Exception:
        system.invalidate_cache()
        if not system.isdir(folder):  # else somebody was quicker
            raise


def _rename(system: Any, temporary: str, path: str) -> None:
    try:
        system.mv(temporary, path)
    except Exception:
        if not system.exists(path):
            raise
        system.rm_file(path)  # some servers refuse to replace a file: for a moment there is none
        system.mv(temporary, path)


def _is_local(system: Any) -> bool:
    return "file" in ([system.protocol] if isinstance(system.protocol, str) else system.protocol)


def _can_rename(system: Any) -> bool:
    """Whether the protocol renames natively; by default fsspec copies and deletes."""
    from fsspec.spec import AbstractFileSystem  # noqa: PLC0415 (an extra)

    return type(system).mv is not AbstractFileSystem.mv


_NOTE = "address.json"


@dataclass(frozen=True)
class _Note:
    """What the state folder stores about its URL."""

    address: str = ""
    """URL for the result files."""
    copied: str = ""
    """SHA-256 of the database copy at the URL; empty before the first copy."""


def claim(state: Path, place: RemotePlace) -> None:
    """See Note [whose address].

    Args:
        state: The folder, which exists.
        place: Where result files go.

    Raises:
        ArchiveError: The address belongs to another folder.
        OutputError: Its database cannot be fetched, or the folder cannot be written.
    """
    is_there, is_here = place.has_beside(DATABASE), (state / DATABASE).is_file()
    if is_there and not is_here:
        place.download(DATABASE, state / DATABASE)
    elif is_there and _note_in(state).address != place.address:
        raise ArchiveError(
            f"{place.address}: holds an archive that was not written from {state}; name its own --state folder, or an "
            "empty one to fetch its database, or another --out"
        )
    if _note_in(state).address != place.address:
        _keep(state, _Note(place.address))


def copy_database(database: ArchiveDatabase, place: RemotePlace) -> None:
    """Have a copy of the database at the address, if what is there is not the same.

    Raises:
        OutputError: It cannot be written.
    """
    state = database.path.parent
    copy = name_beside(state / DATABASE)
    try:
        database.connection.execute("VACUUM INTO ?", (str(copy),))
        sha256 = file_sha256(copy)
        if sha256 != _note_in(state).copied or not place.has_beside(DATABASE):
            place.upload(copy, DATABASE)
            _keep(state, _Note(place.address, sha256))
    except (sqlite3.Error, OSError) as error:
        raise OutputError(f"{database.path}: cannot be copied: {error}") from error
    finally:
        copy.unlink(missing_ok=True)


def _note_in(state: Path) -> _Note:
    with contextlib.suppress(OSError, ValueError, TypeError):
        return _Note(**json.loads((state / _NOTE).read_text(encoding="utf-8")))
    return _Note()


def _keep(state: Path, note: _Note) -> None:
    try:
        write_whole(state / _NOTE, json.dumps(asdict(note)).encode())
    except OSError as error:
        raise OutputError(f"{state / _NOTE}: cannot be written: {error.strerror or error}") from error


_SHARED_SUFFIXES = (".json", ".xml", ".txt")


def check_formats(formats: Sequence[str]) -> None:
    """Refuse formats whose libraries are not installed, before hours are spent.

    Raises:
        ExtraError: One is missing.
    """
    for form in formats:
        if form == "html":
            require_report()
        else:
            require_libraries(form)


def file_name(name: str, form: str) -> str:
    """Name of a result file in the results folder; `/` between folders."""
    if form in ("json", "html"):
        return f"{name}.{form}"
    suffix = FORMATS[form].suffix
    return f"{name}.{form}{suffix}" if suffix in _SHARED_SUFFIXES else f"{name}{suffix}"


def write_outputs(
    result: Result, selection: Selection, *, place: ResultPlace, name: str, formats: Sequence[str]
) -> None:
    """Write the result files of a video, each whole or not at all.

    Raises:
        OutputError: One cannot be written, or would lie outside of the place.
    """
    for form in formats:
        file = file_name(name, form)
        folder = None if place.folder is None else place.folder.joinpath(*file.split("/")).parent
        if form == "json":
            content = encode_document(actions_document([result], selection=selection))
        elif form == "activitynet":
            content = encode_document(activitynet_document([result], selection=selection))
        elif form == "html":
            content = result_page([result], selection=selection, sources=[source_of(result.video.path, folder)])
        elif form in WRITABLE:
            content = encode_labels([labelled_video(result)], form, folder=folder)
        else:
            raise ValueError(form)
        place.write(file, content)


def has_outputs(place: ResultPlace, name: str, formats: Sequence[str]) -> bool:
    """Whether all result files of a video exist."""
    return all(place.has(file_name(name, form)) for form in formats)


class ResultKeeper:
    """Writes the results of a run, with the facts that are recorded with them."""

    def __init__(
        self,
        database: ArchiveDatabase,
        bundle: Bundle,
        hashes: StageHashes,
        *,
        selection: Selection,
        place: ResultPlace,
        formats: Sequence[str],
    ) -> None:
        self._database = database
        self._hashes = hashes
        self._selection = selection
        self.place = place
        """Place of the result files."""
        self.formats = tuple(formats)
        """Formats of the result files of a video."""
        self._model = (bundle.sha256, bundle.recipe.name, hash_recipe(bundle))
        self._versions = {"tallformer": __version__, "av": metadata.version("av")}

    def write_files(self, row: VideoRow, result: Result) -> None:
        """Write the result files of a video; may be called from several threads.

        The row must not claim to have them meanwhile, see `ArchiveDatabase.forget_outputs`.

        Args:
            row: The video.
            result: What was found in it, or in a file of the same content.

        Raises:
            OutputError: A file cannot be written.
        """
        named = _under_path_of(row, result)
        write_outputs(named, self._selection, place=self.place, name=row.name, formats=self.formats)

    def is_written(self, row: VideoRow) -> bool:
        """Whether the result files of a video exist and are of this model and these settings, as its row says."""
        return (
            row.actions_hash == self._hashes.actions
            and set(self.formats) <= set(row.outputs)
            and has_outputs(self.place, row.name, self.formats)
        )

    def record(
        self,
        row: VideoRow,
        result: Result,
        remarks: Sequence[str],
        *,
        counts: bool = True,
        problem: str | None = None,
    ) -> None:
        """Write the row and the actions of a video whose result files are written.

        Args:
            row: The video.
            result: What was found in it.
            remarks: What else there is to know.
            counts: It was an attempt of its own.
            problem: Why the files could not be written; they can be, later, from what the row keeps.

        Raises:
            ArchiveError: The database cannot be written.
        """
        labelled = Labelled(
            duration_s=result.duration_s,
            missing_s=result.missing_s,
            decode_errors=result.decode_errors,
            result=to_json(dataclasses.replace(_under_path_of(row, result), actions=())),
            selection=to_json(self._selection),
            remarks=tuple(remarks),
            hashes=(self._hashes.encoder, self._hashes.localizer, self._hashes.actions),
            outputs=() if problem else self.formats,
            model=self._model,
            versions={**self._versions, "runtime": result.provenance.runtime},
        )
        self._database.finish(row.id, labelled, result.actions, counts=counts, problem=problem)

    def same_content(self, row: VideoRow) -> tuple[VideoRow, Result] | None:
        """Another video with the same content that is done under this model and these settings."""
        for other in self._database.videos_of_content(row.content or "", self._hashes.actions):
            if other.id != row.id and other.result is not None:
                return other, stored_result(self._database, other)
        return None


def _under_path_of(row: VideoRow, result: Result) -> Result:
    return dataclasses.replace(result, video=dataclasses.replace(result.video, path=row.source))


def stored_result(database: ArchiveDatabase, row: VideoRow) -> Result:
    """The result of a video that is done, as it was found.

    Raises:
        ConfigError: It was written by another version.
    """
    result = from_json(Result, row.result, where=f"result of {row.source}")
    return dataclasses.replace(result, actions=database.actions_of(row.id))
