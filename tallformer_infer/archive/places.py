"""Destination of the result files of an archive: a local folder, or a URL, which also gets a copy of the database.

Note [whole at an address]
    If a protocol can rename (sftp, ftp, smb, hdfs, a mounted disk), a file is written under a temporary name next to
    its own and renamed. Object stores cannot, and need not: an object only appears when its upload is complete.

Note [an address that does not answer]
    An attempt may take minutes, during which the driver does not serve workers. After three consecutive failures, files
    are refused without an attempt, for 30 s or ten times as long as the last attempt took. Refused results are kept in
    the database.

Note [whose address]
    Names of result files are chosen by one database. A URL therefore belongs to the folder that first wrote to it; if
    the folder is empty, the copy of the database is downloaded, and the run resumes from there.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

from tallformer_infer.archive.database import DATABASE, ArchiveDatabase
from tallformer_infer.errors import ArchiveError, MediaError, OutputError
from tallformer_infer.files import TEMPORARY, file_sha256, make_folder, name_beside, replacing, write_whole, writing
from tallformer_infer.media import ALLOWED_PROTOCOLS, file_system
from tallformer_infer.results import write_content
from tallformer_infer.text import counted, printable

RESULTS = "results"
"""Folder of result files inside the output folder."""


class NotTriedError(OutputError):
    """A file was not attempted, because others have just failed."""


class ResultPlace(Protocol):
    """Stores result files by name; called from several threads."""

    @property
    def folder(self) -> Path | None:
        """The folder of the result files; None if it is not on this machine."""

    def write(self, name: str, content: bytes) -> None:
        """Write a file atomically.

        Args:
            name: Name relative to the place, with `/` between folders.
            content: The whole content.

        Raises:
            OutputError: The file cannot be written, or would be outside the place.
        """

    def has(self, name: str) -> bool:
        """Whether a file of this name exists."""

    def try_again(self) -> None:
        """Forget a failure, so that refused files are attempted again."""


class ResultFolder:
    """A local folder."""

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
        """No-op: every file is attempted anyway."""


def place_in(folder: Path, name: str) -> Path:
    """The path of a result file; its folder is created.

    Raises:
        OutputError: It would be outside `folder`, because of a link, or its folder cannot be created.
    """
    path = folder.joinpath(*name.split("/"))
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.parent.resolve().is_relative_to(folder.resolve()):
            raise OutputError(f"{path}: is outside {folder}: {path.parent} links to {path.parent.resolve()}")
    return path


T = TypeVar("T")

_FAILURES_IN_A_ROW = 3
_LEAST_QUIET_S = 30.0
_QUIET_FACTOR = 10.0
_TEMPORARY = re.compile(rf"/{re.escape(TEMPORARY)}[0-9a-f]{{12}}\.tmp$")


class RemotePlace:
    """A URL with a folder of results, and files next to it."""

    folder = None

    def __init__(self, address: str, protocols: Collection[str] = ALLOWED_PROTOCOLS) -> None:
        """Connect, and list existing files.

        Args:
            address: Address for the files.
            protocols: Allowed protocols.

        Raises:
            OutputError: The address cannot be reached, or fsspec is not installed.
        """
        self.address = address.rstrip("/")
        """The address as given by the user."""
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
        """Copy a local file to a name next to the results, atomically.

        Raises:
            OutputError: The file cannot be written.
        """
        self._put(name, lambda system, path: system.put_file(str(file), path))

    def download(self, name: str, file: Path) -> None:
        """Copy a file next to the results to a local file, which is replaced atomically.

        Raises:
            OutputError: The file cannot be read.
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
            if _TEMPORARY.search(path):  # left by an interrupted run
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
        if _is_local(system):  # check for links to other places
            place_in(Path(self._root), name)
        folder = self._path(name).rpartition("/")[0]
        _make_remote_folder(system, folder)
        temporary = f"{folder}/{TEMPORARY}{secrets.token_hex(6)}.tmp"
        try:
            put(system, temporary)
            _rename(system, temporary, self._path(name))
        except Exception:  # not after Ctrl-C; the next run removes it
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


def _make_remote_folder(system: Any, folder: str) -> None:
    try:
        system.makedirs(folder, exist_ok=True)
    except Exception:
        system.invalidate_cache()
        if not system.isdir(folder):  # otherwise another process created it
            raise


def _rename(system: Any, temporary: str, path: str) -> None:
    try:
        system.mv(temporary, path)
    except Exception:
        if not system.exists(path):
            raise
        system.rm_file(path)  # some servers refuse to replace a file, so it is missing for a moment
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


def open_folder(out: Path) -> ResultFolder:
    """Create the folder of an archive.

    Raises:
        OutputError: It cannot be created.
    """
    make_folder(out)
    return ResultFolder(out)


def open_address(address: str, state: Path, protocols: Collection[str]) -> RemotePlace:
    """Connect to a URL for the result files of the archive in `state`; see Note [whose address].

    Args:
        address: The URL.
        state: Folder of the database; it is created.
        protocols: Allowed protocols.

    Raises:
        ArchiveError: The address belongs to another folder.
        OutputError: The address cannot be reached, its database cannot be fetched, or the folder cannot be written.
    """
    place = RemotePlace(address, protocols)
    make_folder(state)
    _claim(state, place)
    return place


def _claim(state: Path, place: RemotePlace) -> None:
    is_there, is_here = place.has_beside(DATABASE), (state / DATABASE).is_file()
    if is_there and not is_here:
        place.download(DATABASE, state / DATABASE)
    elif is_there and _note_in(state).address != place.address:
        raise ArchiveError(
            f"{place.address}: has an archive that was not written from {state}; use its own --state folder, an empty "
            "one to download its database, or another --out"
        )
    if _note_in(state).address != place.address:
        _keep(state, _Note(place.address))


def begin_copy(database: ArchiveDatabase, place: ResultPlace) -> None:
    """Copy the database to a new URL, so that a URL that is not writable fails before a long run.

    Raises:
        OutputError: The copy cannot be written.
    """
    if isinstance(place, RemotePlace) and not place.has_beside(DATABASE):
        _copy_database(database, place)


def end_copy(database: ArchiveDatabase, place: ResultPlace, *, missing: int) -> str:
    """Update the copy of the database at a URL.

    Args:
        database: The original.
        place: Destination of the result files.
        missing: Number of videos whose files are missing there and have not been reported.

    Returns:
        Description of what is missing at the URL, and why; empty if the copy is complete.
    """
    if not isinstance(place, RemotePlace):
        return ""
    problem = ""
    try:
        _copy_database(database, place)
    except OutputError as error:
        problem = printable(error)
    if missing:
        return f"{printable(place.address)}: did not answer; the files of {counted(missing, 'more video')} are missing"
    return problem


def _copy_database(database: ArchiveDatabase, place: RemotePlace) -> None:
    """Copy the database to the address, unless the copy there is up to date.

    Raises:
        OutputError: The copy cannot be written.
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
    with writing(state / _NOTE):
        write_whole(state / _NOTE, json.dumps(asdict(note)).encode())
