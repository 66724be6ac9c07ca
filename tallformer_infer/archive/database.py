"""`archive.db`: one row per video, one per action. One process writes, any number can read at the same time (WAL).

Note [one truth]
    Only committed transactions count: a result file, stored features or candidates without a row with status `done` are
    leftovers, which the next run uses or replaces.

Note [reading without writing]
    SQLite reads a database in WAL mode through a shared index file, which it creates if it is missing. In a read-only
    folder (a read-only disk, another user's archive) that fails. If the log is empty, the database file is complete and
    read as `immutable`; otherwise, or with tables of an older version, a temporary copy is read.
"""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from tallformer_infer.errors import ArchiveError
from tallformer_infer.structures import Action
from tallformer_infer.text import describe_losses

Status = Literal["waiting", "running", "done", "failed", "ignored"]
"""`ignored`: a file in a folder that is not a video."""

FailureKind = Literal["media", "read", "crash", "killed", "hang", "output", "scores", "bug"]
"""`media`: nothing can be decoded; `read`: reading the source failed; `crash`, `killed`, `hang`: the worker failed;
`output`: results cannot be written; `scores`: no class scores for the video; `bug`: anything else."""

Loss = Literal["short", "damaged"]
"""What is missing from a finished video: `short`: its end; `damaged`: places that could not be decoded."""

DbText = str | bytes


@dataclass(frozen=True, kw_only=True)
class VideoRow:
    """One row of `videos`; None: not known yet."""

    id: int
    """Row number."""
    source: str
    """Absolute path, or URL."""
    name: str
    """Name of its result files in the results folder, without suffixes; `/` between folders."""
    is_guess: bool
    """Whether it was found in a folder and has no known video suffix."""
    size_bytes: int | None
    """File size when last checked."""
    mtime_ns: int | None
    """Modification time when last checked, in nanoseconds."""
    content: str | None
    """Content: `sha256:…` of a file, `address:…` of a URL."""
    status: Status
    """Status of the video."""
    attempts: int
    """Number of finished attempts; one interrupted by the end of the run does not count."""
    error_kind: FailureKind | None
    """Kind of failure of the last attempt, if it failed."""
    error: str | None
    """Reason, in one line."""
    duration_s: float | None
    """Decoded duration, in seconds."""
    missing_s: float | None
    """Video missing at the end, compared with the header, in seconds."""
    decode_errors: int | None
    """Number of damaged or skipped places; a missing end counts as one."""
    result: dict[str, Any] | None
    """The `Result` without its actions, as JSON."""
    selection: dict[str, Any] | None
    """The `Selection` of actions, as JSON."""
    remarks: tuple[str, ...]
    """Remarks, one line each."""
    encoder_hash: str | None
    """Hash of everything that affects its features, see `StageHashes`."""
    localizer_hash: str | None
    """Hash of everything that affects its candidates."""
    actions_hash: str | None
    """Hash of everything that affects its actions."""
    outputs: tuple[str, ...]
    """Formats of the written result files."""
    bundle_sha256: str | None
    """Hash of the model's description."""
    recipe_name: str | None
    """Name of the recipe."""
    recipe_sha256: str | None
    """Hash of the recipe."""
    versions: dict[str, str] | None
    """Versions of tallformer and of the libraries that decode and run the graphs."""
    started_at: str | None
    """Start of the last attempt, UTC."""
    finished_at: str | None
    """End of the last attempt, UTC."""

    @property
    def losses(self) -> tuple[Loss, ...]:
        """What is missing from the video; empty if it is complete, or not done."""
        is_short = bool(self.missing_s)
        is_damaged = (self.decode_errors or 0) > is_short
        return (*(("short",) if is_short else ()), *(("damaged",) if is_damaged else ()))

    def describe_losses(self) -> str:
        """What is missing from the video, in words; empty if nothing is."""
        told_s = None if self.result is None else self.result.get("video", {}).get("duration_s")
        return describe_losses(told_s, self.missing_s or 0.0, self.decode_errors or 0)


def row_from(record: sqlite3.Row) -> VideoRow:
    """A row of the database as a `VideoRow`."""
    value = {key: record[key] for key in record.keys() if key != "name_key"}  # noqa: SIM118 (a Row is no mapping)
    value["source"], value["name"] = from_db(value["source"]), from_db(value["name"])
    value["is_guess"] = bool(value["is_guess"])
    for name in ("result", "selection", "versions"):
        value[name] = None if value[name] is None else json.loads(value[name])
    value["remarks"], value["outputs"] = tuple(json.loads(value["remarks"])), tuple(json.loads(value["outputs"]))
    return VideoRow(**value)


def to_db(text: str) -> DbText:
    """A name for SQLite: a file name that is not UTF-8 is stored as bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-8", "surrogateescape")
    return text


def from_db(value: DbText) -> str:
    """The inverse of `to_db`."""
    return value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")


APPLICATION_ID = 0x74616C66
"""`talf` in the file's header: identifies our databases."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE videos (
        id INTEGER PRIMARY KEY,
        source TEXT NOT NULL UNIQUE,
        name TEXT NOT NULL,
        name_key TEXT NOT NULL UNIQUE,
        is_guess INTEGER NOT NULL DEFAULT 0,
        size_bytes INTEGER,
        mtime_ns INTEGER,
        content TEXT,
        status TEXT NOT NULL DEFAULT 'waiting'
            CHECK (status IN ('waiting', 'running', 'done', 'failed', 'ignored')),
        attempts INTEGER NOT NULL DEFAULT 0,
        error_kind TEXT,
        error TEXT,
        duration_s REAL,
        result TEXT,
        selection TEXT,
        remarks TEXT NOT NULL DEFAULT '[]',
        encoder_hash TEXT,
        localizer_hash TEXT,
        actions_hash TEXT,
        outputs TEXT NOT NULL DEFAULT '[]',
        bundle_sha256 TEXT,
        recipe_name TEXT,
        recipe_sha256 TEXT,
        versions TEXT,
        started_at TEXT,
        finished_at TEXT
    );
    CREATE INDEX videos_by_status ON videos (status);
    CREATE INDEX videos_by_content ON videos (content);
    CREATE TABLE labels (
        id INTEGER PRIMARY KEY,
        name TEXT NOT NULL UNIQUE
    );
    CREATE TABLE actions (
        id INTEGER PRIMARY KEY,
        video_id INTEGER NOT NULL REFERENCES videos (id) ON DELETE CASCADE,
        label_id INTEGER NOT NULL REFERENCES labels (id),
        start_s REAL NOT NULL,
        end_s REAL NOT NULL,
        score REAL NOT NULL
    );
    """,
    """
    CREATE INDEX actions_by_label ON actions (label_id, score DESC, start_s, end_s, video_id);
    CREATE INDEX actions_by_score ON actions (score DESC, start_s, end_s, label_id, video_id);
    CREATE INDEX actions_by_video ON actions (video_id, start_s, end_s, score, label_id);
    CREATE INDEX actions_by_time ON actions (start_s, end_s, score, label_id, video_id);
    CREATE INDEX actions_by_length ON actions (end_s - start_s);
    """,
    """
    ALTER TABLE videos ADD COLUMN missing_s REAL;
    ALTER TABLE videos ADD COLUMN decode_errors INTEGER;
    UPDATE videos SET missing_s = json_extract(result, '$.missing_s'),
        decode_errors = json_extract(result, '$.decode_errors') WHERE result IS NOT NULL;
    """,
)
"""Each entry upgrades a file from the previous version; versions start at 1."""

SCHEMA_VERSION = len(MIGRATIONS)


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """Schema version of a file; 0 for a new one.

    Raises:
        ArchiveError: The database belongs to another program, or to a newer tallformer.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise ArchiveError(f"{path}: is a database of another program; use another folder")
    if version > SCHEMA_VERSION:
        raise ArchiveError(
            f"{path}: archive has schema version {version}, this tallformer reads {SCHEMA_VERSION}: update tallformer"
        )
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Create the tables of a new file, or upgrade those of an older one.

    Each step is one transaction: an interruption leaves the file at one version or the next.

    Raises:
        ArchiveError: See `version_of`.
    """
    for number in range(version_of(connection, path), SCHEMA_VERSION):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {number + 1}; COMMIT;"
        )


DATABASE = "archive.db"
LOCK = "archive.lock"
_WAIT_S = 10.0


@dataclass(frozen=True, kw_only=True)
class Labelled:
    """Values written to the row of a finished video."""

    duration_s: float
    """Decoded duration, in seconds."""
    missing_s: float
    """Video missing at the end, in seconds."""
    decode_errors: int
    """Number of damaged or skipped places."""
    result: dict[str, Any]
    """The `Result` without its actions, as JSON."""
    selection: dict[str, Any]
    """The `Selection` of actions, as JSON."""
    remarks: tuple[str, ...]
    """Remarks, one line each."""
    hashes: tuple[str, str, str]
    """Hashes of features, candidates and actions."""
    outputs: tuple[str, ...]
    """Formats of its result files."""
    model: tuple[str, str, str]
    """Hash of the bundle, name and hash of the recipe."""
    versions: dict[str, str]
    """Versions of the libraries that did the work."""


class ArchiveDatabase:
    """The database of an archive, open for reading, or for reading and writing."""

    def __init__(self, folder: Path, *, writes: bool = False) -> None:
        """Open `archive.db` in `folder`; a writer creates it if it is missing.

        Raises:
            ArchiveError: It is missing, belongs to another program, or another process writes to it.
        """
        self.path = folder / DATABASE
        if not writes and not self.path.is_file():
            raise ArchiveError(
                f"{folder}: no archive ({DATABASE}) in it; `tallformer label … --out {folder}` creates one"
            )
        self._lock = _take_lock(folder) if writes else None
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        try:
            if writes:
                self.connection = _connect(self.path)
            else:
                self._connect_reader()
            self._set_up(writes=writes)
        except sqlite3.Error as error:
            self.close()
            raise ArchiveError(f"{self.path}: {error}") from error
        except BaseException:
            self.close()
            raise

    def _connect_reader(self) -> None:
        """See Note [reading without writing]."""
        reader = _read_only(self.path)
        if reader is not None:
            self.connection = reader  # for `close`
            if version_of(reader, self.path) == SCHEMA_VERSION:
                return
            reader.close()
            if os.access(self.path, os.W_OK) and os.access(self.path.parent, os.W_OK):
                self._lock = _take_lock(self.path.parent)
                self.connection = _connect(self.path)  # an older version, which is upgraded
                return
        self._copy = tempfile.TemporaryDirectory(prefix="tallformer-", ignore_cleanup_errors=True)
        for file in (self.path, *_beside(self.path)):
            if file.is_file():
                shutil.copyfile(file, Path(self._copy.name) / file.name)
        self.connection = _connect(Path(self._copy.name) / self.path.name)

    def _set_up(self, *, writes: bool) -> None:
        self.connection.row_factory = sqlite3.Row
        if writes:
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA foreign_keys = ON")
            # A power cut may roll back the last transactions; that work is then repeated.
            self.connection.execute("PRAGMA synchronous = NORMAL")
        migrate(self.connection, self.path)
        if not writes:
            self.connection.execute("PRAGMA query_only = ON")

    def close(self) -> None:
        """Close the database and release the lock. Can be called repeatedly."""
        for connection in (getattr(self, "connection", None), self._lock):
            if connection is not None:
                connection.close()
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @contextlib.contextmanager
    def changing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of the block's changes, or none.

        Raises:
            ArchiveError: The disk is full, or the file cannot be written.
        """
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            try:
                yield self.connection
            except BaseException:
                self.connection.execute("ROLLBACK")
                raise
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            if self.connection.in_transaction:
                with contextlib.suppress(sqlite3.Error):
                    self.connection.execute("ROLLBACK")
            raise ArchiveError(
                f"{self.path}: cannot be written: {error}; its content is intact; run the same command again to resume"
            ) from error

    def videos(self, status: Status | None = None) -> list[VideoRow]:
        """All rows, or those of one status, in the order they were added."""
        where, values = ("WHERE status = ?", (status,)) if status is not None else ("", ())
        return [row_from(row) for row in self.connection.execute(f"SELECT * FROM videos {where} ORDER BY id", values)]

    def video(self, video_id: int) -> VideoRow:
        """One row."""
        return row_from(self.connection.execute("SELECT * FROM videos WHERE id = ?", (video_id,)).fetchone())

    def videos_of_content(self, content: str, actions_hash: str) -> list[VideoRow]:
        """Videos with results for this content and hash; their result files may be missing."""
        rows = self.connection.execute(
            "SELECT * FROM videos WHERE content = ? AND status IN ('done', 'failed') AND result IS NOT NULL "
            "AND actions_hash = ? ORDER BY id",
            (content, actions_hash),
        )
        return [row_from(row) for row in rows]

    def add(self, found: Iterable[tuple[str, str, str, bool]]) -> None:
        """Add videos with status `waiting`.

        Args:
            found: Source, name, unique key of the name, and `VideoRow.is_guess`.
        """
        with self.changing() as change:
            change.executemany(
                "INSERT INTO videos (source, name, name_key, is_guess) VALUES (?, ?, ?, ?)",
                [(to_db(source), to_db(name), to_db(key), guess) for source, name, key, guess in found],
            )

    def name_keys(self) -> set[str]:
        """Keys of all names in use."""
        return {from_db(key) for (key,) in self.connection.execute("SELECT name_key FROM videos")}

    def let_wait(self, video_ids: Sequence[int], *, forget_attempts: bool) -> None:
        """Requeue videos; their actions are kept until they are done again."""
        attempts = ", attempts = 0, error = NULL, error_kind = NULL" if forget_attempts else ""
        with self.changing() as change:
            change.executemany(
                f"UPDATE videos SET status = 'waiting'{attempts} WHERE id = ?", [(number,) for number in video_ids]
            )

    def start(self, video_id: int) -> None:
        """Record the start of an attempt."""
        with self.changing() as change:
            change.execute("UPDATE videos SET status = 'running', started_at = ? WHERE id = ?", (_now(), video_id))

    def identify(self, video_id: int, *, content: str | None, size_bytes: int | None, mtime_ns: int | None) -> None:
        """Record the current content of a source."""
        with self.changing() as change:
            change.execute(
                "UPDATE videos SET content = ?, size_bytes = ?, mtime_ns = ? WHERE id = ?",
                (content, size_bytes, mtime_ns, video_id),
            )

    def fail(self, video_id: int, kind: FailureKind, error: str, *, again: bool) -> None:
        """Record a failed attempt, which leaves no actions. `again`: the video waits for another one in this run."""
        with self.changing() as change:
            change.execute("DELETE FROM actions WHERE video_id = ?", (video_id,))
            change.execute(
                "UPDATE videos SET status = ?, attempts = attempts + 1, error_kind = ?, error = ?, finished_at = ?, "
                "result = NULL, duration_s = NULL, missing_s = NULL, decode_errors = NULL, actions_hash = NULL "
                "WHERE id = ?",
                ("waiting" if again else "failed", kind, error, _now(), video_id),
            )

    def forget_outputs(self, video_ids: Iterable[int]) -> None:
        """Mark result files as about to change: a later run that finds the mark writes them again."""
        with self.changing() as change:
            change.executemany("UPDATE videos SET outputs = '[]' WHERE id = ?", [(number,) for number in video_ids])

    def ignore(self, video_id: int, reason: str) -> None:
        """Record that it is not a video; only for files found in folders."""
        with self.changing() as change:
            change.execute(
                "UPDATE videos SET status = 'ignored', error = ?, finished_at = ? WHERE id = ?",
                (reason, _now(), video_id),
            )

    def finish(
        self,
        video_id: int,
        labelled: Labelled,
        actions: Iterable[Action],
        *,
        counts: bool = True,
        problem: str | None = None,
    ) -> None:
        """Write the row and the actions of a finished video in one transaction.

        Args:
            video_id: Row number.
            labelled: Values of the row.
            actions: All actions of the video.
            counts: Whether to count an attempt.
            problem: Why its result files are missing; the video counts as failed (`output`) until they are written.
        """
        with self.changing() as change:
            change.execute("DELETE FROM actions WHERE video_id = ?", (video_id,))
            rows = [(video_id, action.label, action.start_s, action.end_s, action.score) for action in actions]
            change.executemany("INSERT OR IGNORE INTO labels (name) VALUES (?)", [(row[1],) for row in rows])
            change.executemany(
                "INSERT INTO actions (video_id, label_id, start_s, end_s, score) "
                "VALUES (?, (SELECT id FROM labels WHERE name = ?), ?, ?, ?)",
                rows,
            )
            columns = {
                "duration_s": labelled.duration_s,
                "missing_s": labelled.missing_s,
                "decode_errors": labelled.decode_errors,
                "result": json.dumps(labelled.result),
                "selection": json.dumps(labelled.selection),
                "remarks": json.dumps(labelled.remarks),
                "encoder_hash": labelled.hashes[0],
                "localizer_hash": labelled.hashes[1],
                "actions_hash": labelled.hashes[2],
                "outputs": json.dumps(labelled.outputs),
                "bundle_sha256": labelled.model[0],
                "recipe_name": labelled.model[1],
                "recipe_sha256": labelled.model[2],
                "versions": json.dumps(labelled.versions),
                "finished_at": _now(),
                "status": "failed" if problem else "done",
                "error_kind": "output" if problem else None,
                "error": problem,
            }
            change.execute(
                f"UPDATE videos SET {', '.join(f'{name} = ?' for name in columns)}, "
                "attempts = attempts + ? WHERE id = ?",
                (*columns.values(), int(counts), video_id),
            )

    def of_source(self, source: str) -> VideoRow | None:
        """The row of a path or URL, or None."""
        row = self.connection.execute("SELECT * FROM videos WHERE source = ?", (to_db(source),)).fetchone()
        return None if row is None else row_from(row)

    def remove(self, video_id: int) -> None:
        """Remove a video and its actions."""
        with self.changing() as change:
            change.execute("DELETE FROM videos WHERE id = ?", (video_id,))

    def actions_of(self, video_id: int) -> tuple[Action, ...]:
        """The actions of one video, by start, end and decreasing score."""
        rows = self.connection.execute(
            "SELECT start_s, end_s, labels.name AS label, score FROM actions JOIN labels ON labels.id = label_id "
            "WHERE video_id = ? ORDER BY start_s, end_s, score DESC, label",
            (video_id,),
        )
        return tuple(Action(start_s=row[0], end_s=row[1], label=row[2], score=row[3]) for row in rows)


def _connect(path: Path | str, *, uri: bool = False) -> sqlite3.Connection:
    try:
        return sqlite3.connect(path, timeout=_WAIT_S, isolation_level=None, uri=uri)
    except sqlite3.Error as error:
        raise ArchiveError(f"{path}: cannot be opened: {error}") from error


def _read_only(path: Path) -> sqlite3.Connection | None:
    """A read-only connection; None if only a copy can be read. See Note [reading without writing]."""
    address = path.resolve().as_uri()
    wal = _beside(path)[0]
    has_wal = wal.is_file() and wal.stat().st_size > 0
    for mode in ("mode=ro", *([] if has_wal else ["mode=ro&immutable=1"])):
        connection = _connect(f"{address}?{mode}", uri=True)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
        except BaseException:
            connection.close()
            raise
        else:
            return connection
    return None


def _beside(path: Path) -> tuple[Path, Path]:
    """SQLite's write-ahead log, and its index."""
    return path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")


def _take_lock(folder: Path) -> sqlite3.Connection:
    """Exclude other writers for the lifetime of this process.

    Uses SQLite's lock on a separate file: it works on every system, and is released however the process ends.
    """
    connection = None
    try:
        connection = sqlite3.connect(folder / LOCK, timeout=0, isolation_level=None)
        connection.execute("BEGIN EXCLUSIVE")
    except sqlite3.Error as error:
        if connection is not None:
            connection.close()
        if "locked" in str(error):
            raise ArchiveError(f"{folder}: another run writes to this archive; wait for it, or stop it") from error
        raise ArchiveError(f"{folder}: cannot be written: {error}") from error
    return connection


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
