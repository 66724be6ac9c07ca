"""What was found goes into result files and the database, and is counted."""

from __future__ import annotations

from dataclasses import dataclass

from tallformer_infer.archive.database import ArchiveDatabase
from tallformer_infer.archive.places import NotTriedError
from tallformer_infer.archive.rows import FailureKind, VideoRow
from tallformer_infer.archive.saving import ResultKeeper, stored_result
from tallformer_infer.archive.watching import Totals, Watcher
from tallformer_infer.errors import OutputError
from tallformer_infer.structures import Result


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
    """Keeps results, and remembers those whose files could not be written."""

    def __init__(self, database: ArchiveDatabase, keeper: ResultKeeper, watcher: Watcher, totals: Totals) -> None:
        self._database = database
        self._keeper = keeper
        self._watcher = watcher
        self._totals = totals
        self._unwritten: list[int] = []

    def keep(self, row: VideoRow, result: Result, remarks: tuple[str, ...], *, counts: bool = True) -> None:
        """Write the files of a video, and then its row."""
        if row.outputs:
            self._database.forget_outputs([row.id])
        self.record(row, result, Recording(remarks, counts=counts, problem=self.write(row, result)))

    def keep_as_it_was(self, row: VideoRow, result: Result) -> None:
        """Nothing has changed but, perhaps, the time of the file: write its row, and files that are missing."""
        counts = row.attempts == 0
        if self._keeper.is_written(row):
            self.record(row, result, Recording(row.remarks, counts=counts))
        else:
            self.keep(row, result, row.remarks, counts=counts)

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
        untried = 0
        self._keeper.place.try_again()
        left, self._unwritten = self._unwritten, []
        for video_id in left:
            row = self._database.video(video_id)
            result = stored_result(self._database, row)
            problem = self.write(row, result)
            if problem is None:
                self.record(row, result, Recording(row.remarks, counts=False))
            elif isinstance(problem, NotTriedError):
                untried += 1
                self._count_failed(row)
            else:
                self.count_failure(row, "output", str(problem))
        return untried

    def count_failure(self, row: VideoRow, kind: FailureKind, error: str) -> None:
        """A video failed for good."""
        self._count_failed(row)
        self._watcher.failed(row.source, kind, error, again=False)

    def _count_failed(self, row: VideoRow) -> None:
        self._totals.failed += 1
        self._count_bytes(row)

    def _count_bytes(self, row: VideoRow) -> None:
        self._totals.done_bytes += self._database.video(row.id).size_bytes or 0
