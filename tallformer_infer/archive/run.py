"""A run: plan the remaining work, assign videos to workers, and store their results.

Note [at any moment]
    A run may be killed at any point. Features are stored clip by clip, result files are replaced atomically, and a
    video is done when the transaction with its row and its actions is committed. Everything that a killed run leaves
    behind is therefore absent, complete, or written again by the next run with the same content.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from tallformer_infer.archive.database import ArchiveDatabase, FailureKind, VideoRow
from tallformer_infer.archive.places import ResultPlace
from tallformer_infer.archive.processes import Engine
from tallformer_infer.archive.results import (
    WRITERS,
    Recorder,
    Recording,
    ResultKeeper,
    choose_names,
    has_outputs,
    stored_result,
)
from tallformer_infer.archive.sources import FoundSource
from tallformer_infer.archive.stages import StageHashes, choices_of, hash_stages, sha256_of, storage_key
from tallformer_infer.archive.store import FeatureStore, StoreLimit
from tallformer_infer.archive.tasks import (
    Alive,
    Broken,
    Event,
    Failed,
    Finished,
    Identified,
    IdentifyTask,
    LabelSettings,
    LabelTask,
    Lost,
    NotAVideo,
    Task,
    Totals,
    Watcher,
)
from tallformer_infer.bundle import Bundle
from tallformer_infer.errors import AnnotationError, ArchiveError, ConfigError
from tallformer_infer.evaluation import ClassScores
from tallformer_infer.media import is_address
from tallformer_infer.pipeline import conclude
from tallformer_infer.structures import Result

_RETRY_IN_NEXT_RUN = frozenset({"read", "output", "scores"})
"""Failures that may be temporary and are retried in the next run; others wait for `tallformer archive retry`."""


@dataclass(frozen=True, kw_only=True)
class RunParts:
    """The parts of a run."""

    database: ArchiveDatabase
    """Database, open for writing."""
    bundle: Bundle
    """The model."""
    settings: LabelSettings
    """Settings for the workers."""
    place: ResultPlace
    """Destination of the result files."""
    formats: tuple[str, ...]
    """Formats of the result files of a video."""
    watcher: Watcher
    """Receives events."""
    max_attempts: int
    """Maximum number of attempts per video whose worker crashes or hangs, or whose source cannot be read further."""
    store_bytes: int
    """Disk space for stored features and candidates, in bytes."""
    class_scores: ClassScores | None = None
    """Class scores per video, replacing the model's classifier."""

    @cached_property
    def hashes(self) -> StageHashes:
        """Hashes of model and settings."""
        return hash_stages(self.bundle, self.settings)

    @cached_property
    def keeper(self) -> ResultKeeper:
        """Writes results."""
        selection = self.settings.selection
        return ResultKeeper(
            self.database, self.bundle, self.hashes, selection=selection, place=self.place, formats=self.formats
        )


@dataclass(kw_only=True)
class Plan:
    """What to do with each video of the sources."""

    label: list[VideoRow] = field(default_factory=list)
    """Videos for workers, largest first."""
    conclude: list[VideoRow] = field(default_factory=list)
    """Videos with stored candidates or actions: only suppression, selection or result files are missing."""
    unchanged: list[VideoRow] = field(default_factory=list)
    """Videos that are already done."""
    failed_before: list[VideoRow] = field(default_factory=list)
    """Videos that failed before and are not retried."""
    ignored: list[VideoRow] = field(default_factory=list)
    """Files that are known not to be videos."""
    size_bytes: float = 0.0
    """Total size of the remaining work, if known."""


def plan(parts: RunParts, found: Sequence[FoundSource]) -> Plan:
    """Compare the sources with the archive, and add rows for new videos.

    Args:
        parts: Database, model, settings and result files.
        found: Videos of the sources.
    """
    database, formats = parts.database, parts.formats
    known = {row.source: row for row in database.videos()}
    new = choose_names([source for source in found if source.source not in known], database.name_keys())
    if new:
        database.add((source.source, name, key, source.is_guess) for source, name, key in new)
        known = {row.source: row for row in database.videos()}
    done = Plan()
    again: list[int] = []
    sizes: dict[int, float] = {}
    for source in found:
        row = known[source.source]
        size_bytes, is_changed = _look(row)
        sizes[row.id] = size_bytes
        is_written = set(formats) <= set(row.outputs) and has_outputs(parts.place, row.name, formats)
        wanted = _list_for(done, row, parts.hashes, is_changed=is_changed, is_written=is_written)
        wanted.append(row)
        if (wanted is done.label or wanted is done.conclude) and size_bytes < float("inf"):
            done.size_bytes += size_bytes
        if wanted is done.label and row.status in ("done", "failed", "ignored"):
            again.append(row.id)
    database.let_wait(again, forget_attempts=True)
    done.label = sorted((database.video(row.id) for row in done.label), key=lambda row: (-sizes[row.id], row.id))
    return done


def _look(row: VideoRow) -> tuple[float, bool]:
    """Size of a source (infinite if unknown), and whether it may have changed since its row was written."""
    if is_address(row.source):  # only the server knows; a worker asks it
        return (float("inf") if row.size_bytes is None else float(row.size_bytes)), True
    try:
        status = os.stat(row.source)  # noqa: PTH116 - a name is taken as it is
    except OSError:
        return 0.0, True
    return float(status.st_size), (status.st_size, status.st_mtime_ns) != (row.size_bytes, row.mtime_ns)


def _list_for(done: Plan, row: VideoRow, hashes: StageHashes, *, is_changed: bool, is_written: bool) -> list[VideoRow]:
    if is_changed or row.status in ("waiting", "running"):
        return done.label
    if row.status == "ignored":
        return done.ignored
    if row.status == "failed" and row.result is None:
        return done.label if row.error_kind in _RETRY_IN_NEXT_RUN else done.failed_before
    if row.actions_hash == hashes.actions:
        return done.unchanged if row.status == "done" and is_written else done.conclude
    return done.conclude if row.localizer_hash == hashes.localizer else done.label


_RETRY_IN_THIS_RUN: frozenset[FailureKind] = frozenset({"read", "crash", "killed", "hang"})
_WAIT_S = 0.2
_CONCLUDED_AT_ONCE = 64


class Run:
    """One run over the videos of a plan."""

    def __init__(self, parts: RunParts, plan: Plan) -> None:
        self._parts = parts
        self._plan = plan
        self._database = parts.database
        self._store = None if parts.settings.store is None else FeatureStore(parts.settings.store)
        self._limit = None if self._store is None else StoreLimit(self._store, parts.store_bytes)
        self._tasks: deque[Task] = deque()
        self._busy: dict[int, Task] = {}
        self._by_content: dict[str, int] = {}
        self._waiting_for: dict[int, list[LabelTask]] = {}
        self._started_s = time.monotonic()
        self.totals = Totals(planned=len(plan.label) + len(plan.conclude), planned_bytes=plan.size_bytes)
        """Progress so far."""
        self._recorder = Recorder(parts.database, parts.keeper, parts.watcher, self.totals)

    def conclude_stored(self) -> None:
        """Repeat what needs neither a video nor a model: suppression, selection and result files.

        Videos whose candidates are no longer stored are added to those to be labelled. Runs in threads, as most of the
        time is spent waiting for the disk, or for the address of the result files.
        """
        rows = self._plan.conclude
        self._database.forget_outputs(row.id for row in rows)
        threads = ThreadPoolExecutor(WRITERS)
        try:
            for start in range(0, len(rows), _CONCLUDED_AT_ONCE):
                batch = rows[start : start + _CONCLUDED_AT_ONCE]
                known = [self._known(row) for row in batch]
                for row, outcome in zip(batch, threads.map(self._concluded, batch, known), strict=True):
                    if isinstance(outcome, AnnotationError):
                        self._fail(row, "scores", str(outcome))
                    elif outcome is None:
                        self._plan.label.append(row)
                        self._database.let_wait([row.id], forget_attempts=True)
                    else:
                        self._recorder.record(row, *outcome)
        finally:
            threads.shutdown(wait=False, cancel_futures=True)

    def _known(self, row: VideoRow) -> Result | None:
        """The stored result of a video whose actions are up to date; only its files are missing."""
        if row.actions_hash == self._parts.hashes.actions:
            with contextlib.suppress(ConfigError):  # of another version; its candidates may still be usable
                return stored_result(self._database, row)
        return None

    def _concluded(self, row: VideoRow, known: Result | None) -> tuple[Result, Recording] | AnnotationError | None:
        """The result of a video, from stored candidates if needed, with its files; None if neither is stored."""
        parts = self._parts
        key = storage_key(row.content or "", parts.hashes.localizer)
        if known is None:
            floor = parts.bundle.recipe.suppress.score_threshold
            have_classes = parts.settings.scores is None
            found = self._store.read_candidates(key, floor=floor, have_classes=have_classes) if self._store else None
            if found is None:
                return None
            try:
                scores = self._class_scores_of(row)
            except AnnotationError as error:
                return error
            sha256 = sha256_of(row.content)
            known = conclude(found, parts.bundle, choices_of(parts.settings), scores=scores, sha256=sha256)
        return known, Recording(row.remarks, counts=False, problem=self._recorder.write(row, known))

    def _class_scores_of(self, row: VideoRow) -> Mapping[str, float] | None:
        """Class scores of a video, found by file name as in `detect`."""
        scores = self._parts.class_scores
        return None if scores is None else scores.of(Path(row.source).stem)

    def work(self, engine: Engine, *, goes_on: Callable[[], bool] = lambda: False) -> None:
        """Label the remaining videos in workers.

        Args:
            engine: The workers.
            goes_on: Called between events, and may call `add`, `drop` and `forget`; returns whether to wait for further
                videos once all are done. If it returns False, videos that were not started are left.

        Raises:
            ArchiveError: The model or its device does not work, or the database cannot be written.
        """
        self._tasks.extend(_first_task(row) for row in self._plan.label)
        waits = goes_on()
        while self._busy or self._tasks or self._recorder.writing or waits:
            if waits and not (waits := goes_on()):
                self._tasks.clear()
            if not self._recorder.is_full:
                self._give_to_free(engine)
            hears = bool(self._busy) or not self._recorder.writing
            got = engine.next_event(_WAIT_S) if hears else None
            self.totals.wall_s = time.monotonic() - self._started_s
            if got is not None:
                self._hear(engine, *got)
            for row in self._recorder.take_written(0.0 if hears else _WAIT_S):
                self._release(row)
        if self._limit is not None:
            self._limit.close()

    def _give_to_free(self, engine: Engine) -> None:
        for slot in engine.free():
            if self._tasks and slot not in self._busy:
                task = self._tasks.popleft()
                self._give(engine, slot, task)
                self._parts.watcher.started(slot, task.source, engine.place(slot))

    def add(self, found: FoundSource) -> None:
        """Label one more video, unless it is in progress. Call from the thread of the run, while it works."""
        row = self._database.of_source(found.source)
        if row is None:
            ((source, name, key),) = choose_names([found], set())
            self._database.add([(source.source, name, key, source.is_guess)])
            row = self._database.of_source(found.source)
            assert row is not None, "it was just added"
        followers = [task for waiting in self._waiting_for.values() for task in waiting]
        under_way = {task.video_id for task in (*followers, *self._tasks, *self._busy.values())}
        if row.id in under_way or row.id in self._recorder.writing:
            return
        self._database.let_wait([row.id], forget_attempts=True)
        self._tasks.append(_first_task(row))

    def drop(self, source: str) -> int | None:
        """Cancel a video.

        Returns:
            The slot that processes it, which the caller must drop in the engine; None if there is none.
        """
        row = self._database.of_source(source)
        if row is None:
            return None
        self._tasks = deque(task for task in self._tasks if task.video_id != row.id)
        for waiting in self._waiting_for.values():
            waiting[:] = [task for task in waiting if task.video_id != row.id]
        self._database.let_wait([row.id], forget_attempts=False)
        self._recorder.writing.discard(row.id)
        self._by_content = {content: owner for content, owner in self._by_content.items() if owner != row.id}
        followers = [self._database.video(task.video_id) for task in self._waiting_for.pop(row.id, [])]
        self._tasks.extend(_first_task(follower) for follower in followers)
        slot = next((slot for slot, task in self._busy.items() if task.video_id == row.id), None)
        if slot is not None:
            del self._busy[slot]
        return slot

    def forget(self, source: str) -> None:
        """Remove a video and its actions from the archive."""
        row = self._database.of_source(source)
        if row is not None:
            self._recorder.writing.discard(row.id)
            self._database.remove(row.id)

    def write_left(self) -> int:
        """Retry result files that could not be written; see `Recorder.write_left`."""
        untried = self._recorder.write_left()
        self._recorder.close()
        return untried

    def stop(self) -> None:
        """Stop; started videos are resumed by a later run."""
        self._recorder.close()
        begun = [task.video_id for task in self._busy.values()]
        begun += self._recorder.writing
        begun += [task.video_id for followers in self._waiting_for.values() for task in followers]
        begun += [task.video_id for task in self._tasks if isinstance(task, LabelTask)]
        self._database.let_wait(begun, forget_attempts=False)

    def _give(self, engine: Engine, slot: int, task: Task) -> None:
        self._database.start(task.video_id)
        self._busy[slot] = task
        engine.give(slot, task)

    def _hear(self, engine: Engine, slot: int, event: Event) -> None:
        task = self._busy[slot]
        if isinstance(event, Alive):
            self._parts.watcher.alive(slot, task.source, event, self.totals)
            return
        del self._busy[slot]
        row = self._database.video(task.video_id)
        match event:
            case Identified():
                self._identified(engine, slot, row, event)
            case NotAVideo():
                self._note(row, event.seen)
                self._database.ignore(row.id, event.reason)
                self.totals.ignored += 1
            case Finished():
                self.totals.clips_encoded += event.clips_encoded
                self._count_stored(task, event)
                self._recorder.keep(row, event.result, event.remarks)
            case Failed():
                self._fail(row, event.kind, event.error)
            case Lost():
                self._database.let_wait([row.id], forget_attempts=False)
                self.totals.retried += 1
                self._parts.watcher.failed(row.source, "killed", event.reason, again=True)
                self._tasks.append(_first_task(row))
            case Broken():
                self._database.let_wait([row.id], forget_attempts=False)
                raise ArchiveError(f"{event.error}; nothing is lost; run the same command again to resume")

        if slot not in self._busy:
            self._parts.watcher.freed(slot)

    def _identified(self, engine: Engine, slot: int, row: VideoRow, seen: Identified) -> None:
        """Label the video, unless the same content is done or in progress."""
        is_as_before = row.content == seen.content and row.actions_hash == self._parts.hashes.actions
        self._note(row, seen)
        row = self._database.video(row.id)
        if is_as_before and row.result is not None:
            self._recorder.keep_as_it_was(row, stored_result(self._database, row))
            return
        try:
            scores = self._class_scores_of(row)
        except AnnotationError as error:
            self._fail(row, "scores", str(error))
            return
        task = LabelTask(row.id, row.source, seen.content, scores)
        can_share = scores is None or self._store is not None
        if can_share and self._by_content.get(seen.content, row.id) != row.id:
            self._waiting_for[self._by_content[seen.content]].append(task)
        elif scores is None and (same := self._parts.keeper.same_content(row)):
            self._copy(row, *same)
        else:
            self._by_content[seen.content] = row.id
            self._waiting_for.setdefault(row.id, [])
            self._give(engine, slot, task)

    def _note(self, row: VideoRow, seen: Identified) -> None:
        self._database.identify(
            row.id, content=seen.content or None, size_bytes=seen.size_bytes, mtime_ns=seen.mtime_ns
        )

    def _copy(self, row: VideoRow, other: VideoRow, result: Result) -> None:
        self.totals.copied += 1
        self._recorder.keep(row, result, other.remarks)

    def _release(self, leader: VideoRow) -> None:
        """Apply the outcome of a video to those that wait for the same content."""
        self._by_content = {content: owner for content, owner in self._by_content.items() if owner != leader.id}
        leader = self._database.video(leader.id)
        for task in self._waiting_for.pop(leader.id, []):
            row = self._database.video(task.video_id)
            if leader.result is not None and task.class_scores is not None:
                self._tasks.appendleft(task)  # identical files with different scores; the candidates are stored by now
            elif same := self._parts.keeper.same_content(row):
                self._copy(row, *same)
            else:
                kind, error = leader.error_kind or "bug", leader.error or "failed"
                self._database.fail(row.id, kind, error.replace(leader.source, row.source), again=False)
                self._recorder.count_failure(row, kind, error.replace(leader.source, row.source))

    def _fail(self, row: VideoRow, kind: FailureKind, error: str) -> None:
        again = kind in _RETRY_IN_THIS_RUN and row.attempts + 1 < self._parts.max_attempts
        self._database.fail(row.id, kind, error, again=again)
        if again:
            self.totals.retried += 1
            self._parts.watcher.failed(row.source, kind, error, again=True)
            self._tasks.append(_first_task(self._database.video(row.id)))
            return
        self._recorder.count_failure(row, kind, error)
        self._release(row)

    def _count_stored(self, task: Task, done: Finished) -> None:
        """Report files stored by a worker to the store's limit."""
        if self._limit is None or not isinstance(task, LabelTask):
            return
        hashes = (*([self._parts.hashes.encoder] if done.clips_encoded else []), self._parts.hashes.localizer)
        labelled = [other.content for other in self._busy.values() if isinstance(other, LabelTask)]
        self._limit.count(
            [storage_key(task.content, stage) for stage in hashes],
            keep={storage_key(content, self._parts.hashes.encoder) for content in labelled},
        )


def _first_task(row: VideoRow) -> Task:
    return IdentifyTask(row.id, row.source, row.is_guess)
