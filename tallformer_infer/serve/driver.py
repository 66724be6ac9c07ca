"""The thread that assigns jobs to workers: a run of `tallformer label` that never ends.

Note [two databases]
    Clients see jobs, workers see videos. Several jobs may refer to one file, and the archive processes files with the
    same content once. A job therefore refers to a video by its path, and the state of that video in the archive
    determines the state of the job. The archive stores every action with the model's own score, and each job's options
    filter them when its result is requested: other options cost nothing.
"""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from tallformer_infer.archive.database import ArchiveDatabase, FailureKind
from tallformer_infer.archive.places import ResultFolder
from tallformer_infer.archive.processes import ProcessEngine
from tallformer_infer.archive.results import stored_result
from tallformer_infer.archive.run import Plan, Run, RunParts
from tallformer_infer.archive.sources import FoundSource
from tallformer_infer.archive.tasks import Alive, LabelSettings, Totals
from tallformer_infer.bundle import Bundle
from tallformer_infer.devices import Device
from tallformer_infer.errors import MediaError, TallformerError
from tallformer_infer.results import Selection
from tallformer_infer.serve.guard import fetch
from tallformer_infer.serve.jobs import Job, JobStore
from tallformer_infer.structures import Layout, Result

_FETCHERS = 2
_EVERYTHING = Selection()


@dataclass(frozen=True, kw_only=True)
class DriverOptions:
    """Options for processing jobs."""

    data: Path
    """Folder of the server: uploads, archive, stored features."""
    device: Device
    """Where the model runs, as for `detect`."""
    workers: int
    """Worker processes."""
    threads: int | None
    """CPU threads per worker."""
    store_bytes: int
    """Maximum size of stored features, in bytes."""
    timeout_factor: float = 10.0
    """A worker that is silent for this many times the longest silence so far is replaced."""
    max_attempts: int = 3
    """Maximum number of attempts at a video whose worker crashes or hangs."""
    allowed_hosts: tuple[str, ...] = ()
    """Hosts that videos may be fetched from."""
    allow_private: bool = False
    """Whether hosts may have addresses that are not public."""
    most_bytes: int = 1 << 34
    """Maximum size of a video, in bytes."""


@dataclass(frozen=True)
class Progress:
    """Progress of a video."""

    position_s: float = 0.0
    """Video time processed, in seconds."""
    duration_s: float | None = None
    """Duration according to the header, in seconds."""


class Driver:
    """Owns the archive and its workers, in a separate thread."""

    def __init__(self, bundle: Bundle, jobs: JobStore, options: DriverOptions) -> None:
        self._bundle = bundle
        self._jobs = jobs
        self._options = options
        self._calls: queue.Queue[Callable[[Run], None]] = queue.Queue()
        self._progress: dict[str, Progress] = {}
        self._fetchers = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="tallformer-fetch")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._drive, name="tallformer-driver", daemon=True)
        self.problem: str | None = None
        """Reason why no job can be processed; None if jobs can be."""
        self.totals = Totals()
        """Work done since the start."""

    @property
    def archive(self) -> Path:
        """Folder of the archive."""
        return self._options.data / "archive"

    def start(self) -> None:
        """Start the thread, and resume unfinished jobs of an earlier process."""
        self.archive.mkdir(parents=True, exist_ok=True)
        for job in self._jobs.unfinished():
            self._jobs.move(job.id, "queued", only_from=("running",))
            self.add(job)
        self._thread.start()

    def add(self, job: Job) -> None:
        """Process a job that the store has accepted."""
        if job.url is not None and not Path(job.source).exists():
            self._fetchers.submit(self._fetch, job)
        else:
            self._calls.put(lambda run: self._begin(run, job))

    def cancel(self, job_id: str) -> bool:
        """Cancel a job; return whether it was unfinished."""
        job = self._jobs.get(job_id)
        if job is None or not self._jobs.move(job_id, "cancelled"):
            return False
        self._calls.put(lambda run: self._drop(run, job))
        return True

    def remove(self, job: Job) -> None:
        """Delete a finished job, with its upload and, unless another job needs it, its result."""
        self._jobs.remove(job.id)
        if not self._jobs.of_source(job.source):
            self._calls.put(lambda run: run.forget(job.source))
            if job.is_upload:
                shutil.rmtree(Path(job.source).parent, ignore_errors=True)

    def progress(self, job: Job) -> Progress:
        """Progress of a job."""
        return self._progress.get(job.source, Progress())

    def result(self, job: Job) -> Result | None:
        """All actions of a job's video, with the model's own scores; None if there is no result."""
        with ArchiveDatabase(self.archive) as database:
            row = database.of_source(job.source)
            return None if row is None or row.result is None else stored_result(database, row)

    @property
    def is_alive(self) -> bool:
        """Whether jobs are being processed."""
        return self._thread.is_alive() and self.problem is None

    def stop(self, *, within_s: float) -> None:
        """Give running jobs time to finish, then stop; the others stay queued for the next process."""
        self._stopping.set()
        self._fetchers.shutdown(wait=False, cancel_futures=True)
        self._thread.join(max(within_s, 0.0))

    def _drive(self) -> None:
        try:
            with ArchiveDatabase(self.archive, writes=True) as database:
                self._work(database)
        except TallformerError as error:
            self.problem = str(error)
        except Exception as error:
            self.problem = f"{type(error).__name__}: {error}"

    def _work(self, database: ArchiveDatabase) -> None:
        options, bundle = self._options, self._bundle
        settings = LabelSettings(
            model=str(bundle.path.resolve()),
            bundle_sha256=bundle.sha256,
            device=options.device,
            threads=options.threads,
            layout=Layout(),
            selection=_EVERYTHING,
            static_tolerance=0.0,
            store=(self.archive / "store").resolve(),
            longest_factor=options.timeout_factor,
        )
        parts = RunParts(
            database=database,
            bundle=bundle,
            settings=settings,
            place=ResultFolder(self.archive),
            formats=(),
            watcher=_JobWatcher(self._jobs, self._progress),
            max_attempts=options.max_attempts,
            store_bytes=options.store_bytes,
        )
        run = Run(parts, Plan())
        self.totals = run.totals
        self._engine = engine = ProcessEngine(settings, count=options.workers, timeout_factor=options.timeout_factor)
        try:
            run.work(engine, goes_on=lambda: self._goes_on(run))
        finally:
            engine.close()
            run.stop()

    def _goes_on(self, run: Run) -> bool:
        """Process pending requests; return whether to wait for more."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._calls.get_nowait()(run)
        return not self._stopping.is_set()

    def _begin(self, run: Run, job: Job) -> None:
        """Add a job's video to the archive, unless another job for it is in progress."""
        current = self._jobs.get(job.id)
        if current is None or current.state == "cancelled":
            return
        run.add(FoundSource(job.source, f"{job.id}/{job.name}"))

    def _drop(self, run: Run, job: Job) -> None:
        """Stop processing a video that no job needs any more."""
        others = self._jobs.of_source(job.source)
        if all(other.state in ("done", "failed", "cancelled") for other in others):
            slot = run.drop(job.source)
            if slot is not None:
                self._engine.drop(slot)

    def _fetch(self, job: Job) -> None:
        """Download a job's video; runs in a separate thread."""
        options, target = self._options, Path(job.source)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            fetch(
                job.url or "",
                target,
                allowed_hosts=options.allowed_hosts,
                allow_private=options.allow_private,
                most_bytes=options.most_bytes,
            )
        except (MediaError, OSError) as error:
            reason = str(error) if isinstance(error, MediaError) else f"cannot be kept: {error.strerror}"
            self._jobs.fail(job.id, reason)
            return
        if self._jobs.move(job.id, "queued", only_from=("fetching",)):
            self._calls.put(lambda run: self._begin(run, job))


class _JobWatcher:
    """Updates jobs with the events of their videos."""

    def __init__(self, jobs: JobStore, progress: dict[str, Progress]) -> None:
        self._jobs = jobs
        self._progress = progress

    def started(self, slot: int, path: str, place: str) -> None:
        """A worker starts a video."""
        for job in self._jobs.of_source(path):
            self._jobs.move(job.id, "running", only_from=("queued",))

    def alive(self, slot: int, path: str, alive: Alive, totals: Totals) -> None:
        """Progress of a worker."""
        self._progress[path] = Progress(alive.position_s, alive.duration_s)

    def done(self, path: str, result: Result, remarks: tuple[str, ...], totals: Totals) -> None:
        """A video is done, and with it all its jobs."""
        for job in self._jobs.of_source(path):
            self._jobs.finish(job.id, duration_s=result.duration_s, remarks=remarks)
        self._progress.pop(path, None)

    def failed(self, path: str, kind: FailureKind, error: str, *, again: bool) -> None:
        """An attempt failed."""
        if again:
            return
        for job in self._jobs.of_source(path):
            self._jobs.fail(job.id, _without_path(error, path, job.name))
        self._progress.pop(path, None)

    def freed(self, slot: int) -> None:
        """A worker is idle."""


def _without_path(error: str, path: str, name: str) -> str:
    """An error message for clients, without paths of the server."""
    return error.replace(path, name).replace(str(Path(path).parent), "")
