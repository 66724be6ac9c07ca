"""Tasks of a worker: identify a source, and find its actions, starting at the first stage that is not stored yet."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection
from contextlib import closing
from pathlib import Path

from tallformer_infer.archive.device_server import RemoteRuntime
from tallformer_infer.archive.stages import (
    StageHashes,
    choices_of,
    encoder_precision,
    hash_stages,
    sha256_of,
    storage_key,
)
from tallformer_infer.archive.store import (
    DamagedError,
    FeatureFile,
    FeatureReader,
    FeatureStore,
    FeatureWriter,
    InUseError,
)
from tallformer_infer.archive.tasks import (
    Alive,
    Broken,
    Failed,
    Finished,
    Identified,
    IdentifyTask,
    LabelSettings,
    LabelTask,
    NotAVideo,
    OnAlive,
    Outcome,
    Task,
)
from tallformer_infer.bundle import load_bundle
from tallformer_infer.errors import BundleError, DeviceError, MediaError, TallformerError
from tallformer_infer.media import (
    ALLOWED_PROTOCOLS,
    Hardware,
    RemoteBytes,
    WebBytes,
    choose_hardware,
    host_of,
    is_address,
    is_web_address,
    open_video,
    probe,
    version_of_address,
)
from tallformer_infer.pipeline import (
    NO_TIME,
    ClipEncoder,
    OnProgress,
    OtherVideoError,
    Progress,
    VideoCandidates,
    VideoRun,
    conclude,
)
from tallformer_infer.runtime import Runtime, load_runtime

_HASHED_AT_ONCE = 1 << 24


def identify(
    source: str,
    *,
    is_guess: bool,
    on_alive: Callable[[Alive], None],
    protocols: Collection[str] = ALLOWED_PROTOCOLS,
    public_hosts: Collection[str] = (),
) -> Identified | NotAVideo:
    """Identify the content of a source: the hash of a file, or the version that the server gives for an address.

    Args:
        source: Absolute path, or address.
        is_guess: Whether to probe if it is a video.
        on_alive: Called regularly.
        protocols: Allowed protocols of addresses.
        public_hosts: Hosts that must have public addresses.

    Raises:
        MediaError: The source cannot be read, or is not a file.
    """
    if is_address(source):
        version, size_bytes = version_of_address(source, protocols, only_public=host_of(source) in public_hosts)
        return Identified(f"address:{hashlib.sha256(version.encode()).hexdigest()}", size_bytes, None)
    if is_guess:
        try:
            probe(Path(source))
        except MediaError as error:
            status = os.stat(source)  # noqa: PTH116 - a name is taken as it is
            return NotAVideo(str(error), Identified("", status.st_size, status.st_mtime_ns))
    return _identify_file(source, on_alive)


def _identify_file(source: str, on_alive: Callable[[Alive], None]) -> Identified:
    """Hash a file. Size and time are from before hashing, so that a file still being written is checked again."""
    if not os.path.isfile(source):  # noqa: PTH113 - a name is taken as it is
        raise MediaError(f"{source}: {'not a regular file' if os.path.exists(source) else 'no such video'}")  # noqa: PTH110
    digest = hashlib.sha256()
    try:
        with open(source, "rb") as file:  # noqa: PTH123 - a name is taken as it is
            status = os.fstat(file.fileno())
            while block := file.read(_HASHED_AT_ONCE):
                digest.update(block)
                on_alive(Alive(what="reading"))
    except OSError as error:
        raise MediaError(f"{source}: cannot be read: {error.strerror or error}") from error
    return Identified(f"sha256:{digest.hexdigest()}", status.st_size, status.st_mtime_ns)


_LONGEST_UNTOLD_S = 60.0
"""Lower limit for the duration in the header when checking for endless videos, in seconds."""


class Labeller:
    """Labels videos with one model on one device."""

    def __init__(self, settings: LabelSettings, *, slot: int = 0) -> None:
        """Read the model's description; its graphs are loaded when the first clip needs them.

        Raises:
            BundleError: The model was changed since the run started.
        """
        self._settings = settings
        self._bundle = load_bundle(settings.model)
        if self._bundle.sha256 != settings.bundle_sha256:
            raise BundleError(f"{settings.model}: was changed since the run started; run the same command again")
        self._hashes: StageHashes = hash_stages(self._bundle, settings)
        self._choices = choices_of(settings)
        self._store = None if settings.store is None else FeatureStore(settings.store)
        self._runtime: Runtime | None = None
        self._hardware: Hardware | None = None
        self._slot = slot
        recipe = self._bundle.recipe
        self._shape = (recipe.model.backbone.out_channels, recipe.clip_steps)

    def do(self, task: Task, on_alive: OnAlive) -> Outcome:
        """Do a task; a problem with its video is returned as the outcome."""
        try:
            if isinstance(task, IdentifyTask):
                return identify(
                    task.source,
                    is_guess=task.is_guess,
                    on_alive=on_alive,
                    protocols=self._settings.protocols,
                    public_hosts=self._settings.public_hosts,
                )
            return self._label(task, on_alive)
        except MediaError as error:
            return Failed("read" if is_address(task.source) else "media", str(error))
        except (BundleError, DeviceError) as error:
            return Broken(str(error))
        except TallformerError as error:
            return Failed("bug", str(error))
        except Exception as error:
            return Failed("bug", f"{type(error).__name__}: {error}")

    def _label(self, task: LabelTask, on_alive: OnAlive) -> Finished:
        key = storage_key(task.content, self._hashes.localizer)
        found = None
        if self._store is not None:
            have_classes = self._settings.scores is None
            found = self._store.read_candidates(key, floor=self._floor, have_classes=have_classes)
        work = _Work()
        if found is None:
            found = self._localize_stored(task, on_alive, work) or self._read(task, on_alive, work)
            if self._store:
                try:
                    self._store.write_candidates(key, found)
                except OSError as error:
                    work.remarks.append(f"candidates are not stored: {error.strerror or error}")
        result = conclude(
            found,
            self._bundle,
            self._choices,
            scores=task.class_scores,
            sha256=sha256_of(task.content),
            timings=work.timings,
        )
        return Finished(result, tuple(dict.fromkeys(work.remarks)), work.clips_encoded)

    def _localize_stored(self, task: LabelTask, on_alive: OnAlive, work: _Work) -> VideoCandidates | None:
        """Candidates from stored features; None if there are none, or they are damaged."""
        if self._store is None:
            return None
        key = storage_key(task.content, self._hashes.encoder)
        reader = self._store.read_features(key, self._shape)
        if reader is None:
            return None
        try:
            return self._localize(reader, on_alive, work)
        except (DamagedError, OSError) as error:
            self._store.forget_features(key)
            work.remarks.append(f"stored features were damaged ({error}): encoded again")
            return None

    def _localize(self, reader: FeatureReader, on_alive: OnAlive, work: _Work) -> VideoCandidates:
        sample_fps = self._bundle.recipe.sampling.sample_fps
        run = self._run(on_alive, self._encoder(on_alive))
        for _ in run.localize(reader.clips()):
            on_alive(Alive(run.frames / sample_fps))
        assert reader.facts is not None, "clips were read to the end"
        work.timings = run.timings()
        return run.candidates(reader.facts)

    def _read(self, task: LabelTask, on_alive: OnAlive, work: _Work) -> VideoCandidates:
        """Candidates from the video; features are stored clip by clip."""
        try:
            return self._read_on(task, on_alive, work)
        except (DamagedError, OtherVideoError) as error:
            work.remarks.append(f"stored features were damaged ({error}): encoded again")
        assert self._store is not None, "only a store can be damaged"
        self._store.forget_features(storage_key(task.content, self._hashes.encoder))
        return self._read_on(task, on_alive, work)

    def _read_on(self, task: LabelTask, on_alive: OnAlive, work: _Work) -> VideoCandidates:
        settings = self._settings
        encoder = self._encoder(on_alive)
        keeper = FeatureFile(self._writer(task, work))
        limit = _LengthLimit(task.source, settings.longest_factor, on_alive)
        run = self._run(on_alive, encoder, keeper=keeper, on_progress=limit.check)
        sampling = self._bundle.recipe.sampling
        try:
            self._hardware = self._hardware or choose_hardware(settings.hwaccel)
            opened = _opened(task.source, settings)
            with open_video(opened, sampling, threads=settings.threads, hardware=self._hardware) as stream:
                with closing(run.read(stream)) as windows_done:
                    for _ in windows_done:
                        pass
                facts = run.facts(stream)
                work.timings = run.timings(stream.decode_s)
            keeper.finish(facts)
        finally:
            keeper.close()
        work.clips_encoded = encoder.encoded
        work.remarks += [keeper.problem] if keeper.problem else []
        return run.candidates(facts)

    def _encoder(self, on_alive: OnAlive) -> ClipEncoder:
        """Features are always rounded, so that actions do not depend on whether features were stored."""
        tolerance = self._settings.static_tolerance
        runtime = self._loaded(on_alive)
        return ClipEncoder(runtime, self._bundle.recipe, static_tolerance=tolerance, is_rounded=True)

    def _run(
        self,
        on_alive: OnAlive,
        encoder: ClipEncoder,
        *,
        keeper: FeatureFile | None = None,
        on_progress: OnProgress | None = None,
    ) -> VideoRun:
        runtime = self._loaded(on_alive)
        return VideoRun(self._bundle, runtime, self._choices, encoder=encoder, keeper=keeper, on_progress=on_progress)

    def _writer(self, task: LabelTask, work: _Work) -> FeatureWriter | None:
        if self._store is None:
            return None
        try:
            return self._store.write_features(storage_key(task.content, self._hashes.encoder), self._shape)
        except InUseError:
            work.remarks.append("features are being stored by another worker")
            return None
        except OSError as error:
            work.remarks.append(f"features are not stored: {error.strerror or error}")
            return None

    def _loaded(self, on_alive: OnAlive) -> Runtime:
        if self._runtime is None:
            on_alive(Alive(what="loading"))
            self._runtime = self._load()
            on_alive(Alive(what="reading"))
        return self._runtime

    def _load(self) -> Runtime:
        settings = self._settings
        runtime: Runtime
        if settings.servers:
            server = settings.servers[self._slot % len(settings.servers)]
            runtime = RemoteRuntime(server)
        else:
            precision = encoder_precision(self._bundle, settings.precision)
            runtime = load_runtime(self._bundle, device=settings.device, threads=settings.threads, precision=precision)
        return runtime

    @property
    def _floor(self) -> float:
        return 0.0 if self._settings.scores else self._bundle.recipe.suppress.score_threshold


def _opened(source: str, settings: LabelSettings) -> Path | WebBytes | RemoteBytes:
    if is_web_address(source):
        return WebBytes(source, only_public=host_of(source) in settings.public_hosts)
    return RemoteBytes(source, settings.protocols) if is_address(source) else Path(source)


class _Work:
    """Statistics and remarks of an attempt."""

    def __init__(self) -> None:
        self.timings = NO_TIME
        self.remarks: list[str] = []
        self.clips_encoded = 0


class _LengthLimit:
    """Forwards progress, and stops a video that is much longer than its header says."""

    def __init__(self, source: str, factor: float, on_alive: OnAlive) -> None:
        self._source = source
        self._factor = factor
        self._on_alive = on_alive

    def check(self, progress: Progress) -> None:
        told_s = progress.duration_s
        if told_s is not None and progress.position_s > self._factor * max(told_s, _LONGEST_UNTOLD_S):
            raise MediaError(
                f"{self._source}: did not end after {progress.position_s:.0f} s, its header says {told_s:.0f} s; "
                "raise --timeout-factor if the video is really longer"
            )
        self._on_alive(Alive(progress.position_s, told_s))
