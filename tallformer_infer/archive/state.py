"""The local folder of an archive whose result files go to an address: the database lives here, a copy of it there.

Note [whose address]
    Names of result files are chosen by one database. So an address belongs to the folder that first wrote to it; with
    an empty folder its copy of the database is fetched, and the work goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import secrets
import sqlite3
from dataclasses import asdict, dataclass
from pathlib import Path

from tallformer_infer.archive.database import DATABASE, ArchiveDatabase
from tallformer_infer.archive.remote_place import RemotePlace
from tallformer_infer.errors import ArchiveError, OutputError
from tallformer_infer.results import replace_file

_NOTE = "address.json"


@dataclass(frozen=True)
class _Note:
    """What the folder remembers of its address."""

    address: str = ""
    """Where its result files go."""
    copied: str = ""
    """SHA-256 of the copy of the database that is there; empty before the first."""


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
    copy = state / f".tallformer-{secrets.token_hex(6)}.tmp"
    try:
        database.connection.execute("VACUUM INTO ?", (str(copy),))
        with copy.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
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
        replace_file(state / _NOTE, json.dumps(asdict(note)).encode())
    except OSError as error:
        raise OutputError(f"{state / _NOTE}: cannot be written: {error.strerror or error}") from error
