"""Jobs of the server, in their own database: accepted jobs survive the end of the process.

Note [what a job promises]
    A client that has a job's id finds the job again after any crash. A job is accepted when its row is committed, and
    its upload, if any, is complete and on disk before that. A job that was running when the process died is requeued;
    its features are stored clip by clip, so that it resumes where it was.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import secrets
import sqlite3
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tallformer_infer.errors import ArchiveError

JobState = Literal["fetching", "queued", "running", "done", "failed", "cancelled"]
"""`fetching`: the server downloads the video; `queued`: the job waits for a worker."""

UNFINISHED: tuple[JobState, ...] = ("fetching", "queued", "running")

_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    state TEXT NOT NULL,
    name TEXT NOT NULL,
    source TEXT NOT NULL,
    url TEXT,
    is_upload INTEGER NOT NULL,
    options TEXT NOT NULL,
    idempotency_key TEXT UNIQUE,
    error TEXT,
    remarks TEXT NOT NULL DEFAULT '[]',
    duration_s REAL,
    created_at TEXT NOT NULL,
    finished_at TEXT
);
CREATE INDEX IF NOT EXISTS jobs_by_state ON jobs (state);
CREATE INDEX IF NOT EXISTS jobs_by_source ON jobs (source);
"""


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """Filters for the actions of a video; see the options of `detect` with the same names."""

    threshold: float | None = None
    """Minimum score, in [0, 1]."""
    top_k: int | None = None
    """Maximum number of actions, best first."""
    classes: tuple[str, ...] | None = None
    """Names of the actions to keep."""
    operating_point: str | None = None
    """Point of a calibrated model, `all` or `none`; None is the model's default."""


@dataclass(frozen=True, kw_only=True)
class Job:
    """One request to detect the actions of one video."""

    id: str
    """Random name, 22 characters."""
    state: JobState
    """State of the job."""
    name: str
    """Name of the video, as the client gave it."""
    source: str
    """Absolute path of the file; not shown to clients."""
    url: str | None
    """Address from which the server downloads it."""
    is_upload: bool
    """Whether the file belongs to the job, and is deleted with it."""
    options: JobOptions
    """Filters for its actions."""
    error: str | None
    """Reason for its failure, in one line."""
    remarks: tuple[str, ...]
    """Remarks, one line each."""
    duration_s: float | None
    """Duration of the video in seconds, once it is done."""
    created_at: str
    """UTC."""
    finished_at: str | None
    """UTC."""


class JobStore:
    """The jobs of a server. Thread-safe."""

    def __init__(self, path: Path) -> None:
        """Open or create the database.

        Raises:
            ArchiveError: It cannot be opened.
        """
        self._path = path
        self._lock = threading.RLock()
        try:
            self._connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=10)
            self._connection.row_factory = sqlite3.Row
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")  # accepted jobs must survive a power cut
            self._connection.executescript(_TABLES)
        except sqlite3.Error as error:
            raise ArchiveError(f"{path}: cannot be opened: {error}") from error

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def add(
        self,
        *,
        job_id: str,
        name: str,
        source: Path,
        options: JobOptions,
        url: str | None = None,
        is_upload: bool = False,
        idempotency_key: str | None = None,
    ) -> Job:
        """Accept a job, or return the existing one with the same key."""
        with self._changing() as change:
            if idempotency_key is not None and (known := self.with_key(idempotency_key)) is not None:
                return known
            change.execute(
                "INSERT INTO jobs (id, state, name, source, url, is_upload, options, idempotency_key, created_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    job_id,
                    "queued" if url is None else "fetching",
                    name,
                    str(source),
                    url,
                    is_upload,
                    json.dumps(dataclasses.asdict(options)),
                    idempotency_key,
                    _now(),
                ),
            )
        job = self.get(job_id)
        assert job is not None, "it was just added"
        return job

    def get(self, job_id: str) -> Job | None:
        """One job; None if there is none with this id."""
        return self._one("SELECT * FROM jobs WHERE id = ?", job_id)

    def with_key(self, key: str) -> Job | None:
        """The job submitted with this idempotency key; None if there is none."""
        return self._one("SELECT * FROM jobs WHERE idempotency_key = ?", key)

    def newest(self, *, state: JobState | None = None, before: str | None = None, limit: int = 50) -> list[Job]:
        """Jobs, the newest first.

        Args:
            state: Only jobs in this state.
            before: Only jobs that were added before the job with this id.
            limit: Maximum number of jobs.
        """
        where, values = ["1"], list[Any]()
        if state is not None:
            where.append("state = ?")
            values.append(state)
        if before is not None:
            where.append("number < (SELECT number FROM jobs WHERE id = ?)")
            values.append(before)
        return self._all(f"SELECT * FROM jobs WHERE {' AND '.join(where)} ORDER BY number DESC LIMIT ?", *values, limit)

    def unfinished(self) -> list[Job]:
        """Unfinished jobs, the oldest first."""
        marks = ", ".join("?" * len(UNFINISHED))
        return self._all(f"SELECT * FROM jobs WHERE state IN ({marks}) ORDER BY number", *UNFINISHED)

    def of_source(self, source: str) -> list[Job]:
        """Jobs for one file, the oldest first."""
        return self._all("SELECT * FROM jobs WHERE source = ? ORDER BY number", source)

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        with self._lock:
            rows = self._connection.execute("SELECT state, count(*) FROM jobs GROUP BY state").fetchall()
        return dict(rows)

    def move(self, job_id: str, state: JobState, *, only_from: tuple[JobState, ...] = UNFINISHED) -> bool:
        """Change a job's state if it is in one of `only_from`; return whether it was changed."""
        marks = ", ".join("?" * len(only_from))
        finished_at = _now() if state == "cancelled" else None
        with self._changing() as change:
            cursor = change.execute(
                f"UPDATE jobs SET state = ?, finished_at = ? WHERE id = ? AND state IN ({marks})",
                (state, finished_at, job_id, *only_from),
            )
        return cursor.rowcount == 1

    def finish(self, job_id: str, *, duration_s: float | None, remarks: tuple[str, ...] = ()) -> None:
        """Mark a job as done."""
        self._end(job_id, "done", None, duration_s, remarks)

    def fail(self, job_id: str, error: str) -> None:
        """Mark a job as failed."""
        self._end(job_id, "failed", error, None, ())

    def remove(self, job_id: str) -> None:
        """Delete a job."""
        with self._changing() as change:
            change.execute("DELETE FROM jobs WHERE id = ?", (job_id,))

    def _end(
        self, job_id: str, state: JobState, error: str | None, duration_s: float | None, remarks: tuple[str, ...]
    ) -> None:
        marks = ", ".join("?" * len(UNFINISHED))
        with self._changing() as change:  # a cancelled job stays cancelled
            change.execute(
                f"UPDATE jobs SET state = ?, error = ?, duration_s = ?, remarks = ?, finished_at = ? "
                f"WHERE id = ? AND state IN ({marks})",
                (state, error, duration_s, json.dumps(remarks), _now(), job_id, *UNFINISHED),
            )

    @contextlib.contextmanager
    def _changing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                try:
                    yield self._connection
                except BaseException:
                    self._connection.execute("ROLLBACK")
                    raise
                self._connection.execute("COMMIT")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise ArchiveError(f"{self._path}: cannot be written: {error}") from error

    def _one(self, query: str, *values: Any) -> Job | None:
        jobs = self._all(query, *values)
        return jobs[0] if jobs else None

    def _all(self, query: str, *values: Any) -> list[Job]:
        with self._lock:
            rows = self._connection.execute(query, values).fetchall()
        return [_job(row) for row in rows]


def new_job_id() -> str:
    """A random name that cannot be guessed."""
    return secrets.token_urlsafe(16)


def _job(row: sqlite3.Row) -> Job:
    options = json.loads(row["options"])
    if options["classes"] is not None:
        options["classes"] = tuple(options["classes"])
    return Job(
        id=row["id"],
        state=row["state"],
        name=row["name"],
        source=row["source"],
        url=row["url"],
        is_upload=bool(row["is_upload"]),
        options=JobOptions(**options),
        error=row["error"],
        remarks=tuple(json.loads(row["remarks"])),
        duration_s=row["duration_s"],
        created_at=row["created_at"],
        finished_at=row["finished_at"],
    )


def _now() -> str:
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
