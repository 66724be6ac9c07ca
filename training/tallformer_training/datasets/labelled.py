"""Videos with their segments, checked: all problems are reported before training starts.

# Note [what is repaired]
Nothing is repaired silently. A segment may end up to `END_TOLERANCE_S` after its video, due to rounding, and is cut
there. With `repair` (the option `--repair`) further known faults of public data sets are skipped, and counted in the
notes: videos without a file, segments that end after the video, have no length or are duplicates. A wrong number, an
unknown class or a video with two files is always refused.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import AnnotationError, MediaError
from tallformer_infer.labels import LabelledVideo, Problems, Segment, composed, files_of, find_videos, read_annotations
from tallformer_infer.media import probe, video_rate
from tallformer_infer.text import counted

END_TOLERANCE_S = 0.5
"""How long after the end of its video a segment may end; see Note [what is repaired]."""


@dataclass(frozen=True, kw_only=True)
class DatasetRequest:
    """Which annotations and videos to read, and how."""

    annotations: Path
    """ActivityNet-form JSON, or a THUMOS14 text folder."""
    videos: Path
    """Folder of the video files."""
    subset: str | None = None
    """Subset to use; None for the default of the file."""
    defaults: tuple[str, ...] = ("training", "validation")
    """Default subsets; the first one in the file is used."""
    ignored_labels: tuple[str, ...] = ("Ambiguous",)
    """Classes whose segments are background."""
    repair: bool = False
    """See Note [what is repaired]."""


@dataclass(frozen=True, eq=False)
class TrainingVideo:
    """A video file with its segments."""

    name: str
    """Name in the annotations."""
    path: Path
    """Path of the file."""
    start_s: float
    """Presentation time of its first frame."""
    duration_s: float
    """Length according to the file's header or the annotations, in seconds; infinite if unknown."""
    segments_s: NDArray[np.float64]
    """Segments in the file's presentation time, in seconds, shape (N, 2)."""
    labels: NDArray[np.int64]
    """Class indices, shape (N,)."""
    source_fps: float | None = None
    """Frame rate of the file, in frames per second, if known."""

    def rate_fps(self, sampling: SamplingConfig) -> float:
        """Sampling rate of this video, in frames per second."""
        covered_s = None if math.isinf(self.duration_s) else self.duration_s
        return video_rate(sampling, str(self.path), source_fps=self.source_fps, covered_s=covered_s)

    def segments_frames(self, sample_fps: float, frames: int) -> NDArray[np.float64]:
        """Segments in frames, clipped to the video, shape (N, 2)."""
        return np.clip((self.segments_s - self.start_s) * sample_fps, 0, frames)


@dataclass(frozen=True)
class VideoSet:
    """Checked videos of one subset."""

    videos: tuple[TrainingVideo, ...]
    """In the order of the annotations."""
    subset: str | None
    """Name of the subset."""
    notes: tuple[str, ...]
    """Remarks for the user, one sentence each."""


def read_video_set(request: DatasetRequest, classes: tuple[str, ...]) -> VideoSet:
    """Read annotations, find their videos, and check them against each other.

    Raises:
        AnnotationError: One line per problem, for all problems.
    """
    problems = Problems(str(request.annotations), most=None)
    found = find_videos(request.videos)
    annotations = read_annotations(
        request.annotations,
        subset=request.subset,
        defaults=request.defaults,
        problems=problems,
        check_durations=True,
    )
    annotated = annotations.videos
    if annotations.is_folder:  # ordered by class
        annotated = tuple(sorted(annotated, key=lambda video: video.name))
    checker = _Checker(request, classes, problems)
    videos = [checked for video in annotated if (checked := checker.check(video, files_of(video.name, found)))]
    problems.raise_if_any()
    if not any(len(video.segments_s) for video in videos):
        raise AnnotationError(
            f"{annotations.source}: no segment of the recipe's classes in subset {annotations.subset}"
        )
    return VideoSet(tuple(videos), annotations.subset, checker.notes(videos))


class _Checker:
    """Checks videos one by one, and counts skipped faults."""

    def __init__(self, request: DatasetRequest, classes: tuple[str, ...], problems: Problems) -> None:
        self._request = request
        self._classes = {composed(name): index for index, name in enumerate(classes)}
        self._problems = problems
        self._unknown: set[str] = set()
        self._counts: Counter[str] = Counter()

    def check(self, video: LabelledVideo, files: list[Path]) -> TrainingVideo | None:
        start_s, end_s, source_fps = 0.0, math.inf, None
        if len(files) > 1:
            self._problems.add(video.key, f"has {len(files)} files: {', '.join(map(str, files))}")
        elif not files and self._request.repair:
            self._counts["videos without a file"] += 1
            return None
        elif not files:
            self._problems.add(video.key, f"no file of that name in {self._request.videos}")
        else:
            start_s, end_s, source_fps = self._probe(video, files[0])
        segments = self._segments(video, start_s, end_s)
        if len(files) != 1:
            return None
        return TrainingVideo(
            name=video.name,
            path=files[0],
            start_s=start_s,
            duration_s=end_s - start_s,
            segments_s=np.array([segment[:2] for segment in segments], np.float64).reshape(-1, 2),
            labels=np.array([segment[2] for segment in segments], np.int64),
            source_fps=source_fps,
        )

    def notes(self, videos: list[TrainingVideo]) -> tuple[str, ...]:
        segments = sum(len(video.labels) for video in videos)
        empty = sum(not len(video.labels) for video in videos)
        present = {int(label) for video in videos for label in video.labels}
        absent = [name for name, index in self._classes.items() if index not in present]
        named = f"{counted(len(videos), 'video')}, {counted(segments, 'segment')}"
        notes = [f"{named} of {len(present)} classes"]
        if empty:
            notes.append(f"videos without a segment: {empty}; they are background")
        if absent:
            notes.append(f"classes without a segment: {', '.join(absent)}")
        notes += [f"{what}: {count}" for what, count in self._counts.items()]
        return tuple(notes)

    def _probe(self, video: LabelledVideo, path: Path) -> tuple[float, float, float | None]:
        try:
            info = probe(path)
        except MediaError as error:
            self._problems.add(video.key, str(error))
            return 0.0, math.inf, None
        duration_s = info.duration_s if info.duration_s is not None else video.duration_s
        end_s = math.inf if duration_s is None else info.start_s + duration_s
        return info.start_s, end_s, info.source_fps

    def _segments(self, video: LabelledVideo, start_s: float, end_s: float) -> list[tuple[float, float, int]]:
        kept: list[tuple[float, float, int]] = []
        seen: dict[tuple[float, float, str], str] = {}
        for segment in video.segments:
            if segment.label in self._request.ignored_labels:
                self._counts[f"segments of class {segment.label}, left as background"] += 1
            elif segment.label not in self._classes:
                self._refuse_label(segment)
            elif self._accept(segment, _fault_of(segment, start_s, end_s, seen)):
                times = max(segment.start_s, start_s), min(segment.end_s, end_s)
                kept.append((*times, self._classes[segment.label]))
        return kept

    def _accept(self, segment: Segment, fault: _Fault | None) -> bool:
        if fault is None:
            return True
        if not self._request.repair or fault.counted_as is None:
            hint = "; --repair skips it" if fault.counted_as else ""
            self._problems.add(segment.key, fault.problem + hint)
            return False
        self._counts[fault.counted_as] += 1
        return fault.is_usable

    def _refuse_label(self, segment: Segment) -> None:
        if segment.label not in self._unknown:
            self._unknown.add(segment.label)
            known = ", ".join(self._classes)
            known = known if len(known) < 200 else f"{known[:200]}..."
            problem = f"class {segment.label!r} is not among the recipe's classes ({known})"
            self._problems.add(segment.key, f"{problem}; --suggest proposes a recipe with your classes")


@dataclass(frozen=True, kw_only=True)
class _Fault:
    """What is wrong with a segment."""

    problem: str
    """Text of the message."""
    counted_as: str | None = None
    """Name under which `repair` counts it; None if it cannot be repaired."""
    is_usable: bool = False
    """Whether repair keeps the segment, clipped to the video."""


def _fault_of(
    segment: Segment, start_s: float, end_s: float, seen: dict[tuple[float, float, str], str]
) -> _Fault | None:
    identity = (segment.start_s, segment.end_s, segment.label)
    first = seen.setdefault(identity, segment.key)
    if segment.end_s < segment.start_s:
        return _Fault(problem=f"ends at {segment.end_s:g} s, before it starts at {segment.start_s:g} s")
    if segment.end_s == segment.start_s:
        return _Fault(
            problem=f"starts and ends at {segment.start_s:g} s; expected a length above 0",
            counted_as="segments without length, skipped",
        )
    if first != segment.key:
        return _Fault(problem=f"duplicate of the segment at {first}", counted_as="duplicate segments, skipped")
    if segment.start_s >= end_s or segment.end_s <= start_s:
        return _Fault(
            problem=f"{_span(segment)} lies outside the video, which goes from {start_s:g} to {end_s:g} s",
            counted_as="segments outside their video, skipped",
        )
    if segment.end_s > end_s + END_TOLERANCE_S or segment.start_s < start_s - END_TOLERANCE_S:
        return _Fault(
            problem=f"{_span(segment)} goes beyond the video, which goes from {start_s:g} to {end_s:g} s",
            counted_as="segments that extend beyond their video, clipped",
            is_usable=True,
        )
    return None


def _span(segment: Segment) -> str:
    return f"[{segment.start_s:g}, {segment.end_s:g}] s"


@dataclass(frozen=True)
class WindowTruth:
    """Ground truth of one window."""

    segments_frames: NDArray[np.float32]
    """Half-open segments (start, end) in frames of the window, shape (N, 2)."""
    labels: NDArray[np.int64]
    """Class indices, shape (N,)."""


def crop_truth(
    segments_frames: NDArray[np.float64],
    labels: NDArray[np.int64],
    *,
    start_frame: int,
    frames: int,
    least_part: float = 0.75,
) -> WindowTruth:
    """Select the segments inside a window, clipped to it.

    A segment is kept if more than `least_part` of it lies in the window, or if it covers more than `least_part` of the
    window; otherwise it is background.

    Args:
        segments_frames: Segments in frames of the video, shape (N, 2).
        labels: Class indices, shape (N,).
        start_frame: First frame of the window.
        frames: Frames of the window that belong to the video.
        least_part: In [0, 1); 0 keeps every segment that overlaps the window.

    Source: temporal crop of the official TALLFormer code, commit 5519140, Apache-2.0 (behaviour only).
    """
    inside = np.clip(segments_frames - start_frame, 0, frames)  # (N, 2)
    overlap = inside[:, 1] - inside[:, 0]
    length = segments_frames[:, 1] - segments_frames[:, 0]
    part = np.maximum(overlap / np.maximum(length, 1e-9), overlap / max(frames, 1))
    kept = (part > least_part) & (overlap > 0)
    return WindowTruth(inside[kept].astype(np.float32), labels[kept])
