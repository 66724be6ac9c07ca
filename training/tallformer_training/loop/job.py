"""The request for a run, its description in the run's folder, and its data: checked videos, frames and lengths."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer import __version__
from tallformer_infer.config import ContrastHeadConfig, Recipe, SamplingConfig, to_json
from tallformer_infer.console import Speaker
from tallformer_infer.errors import AnnotationError, ConfigError
from tallformer_infer.files import file_sha256, write_whole, writing
from tallformer_training.datasets import (
    DatasetRequest,
    DecodedFrames,
    FrameCache,
    FrameSource,
    TrainingVideo,
    VideoSet,
    read_video_set,
)
from tallformer_training.loop.checkpoints import bundle_to_start_from
from tallformer_training.loop.config import TrainingConfig
from tallformer_training.loop.processes import Processes

RUN_FILE = "run.json"
SCHEMA = 1
_MAY_CHANGE = {"epochs", "checkpoint_every_steps", "keep_checkpoints", "loader_threads", "validate_every_epochs"}
"""Settings that may differ when a run is resumed: they affect when it ends, not what a step does."""
_OVER_ALL_EPOCHS = {"training.schedule", "training.least_steps"}
"""What `--epochs` changes besides `epochs`, if the learning rate falls once over the whole run."""


@dataclass(frozen=True, kw_only=True)
class TrainingJob:
    """Request for a training run."""

    recipe: Recipe
    """Architecture, frames, windows and classes."""
    config: TrainingConfig
    """Training settings."""
    training: DatasetRequest
    """Videos to train on."""
    validation: DatasetRequest | None = None
    """Videos for validation."""
    out: Path
    """Folder of the run."""
    start: Path | None = None
    """Checkpoint to start from, or a bundle (its name, folder or .zip), whose encoder is used; None starts from random
    weights."""
    cache: Path | None = None
    """Folder of cached frames; None: `cache` in the folder of the run."""
    use_cache: bool = True
    """Cache frames on disk; otherwise videos are decoded for every window."""
    resume: bool = False
    """Continue the run in `out`."""
    resume_from: Path | None = None
    """Checkpoint of the run to continue from; None: the last."""
    quiet: bool = False
    """Report no progress, unless `train` is given a speaker."""

    @property
    def cache_folder(self) -> Path:
        """Folder of cached frames."""
        return self.cache or self.out / "cache"


def check_run(job: TrainingJob) -> None:
    """Create the folder of a new run, or check that the run in it is the requested one.

    A run starts with `begin_run`, so a mistake found earlier leaves no run behind.

    Raises:
        ConfigError: There is a run already, or none to resume, or it was started with other settings, or the recipe's
            head cannot be trained.
        OutputError: The folder cannot be written.
    """
    if isinstance(job.recipe.model.head, ContrastHeadConfig):
        raise ConfigError(
            f"recipe {job.recipe.name}: head.kind=contrast cannot be trained; `tallformer train --suggest` proposes a "
            "recipe with another head for your annotations"
        )
    path = job.out / RUN_FILE
    if path.exists():
        if not job.resume:
            raise ConfigError(f"{job.out}: contains a run already; continue it (--resume), or choose another folder")
        _require_same(path, json.loads(path.read_text(encoding="utf-8")), _record(job))
        return
    if job.resume:
        raise ConfigError(f"{job.out}: no run to continue (no {RUN_FILE}); start one without --resume")
    with writing(job.out):
        job.out.mkdir(parents=True, exist_ok=True)


def begin_run(job: TrainingJob) -> None:
    """Write the description of a new run.

    Raises:
        OutputError: The folder cannot be written.
    """
    path = job.out / RUN_FILE
    if path.exists():
        return
    with writing(job.out):
        write_whole(path, json.dumps(_record(job), indent=1).encode())


def provenance(job: TrainingJob, *, step: int, processes: int) -> dict[str, Any]:
    """Where the weights come from, as JSON values."""
    return {
        "trained": True,
        "tool": f"tallformer {__version__}",
        "recipe": job.recipe.name,
        "steps": step,
        "processes": processes,
        **{name: value for name, value in _record(job).items() if name not in ("schema", "recipe")},
    }


def _record(job: TrainingJob) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "recipe": to_json(job.recipe),
        "training": to_json(job.config),
        "data": _data(job.training),
        "validation": None if job.validation is None else _data(job.validation),
        "start": None if job.start is None else _start_sha256(job.start),
    }


def _start_sha256(start: Path) -> str:
    bundle = bundle_to_start_from(start)
    return file_sha256(start) if bundle is None else bundle.graphs["encoder"].sha256


def _data(request: DatasetRequest) -> dict[str, Any]:
    is_file = request.annotations.is_file()
    return {
        "annotations": request.annotations.name,
        "sha256": file_sha256(request.annotations) if is_file else None,
        "subset": request.subset,
        "repair": request.repair,
    }


def _require_same(path: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    differences = [name for name in wanted if name != "training" and found.get(name) != wanted[name]]
    settings = to_json(TrainingConfig()) | found.get("training", {})  # of an earlier version: without later settings
    differences += [
        f"training.{name}"
        for name, value in wanted["training"].items()
        if name not in _MAY_CHANGE and settings.get(name) != value
    ]
    if differences and settings["epochs"] != wanted["training"]["epochs"] and set(differences) <= _OVER_ALL_EPOCHS:
        raise ConfigError(
            f"{path}: the learning rate falls over all epochs of the run, so their number cannot change; continue "
            "with the same, or train the weights further in another run (--init)"
        )
    if differences:
        raise ConfigError(
            f"{path}: started with other {', '.join(differences)}; continue with the same, or start another run"
        )


@dataclass(frozen=True, eq=False)
class Material:
    """Videos of one subset, ready to read."""

    videos: tuple[TrainingVideo, ...]
    """The videos."""
    frames: Mapping[str, int]
    """Length of each video in frames, by name."""
    source: FrameSource
    """Source of their frames."""

    @property
    def paths(self) -> dict[str, Path]:
        """Paths of the videos, by name."""
        return {video.name: video.path for video in self.videos}


def prepare(job: TrainingJob, processes: Processes, speaker: Speaker) -> tuple[Material, Material | None]:
    """Check all annotations, then prepare the frames of all videos.

    Returns:
        Material for training and for validation.

    Raises:
        AnnotationError: One line per problem of the annotations; or a video is in both sets.
        MediaError: A video cannot be decoded.
    """
    training, validation = _read_sets(job, speaker)
    videos = [*training.videos, *(validation.videos if validation else ())]
    if job.use_cache:
        cache = FrameCache(job.cache_folder, job.recipe.sampling)
        frames = _fill_cache(cache, videos, processes, speaker)
        source: FrameSource = cache
    else:
        decoder = DecodedFrames(job.recipe.sampling)
        frames = _count(decoder, videos, processes, speaker)
        source = decoder
    for videos_of_set in (training.videos, validation.videos if validation else ()):
        _require_inside(videos_of_set, frames, job.recipe.sampling)
    learned = Material(training.videos, {video.name: frames[video] for video in training.videos}, source)
    if validation is None:
        return learned, None
    return learned, Material(validation.videos, {video.name: frames[video] for video in validation.videos}, source)


def _read_sets(job: TrainingJob, speaker: Speaker) -> tuple[VideoSet, VideoSet | None]:
    problems: list[str] = []
    sets: list[VideoSet | None] = []
    for name, request in (("training", job.training), ("validation", job.validation)):
        sets.append(_read(name, request, job, speaker, problems) if request else None)
    if problems:
        raise AnnotationError("\n".join(problems))
    training, validation = sets
    assert training is not None
    if validation is not None:
        both = {video.path for video in training.videos} & {video.path for video in validation.videos}
        if both:
            raise AnnotationError(
                f"{len(both)} videos are in training and validation, such as {min(both)}; "
                "name other subsets with --subset and --val-subset"
            )
    return training, validation


def _read(
    name: str, request: DatasetRequest, job: TrainingJob, speaker: Speaker, problems: list[str]
) -> VideoSet | None:
    try:
        videos = read_video_set(request, job.recipe.classes)
    except AnnotationError as error:
        problems += str(error).splitlines()
        return None
    for note in videos.notes:
        speaker.say("note", f"{name}: {note}")
    return videos


def _fill_cache(
    cache: FrameCache, videos: Sequence[TrainingVideo], processes: Processes, speaker: Speaker
) -> dict[TrainingVideo, int]:
    if processes.is_main:
        cache.require_space(videos)
        missing = cache.estimated_bytes(videos)
        if missing:
            size = f"about {missing / 1e9:.2f} GB"
            speaker.say("note", f"caching frames in {cache.folder}, {size} (--no-cache: decode in every epoch instead)")
    with speaker.progress("frames of videos", len(videos)) as advance:
        for video in videos[processes.rank :: processes.count]:
            cache.add(video.path)
            cache.verify(video.path)
            advance(processes.count, video.name)
    processes.barrier()
    return {video: cache.add(video.path) for video in videos}


def _count(
    decoder: DecodedFrames, videos: Sequence[TrainingVideo], processes: Processes, speaker: Speaker
) -> dict[TrainingVideo, int]:
    counted: dict[str, int] = {}
    with speaker.progress("counting frames", len(videos)) as advance:
        for video in videos[processes.rank :: processes.count]:
            counted[str(video.path)] = decoder.count_frames(video.path)
            advance(processes.count, video.name)
    for part in processes.gather(counted):
        counted |= part
    return {video: counted[str(video.path)] for video in videos}


def _require_inside(
    videos: Sequence[TrainingVideo], frames: Mapping[TrainingVideo, int], sampling: SamplingConfig
) -> None:
    """Refuse segments without decoded frames, because the file is shorter than its header says."""
    lines = []
    for video in videos:
        sample_fps = video.rate_fps(sampling)
        segments = video.segments_frames(sample_fps, frames[video])
        for row in (segments[:, 1] <= segments[:, 0]).nonzero()[0].tolist():
            start, end = video.segments_s[row]
            lines.append(
                f"{video.path}: segment [{start:g}, {end:g}] s is after the end of what can be decoded, "
                f"{frames[video] / sample_fps:g} s"
            )
    if lines:
        raise AnnotationError("\n".join(lines))
