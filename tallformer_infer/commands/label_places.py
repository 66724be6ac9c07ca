"""Where `tallformer label` keeps its database and puts its result files."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import typer

from tallformer_infer.archive.database import DATABASE, ArchiveDatabase
from tallformer_infer.archive.places import RemotePlace, ResultFolder, ResultPlace, claim, copy_database
from tallformer_infer.commands.label_reporting import LabelWatcher
from tallformer_infer.commands.text import counted, printable
from tallformer_infer.commands.waiting import run_interruptibly
from tallformer_infer.errors import OutputError
from tallformer_infer.media.addresses import is_address, is_web_address


def open_places(out: str, state: Path | None, protocols: Collection[str]) -> tuple[Path, ResultPlace]:
    """The folder of the database, which is made, and where result files go.

    Args:
        out: Folder or address, as typed.
        state: Folder of the database, if the user named one.
        protocols: Of addresses that may be used.

    Raises:
        typer.BadParameter: They do not go together.
        OutputError: The folder cannot be made, or the address cannot be reached.
        ArchiveError: The address belongs to another folder.
    """
    if not is_address(out):
        if state is not None:
            raise typer.BadParameter(f"--state: is for an address as --out; {out} holds its own database")
        _make_folder(Path(out))
        return Path(out), ResultFolder(Path(out))
    if is_web_address(out):
        raise typer.BadParameter(f"--out {out}: http addresses can only be read; name a folder, s3://, gs:// or az://")
    if state is None:
        raise typer.BadParameter(
            f"--out {out}: the database needs a folder of this machine: name one that stays, --state DIR"
        )
    if is_address(str(state)) or ":/" in str(state):
        raise typer.BadParameter(f"--state {state}: is an address, expected a folder of this machine")
    place = run_interruptibly(lambda: RemotePlace(out, protocols))
    _make_folder(state)
    run_interruptibly(lambda: claim(state, place))
    return state, place


def begin_copy(database: ArchiveDatabase, place: ResultPlace) -> None:
    """Put the database at a new address: what cannot be written there is said before hours are spent.

    Raises:
        OutputError: It cannot be written.
    """
    if isinstance(place, RemotePlace) and not place.has_beside(DATABASE):
        copy_database(database, place)


def end_copy(database: ArchiveDatabase, place: ResultPlace, watcher: LabelWatcher, *, missing: int) -> bool:
    """Bring the copy of the database at an address up to date, and say what is missing there.

    Args:
        database: The original.
        place: Where result files went.
        watcher: Told what is wrong.
        missing: Videos whose files are missing, of which nothing was said.

    Returns:
        Whether the copy is good.
    """
    if not isinstance(place, RemotePlace):
        return True
    problem = None
    try:
        copy_database(database, place)
    except OutputError as error:
        problem = printable(error)
    if missing:
        problem = (
            f"{printable(place.address)}: did not answer; the files of {counted(missing, 'more video')} are missing"
        )
    if problem is not None:
        said = f"error: {problem}; nothing is lost: the same command again writes what is missing"
        watcher.say("error", said, missing=missing)
    return problem is None


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: cannot be made: {error.strerror or error}") from error
