"""The data of a run, made ready: videos checked, frames on the disk or counted, lengths known."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import AnnotationError
from tallformer_training.datasets import (
    DatasetRequest,
    DecodedFrames,
    FrameCache,
    FrameSource,
    TrainingVideo,
    VideoSet,
    read_video_set,
)
from tallformer_training.training.display import Display
from tallformer_training.training.job import TrainingJob
from tallformer_training.training.processes import Processes


@dataclass(frozen=True, eq=False)
class Material:
    """Videos of one subset, ready to be read."""

    videos: tuple[TrainingVideo, ...]
    """What there is."""
    frames: Mapping[str, int]
    """Length of each in frames, by name."""
    source: FrameSource
    """Where their frames come from."""

    @property
    def paths(self) -> dict[str, Path]:
        """Where each video is, by name."""
        return {video.name: video.path for video in self.videos}


def prepare(job: TrainingJob, processes: Processes, display: Display) -> tuple[Material, Material | None]:
    """Check all annotations, then make the frames of all videos ready.

    Returns:
        What to learn from, and what to measure on.

    Raises:
        AnnotationError: One line per problem of the annotations; or a video is in both sets.
        MediaError: A video cannot be decoded.
    """
    training, validation = _read_sets(job, display)
    videos = [*training.videos, *(validation.videos if validation else ())]
    if job.use_cache:
        cache = FrameCache(job.cache_folder, job.recipe.sampling)
        frames = _fill_cache(cache, videos, processes, display)
        source: FrameSource = cache
    else:
        decoder = DecodedFrames(job.recipe.sampling)
        frames = _count(decoder, videos, processes, display)
        source = decoder
    for videos_of_set in (training.videos, validation.videos if validation else ()):
        _require_inside(videos_of_set, frames, job.recipe.sampling)
    learned = Material(training.videos, {video.name: frames[video] for video in training.videos}, source)
    if validation is None:
        return learned, None
    return learned, Material(validation.videos, {video.name: frames[video] for video in validation.videos}, source)


def _read_sets(job: TrainingJob, display: Display) -> tuple[VideoSet, VideoSet | None]:
    problems: list[str] = []
    sets: list[VideoSet | None] = []
    for name, request in (("training", job.training), ("validation", job.validation)):
        sets.append(_read(name, request, job, display, problems) if request else None)
    if problems:
        raise AnnotationError("\n".join(problems))
    training, validation = sets
    assert training is not None
    if validation is not None:
        both = {video.path for video in training.videos} & {video.path for video in validation.videos}
        if both:
            raise AnnotationError(
                f"{len(both)} videos are in training and validation, {min(both)} first; "
                "name other subsets with --subset and --val-subset"
            )
    return training, validation


def _read(
    name: str, request: DatasetRequest, job: TrainingJob, display: Display, problems: list[str]
) -> VideoSet | None:
    try:
        videos = read_video_set(request, job.recipe.classes)
    except AnnotationError as error:
        problems += str(error).splitlines()
        return None
    for note in videos.notes:
        display.say(f"{name}: {note}")
    return videos


def _fill_cache(
    cache: FrameCache, videos: Sequence[TrainingVideo], processes: Processes, display: Display
) -> dict[TrainingVideo, int]:
    if processes.is_main:
        cache.require_space(videos)
        missing = cache.estimated_bytes(videos)
        if missing:
            display.say(f"frames go to {cache.folder}, about {missing / 1e9:.2f} GB (--no-cache: decode each time)")
    with display.progress("frames of videos", len(videos)) as advance:
        for video in videos[processes.rank :: processes.count]:
            cache.add(video.path)
            cache.verify(video.path)
            advance(processes.count, video.name)
    processes.barrier()
    return {video: cache.add(video.path) for video in videos}


def _count(
    decoder: DecodedFrames, videos: Sequence[TrainingVideo], processes: Processes, display: Display
) -> dict[TrainingVideo, int]:
    counted: dict[str, int] = {}
    with display.progress("counting frames", len(videos)) as advance:
        for video in videos[processes.rank :: processes.count]:
            counted[str(video.path)] = decoder.count_frames(video.path)
            advance(processes.count, video.name)
    for part in processes.gather(counted):
        counted |= part
    return {video: counted[str(video.path)] for video in videos}


def _require_inside(
    videos: Sequence[TrainingVideo], frames: Mapping[TrainingVideo, int], sampling: SamplingConfig
) -> None:
    """Refuse segments of which nothing was decoded, because the file holds less than its header says."""
    lines = []
    for video in videos:
        sample_fps = video.rate_fps(sampling)
        segments = video.segments_frames(sample_fps, frames[video])
        for row in (segments[:, 1] <= segments[:, 0]).nonzero()[0].tolist():
            start, end = video.segments_s[row]
            lines.append(
                f"{video.path}: segment [{start:g}, {end:g}] s lies behind what can be decoded, "
                f"{frames[video] / sample_fps:g} s"
            )
    if lines:
        raise AnnotationError("\n".join(lines))
