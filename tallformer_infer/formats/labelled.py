"""Videos and their labelled segments, as every format of other people's tools sees them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from tallformer_infer.errors import OutputError
from tallformer_infer.evaluation.video_names import bare_name_of
from tallformer_infer.structures import Result


@dataclass(frozen=True, kw_only=True)
class LabelledSegment:
    """A segment with its class: found by a model, or drawn by a person."""

    start_s: float
    """Start on the file's own time line, in seconds."""
    end_s: float
    """End (exclusive), in seconds; not before the start."""
    label: str
    """Name of the action, not empty."""
    score: float | None = None
    """Confidence in [0, 1]; None where a person said so."""


@dataclass(frozen=True, kw_only=True)
class LabelledVideo:
    """A video and its segments."""

    name: str
    """Path, address or bare name, as the source of the labels has it."""
    segments: tuple[LabelledSegment, ...] = ()
    """In any order."""
    duration_s: float | None = None
    """Time of the end in seconds, where known; of a file that begins at 0, as nearly all do, its length."""
    start_s: float = 0.0
    """Time of the first frame, in seconds."""
    fps: float | None = None
    """Frames per second of the file, where known."""
    subset: str | None = None
    """`training`, `validation` ..., where the source says."""
    has_bare_name: bool = False
    """`name` has no ending of a file, so that what looks like one is part of it."""

    @property
    def bare_name(self) -> str:
        """The name by which truth and predictions know it: without folder and ending."""
        return self.name if self.has_bare_name else bare_name_of(self.name)


def labelled_video(result: Result) -> LabelledVideo:
    """What a model found in one video, without how it was found."""
    return LabelledVideo(
        name=result.video.path,
        segments=tuple(
            LabelledSegment(start_s=action.start_s, end_s=action.end_s, label=action.label, score=action.score)
            for action in result.actions
        ),
        duration_s=result.video.start_s + result.duration_s,
        start_s=result.video.start_s,
        fps=result.video.source_fps or result.sample_fps,
    )


def shifted(video: LabelledVideo, by_s: float) -> LabelledVideo:
    """The same video with all its times later by `by_s` seconds."""
    if not by_s:
        return video
    return dataclasses.replace(
        video,
        segments=tuple(
            dataclasses.replace(segment, start_s=round(segment.start_s + by_s, 6), end_s=round(segment.end_s + by_s, 6))
            for segment in video.segments
        ),
        duration_s=None if video.duration_s is None else round(video.duration_s + by_s, 6),
        start_s=round(video.start_s + by_s, 6),
    )


def in_time_order(segments: Iterable[LabelledSegment]) -> list[LabelledSegment]:
    """Segments sorted by start, then end, then label."""
    return sorted(segments, key=lambda segment: (segment.start_s, segment.end_s, segment.label))


def milliseconds(seconds: float) -> int:
    """The nearest whole millisecond."""
    return round(seconds * 1000)


def by_class(segments: Iterable[LabelledSegment]) -> dict[str, list[LabelledSegment]]:
    """Segments in order of time, by label; labels in order of their first appearance."""
    found: dict[str, list[LabelledSegment]] = {}
    for segment in in_time_order(segments):
        found.setdefault(segment.label, []).append(segment)
    return found


def lanes(segments: Iterable[LabelledSegment], *, may_touch: bool = True) -> list[list[LabelledSegment]]:
    """Spread segments over as few lanes as it takes for none to overlap another on its lane.

    Args:
        segments: In any order. They are compared at whole milliseconds, and a segment shorter than that takes one.
        may_touch: One may begin on a lane in the millisecond in which the one before ends.

    Returns:
        Lanes in the order of their first segment; each in order of time.
    """
    found: list[list[LabelledSegment]] = []
    ends_ms: list[int] = []
    for segment in in_time_order(segments):
        start_ms, end_ms = milliseconds(segment.start_s), milliseconds(segment.end_s)
        first_free_ms = start_ms if may_touch else start_ms - 1
        lane = next((number for number, end in enumerate(ends_ms) if end <= first_free_ms), len(found))
        if lane == len(found):
            found.append([])
            ends_ms.append(0)
        found[lane].append(segment)
        ends_ms[lane] = max(end_ms, start_ms + 1)
    return found


def only_video(videos: Sequence[LabelledVideo], format_name: str) -> LabelledVideo:
    """The one video of a format that holds no more.

    Raises:
        OutputError: There are several, or none.
    """
    if len(videos) != 1:
        raise OutputError(f"{format_name} holds one video per file, got {len(videos)}; write one file for each")
    return videos[0]
