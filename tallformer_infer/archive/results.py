"""Result files of an archive: their names, and how a finished video is written and recorded.

Note [who writes what]
    Result files are written and uploaded by threads, which mostly wait for a disk or a server, while the driver serves
    its workers. Only the driver writes the row of a video, once its files are complete.
"""

from __future__ import annotations

import dataclasses
import hashlib
import queue
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import metadata

from tallformer_infer import __version__
from tallformer_infer.archive.database import ArchiveDatabase, FailureKind, Labelled, VideoRow
from tallformer_infer.archive.places import NotTriedError, ResultPlace
from tallformer_infer.archive.sources import FoundSource
from tallformer_infer.archive.stages import StageHashes, hash_recipe
from tallformer_infer.archive.tasks import Totals, Watcher
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import from_json, to_json
from tallformer_infer.errors import OutputError
from tallformer_infer.labels import (
    FORMATS,
    WRITABLE,
    activitynet_document,
    encode_labels,
    labelled_video,
    require_libraries,
)
from tallformer_infer.report import require_report, result_page, source_of
from tallformer_infer.results import Selection, actions_document, encode_document
from tallformer_infer.structures import Result

_UNSAFE = re.compile(r'[\x00-\x1f\x7f<>:"|?*\\]')
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)
_LONGEST_BYTES = 180
"""Maximum length of a path component, in bytes; with a suffix it must fit in 255."""
_MARK_DIGITS = 10


def choose_names(found: Iterable[FoundSource], taken: set[str]) -> list[tuple[FoundSource, str, str]]:
    """Choose a unique name for every video.

    Args:
        found: The videos, in a stable order.
        taken: Keys of names in use; the new ones are added.

    Returns:
        Each video with its name, with `/` between folders, and the key of the name. Keys are unique even on file
        systems that ignore case or Unicode normalization.
    """
    chosen = []
    for source in found:
        name = _safe(source.name, source.source)
        if _key(name) in taken:
            name = f"{name}~{_mark(source.source)}"
        taken.add(_key(name))
        chosen.append((source, name, _key(name)))
    return chosen


def _safe(name: str, source: str) -> str:
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(_safe_part(part, source) for part in parts) or f"video~{_mark(source)}"


def _safe_part(part: str, source: str) -> str:
    """Make a path component valid on every system; a changed one gets a hash, so that it stays unique."""
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


_SHARED_SUFFIXES = (".json", ".xml", ".txt")


def check_formats(formats: Sequence[str]) -> None:
    """Check that the libraries of formats are installed, before a long run.

    Raises:
        ExtraError: A library is missing.
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
    """Write the result files of a video, each atomically.

    Raises:
        OutputError: A file cannot be written, or would be outside the place.
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
    """Writes the results of a run, and the facts recorded with them."""

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
        """Write the result files of a video. Thread-safe.

        Until they are written, the row must not list them, see `ArchiveDatabase.forget_outputs`.

        Args:
            row: The video.
            result: Its result, or that of a file with the same content.

        Raises:
            OutputError: A file cannot be written.
        """
        named = _under_path_of(row, result)
        write_outputs(named, self._selection, place=self.place, name=row.name, formats=self.formats)

    def is_written(self, row: VideoRow) -> bool:
        """Whether the result files of a video exist and, according to its row, match this model and these settings."""
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
            result: Its result.
            remarks: Remarks, one line each.
            counts: Whether it counts as an attempt.
            problem: Why the files could not be written; they can be written later from the row.

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
        """Another finished video with the same content, model and settings."""
        for other in self._database.videos_of_content(row.content or "", self._hashes.actions):
            if other.id != row.id and other.result is not None:
                return other, stored_result(self._database, other)
        return None


def _under_path_of(row: VideoRow, result: Result) -> Result:
    return dataclasses.replace(result, video=dataclasses.replace(result.video, path=row.source))


def stored_result(database: ArchiveDatabase, row: VideoRow) -> Result:
    """The stored result of a finished video.

    Raises:
        ConfigError: It was written by another version.
    """
    result = from_json(Result, row.result, where=f"result of {row.source}")
    return dataclasses.replace(result, actions=database.actions_of(row.id))


WRITERS = 8
_AT_ONCE = 64
"""Maximum number of results in memory that wait for their files to be written."""


@dataclass(frozen=True)
class Recording:
    """How a result is recorded in the database."""

    remarks: tuple[str, ...]
    """Remarks."""
    counts: bool = True
    """It counts as an attempt."""
    problem: OutputError | None = None
    """Why its files could not be written."""


class Recorder:
    """Records results, and remembers those whose files could not be written. See Note [who writes what]."""

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
        """Whether too many results wait for their files to start new videos."""
        return len(self.writing) >= _AT_ONCE

    def keep(self, row: VideoRow, result: Result, remarks: tuple[str, ...], *, counts: bool = True) -> None:
        """Start writing the files of a video; its row is written in `take_written`."""
        if row.outputs:
            self._database.forget_outputs([row.id])
        self.writing.add(row.id)
        self._threads.submit(self._write_and_tell, row, result, remarks, counts)

    def keep_as_it_was(self, row: VideoRow, result: Result) -> None:
        """Only the file's time may have changed: write its row, and missing files."""
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
            if row.id in self.writing:  # otherwise it was dropped
                self.writing.discard(row.id)
                self.record(row, result, how)
                yield row

    def write(self, row: VideoRow, result: Result) -> OutputError | None:
        """Write the files of a video; returns the reason if they cannot be written. Called from several threads."""
        try:
            self._keeper.write_files(row, result)
        except OutputError as error:
            return error
        return None

    def record(self, row: VideoRow, result: Result, how: Recording) -> None:
        """Record a result in the database. Results without files wait for `write_left`, or for the next run."""
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
        """Retry result files that could not be written; videos whose files still cannot be written have failed.

        Returns:
            Number of these that were not attempted and not reported; see Note [an address that does not answer] in
            `places`.
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
        """Start no further writes."""
        self._threads.shutdown(wait=False, cancel_futures=True)

    def count_failure(self, row: VideoRow, kind: FailureKind, error: str) -> None:
        """Record the final failure of a video."""
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
