"""What was found goes into result files and the database, and is counted.

Note [who writes what]
    Result files are written, and uploaded, by threads, as most of that time goes into waiting for a disk or a server;
    the driver hears its workers meanwhile. The row of a video is written by the driver alone, once its files are there.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.places import NotTriedError
from tallformer_infer.archive.rows import FailureKind, VideoRow
from tallformer_infer.archive.saving import ResultKeeper, stored_result
from tallformer_infer.archive.watching import Totals, Watcher
from tallformer_infer.errors import OutputError
from tallformer_infer.structures import Result

WRITERS = 8
_AT_ONCE = 64
"""Most results that wait in memory for their files."""


@dataclass(frozen=True)
class Recording:
    """How a result goes into the database."""

    remarks: tuple[str, ...]
    """What else there is to know."""
    counts: bool = True
    """It was an attempt."""
    problem: OutputError | None = None
    """Why its files are missing."""


class Recorder:
    """Keeps results, and remembers those whose files could not be written. See Note [who writes what]."""

    def __init__(self, database: ArchiveDatabase, keeper: ResultKeeper, watcher: Watcher, totals: Totals) -> None:
        self._database = database
        self._keeper = keeper
        self._watcher = watcher
        self._totals = totals
        self._unwritten: list[int] = []
        self._threads = ThreadPoolExecutor(WRITERS, thread_name_prefix="tallformer-write")
        self._written: queue.SimpleQueue[tuple[VideoRow, Result, Recording] | BaseException] = queue.SimpleQueue()
        self.writing: set[int] = set()
        """Videos whose files are being written."""

    @property
    def is_full(self) -> bool:
        """Whether enough results wait for their files: no more should be made."""
        return len(self.writing) >= _AT_ONCE

    def keep(self, row: VideoRow, result: Result, remarks: tuple[str, ...], *, counts: bool = True) -> None:
        """Begin to write the files of a video; its row follows in `take_written`."""
        if row.outputs:
            self._database.forget_outputs([row.id])
        self.writing.add(row.id)
        self._threads.submit(self._write_and_tell, row, result, remarks, counts)

    def keep_as_it_was(self, row: VideoRow, result: Result) -> None:
        """Nothing has changed but, perhaps, the time of the file: write its row, and files that are missing."""
        counts = row.attempts == 0
        if self._keeper.is_written(row):
            self.record(row, result, Recording(row.remarks, counts=counts))
        else:
            self.keep(row, result, row.remarks, counts=counts)

    def take_written(self, wait_s: float) -> Iterator[VideoRow]:
        """Record the videos whose files have been written, or could not be.

        Args:
            wait_s: How long to wait for the first of them.
        """
        while self.writing:
            try:
                written = self._written.get(timeout=wait_s) if wait_s else self._written.get_nowait()
            except queue.Empty:
                return
            wait_s = 0.0
            if isinstance(written, BaseException):
                raise written
            row, result, how = written
            if row.id in self.writing:  # else it was dropped
                self.writing.discard(row.id)
                self.record(row, result, how)
                yield row

    def write(self, row: VideoRow, result: Result) -> OutputError | None:
        """Write the files of a video; why not, where they cannot be written. May be called from several threads."""
        try:
            self._keeper.write_files(row, result)
        except OutputError as error:
            return error
        return None

    def record(self, row: VideoRow, result: Result, how: Recording) -> None:
        """Into the database. What has no files yet waits for `write_left`, or for the next run."""
        error = None if how.problem is None else str(how.problem)
        self._keeper.record(row, result, how.remarks, counts=how.counts, problem=error)
        if error is not None:
            self._unwritten.append(row.id)
            if not isinstance(how.problem, NotTriedError):
                self._watcher.failed(row.source, "output", error, again=True)
            return
        self._totals.done += 1
        self._totals.incomplete += bool(result.decode_errors or result.missing_s)
        self._totals.actions += len(result.actions)
        self._totals.video_s += result.duration_s
        self._count_bytes(row)
        self._watcher.done(row.source, result, how.remarks, self._totals)

    def write_left(self) -> int:
        """Once more, write the result files that could not be written; what still cannot has failed.

        Returns:
            How many of these were not even tried, and nothing was said of them; see Note [an address that does not
            answer] in `remote_place`.
        """
        self._keeper.place.try_again()
        left, self._unwritten = self._unwritten, []
        return sum(self._write_again(left[start : start + _AT_ONCE]) for start in range(0, len(left), _AT_ONCE))

    def _write_again(self, video_ids: Sequence[int]) -> int:
        untried = 0
        rows = [self._database.video(video_id) for video_id in video_ids]
        results = [stored_result(self._database, row) for row in rows]
        for row, result, problem in zip(rows, results, self._threads.map(self.write, rows, results), strict=True):
            if problem is None:
                self.record(row, result, Recording(row.remarks, counts=False))
            elif isinstance(problem, NotTriedError):
                untried += 1
                self._count_failed(row)
            else:
                self.count_failure(row, "output", str(problem))
        return untried

    def close(self) -> None:
        """Begin nothing more."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def count_failure(self, row: VideoRow, kind: FailureKind, error: str) -> None:
        """A video failed for good."""
        self._count_failed(row)
        self._watcher.failed(row.source, kind, error, again=False)

    def _write_and_tell(self, row: VideoRow, result: Result, remarks: tuple[str, ...], counts: bool) -> None:
        try:
            self._written.put((row, result, Recording(remarks, counts=counts, problem=self.write(row, result))))
        except BaseException as error:  # raised again by the driver
            self._written.put(error)

    def _count_failed(self, row: VideoRow) -> None:
        self._totals.failed += 1
        self._count_bytes(row)

    def _count_bytes(self, row: VideoRow) -> None:
        self._totals.done_bytes += self._database.video(row.id).size_bytes or 0
