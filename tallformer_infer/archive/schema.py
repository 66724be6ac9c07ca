"""Tables of `archive.db`, and how an older file is brought up to date.

Note [one truth]
    What is not in a committed transaction has not happened: a result file, stored features or candidates without a
    row that says `done` are leftovers, which the next run uses or replaces.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path

from tallformer_infer.errors import ArchiveError

APPLICATION_ID = 0x74616C66
"""`talf` in a file's header: this database, not somebody else's."""

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
"""Each brings a file of the version before it to its own version, its place counted from 1."""

SCHEMA_VERSION = len(MIGRATIONS)


def version_of(connection: sqlite3.Connection, path: Path) -> int:
    """The version of a file; 0 of a new one.

    Raises:
        ArchiveError: It is another program's database, or of a newer tallformer.
    """
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    if application != APPLICATION_ID and (tables or version):
        raise ArchiveError(f"{path}: is a database of something else than tallformer; name another folder")
    if version > SCHEMA_VERSION:
        raise ArchiveError(
            f"{path}: archive has schema version {version}, this tallformer reads {SCHEMA_VERSION}: update tallformer"
        )
    return int(version)


def migrate(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file, and bring those of an older one up to date.

    Each step is one transaction: a stop leaves the file at one version or the next.

    Raises:
        ArchiveError: As `version_of`.
    """
    for number in range(version_of(connection, path), SCHEMA_VERSION):
        connection.executescript(
            f"BEGIN IMMEDIATE; {MIGRATIONS[number]} PRAGMA application_id = {APPLICATION_ID}; "
            f"PRAGMA user_version = {number + 1}; COMMIT;"
        )
