"""Videos and their labelled segments, as every format sees them, and how they are gathered from rows of a file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

from tallformer_infer.errors import OutputError
from tallformer_infer.labels.files import Problems, number, shown
from tallformer_infer.labels.names import SUFFIXES, address_elsewhere, address_of, bare_name_of
from tallformer_infer.structures import Result


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment with its class: found by a model, or drawn by a person."""

    start_s: float
    """Start on the file's own time line, in seconds."""
    end_s: float
    """End (exclusive), in seconds; not before the start."""
    label: str
    """Name of the action, not empty."""
    score: float | None = None
    """Confidence in [0, 1]; None where a person said so."""
    key: str = field(default="", compare=False)
    """Where it stands in its file, for messages."""


@dataclass(frozen=True, kw_only=True)
class LabelledVideo:
    """A video and its segments."""

    name: str
    """Path, address or bare name, as the source of the labels has it."""
    segments: tuple[Segment, ...] = ()
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
    is_elsewhere: bool = False
    """`name` is no path of this machine, but what another one calls its file."""
    key: str = field(default="", compare=False)
    """Where it stands in its file, for messages."""

    @property
    def address(self) -> str:
        """The URL of the video, for formats that name it by one."""
        return address_elsewhere(self.name) if self.is_elsewhere else address_of(self.name)

    @property
    def bare_name(self) -> str:
        """The name by which truth and predictions know it: without folder and ending."""
        return self.name if self.has_bare_name else bare_name_of(self.name)


def labelled_video(result: Result) -> LabelledVideo:
    """What a model found in one video, without how it was found."""
    return LabelledVideo(
        name=result.video.path,
        segments=tuple(
            Segment(start_s=action.start_s, end_s=action.end_s, label=action.label, score=action.score)
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


def in_time_order(segments: Iterable[Segment]) -> list[Segment]:
    """Segments sorted by start, then end, then label."""
    return sorted(segments, key=lambda segment: (segment.start_s, segment.end_s, segment.label))


def milliseconds(seconds: float) -> int:
    """The nearest whole millisecond."""
    return round(seconds * 1000)


def by_class(segments: Iterable[Segment]) -> dict[str, list[Segment]]:
    """Segments in order of time, by label; labels in order of their first appearance."""
    found: dict[str, list[Segment]] = {}
    for segment in in_time_order(segments):
        found.setdefault(segment.label, []).append(segment)
    return found


def lanes(segments: Iterable[Segment], *, may_touch: bool = True) -> list[list[Segment]]:
    """Spread segments over as few lanes as it takes for none to overlap another on its lane.

    Args:
        segments: In any order. They are compared at whole milliseconds, and a segment shorter than that takes one.
        may_touch: One may begin on a lane in the millisecond in which the one before ends.

    Returns:
        Lanes in the order of their first segment; each in order of time.
    """
    found: list[list[Segment]] = []
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


class GatheredVideos:
    """Videos in the order of their first appearance, and the segments that were read so far."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._facts: dict[str, dict[str, Any]] = {}
        self._segments: dict[str, list[Segment]] = {}

    def add_video(self, name: str, **facts: Any) -> None:
        """Note a video; `facts` are fields of `LabelledVideo`."""
        self._segments.setdefault(name, [])
        self._facts.setdefault(name, {}).update(facts)

    def refuse(self, key: str, problem: str) -> None:
        """Note what is wrong at `key`."""
        self._problems.add(key, problem)

    def add(self, video: str, key: str, ends_s: Sequence[object], label: object, *, score: object = None) -> None:
        """Note a segment from its start and end; what is wrong with it goes to the problems, at `key`."""
        self.add_video(video)
        times = [number(end_s) for end_s in ends_s]
        if len(times) != 2 or times[0] is None or times[1] is None:
            self._problems.add(key, f"expected start and end in seconds, got {shown(list(ends_s))}")
        elif times[1] < times[0]:
            self._problems.add(key, f"ends at {times[1]:g} s, before it starts at {times[0]:g} s")
        elif not isinstance(label, str) or not label:
            self._problems.add(key, f"expected the name of an action, got {shown(label)}")
        elif (found := number(score)) is None and score is not None:
            self._problems.add(key, f"expected a score in [0, 1], got {shown(score)}")
        elif found is not None and not 0 <= found <= 1:
            self._problems.add(key, f"expected a score in [0, 1], got {found:g}")
        else:
            segment = Segment(start_s=times[0], end_s=times[1], label=label, score=found)
            self._segments[video].append(segment)

    def videos(self) -> tuple[LabelledVideo, ...]:
        """Everything that was noted.

        Raises:
            AnnotationError: There were problems.
        """
        self._problems.raise_if_any()
        return tuple(
            LabelledVideo(name=name, segments=tuple(segments), **self._facts[name])
            for name, segments in self._segments.items()
        )


def named_after(path: Path) -> LabelledVideo:
    """The video that a file of labels is about where it names none: `a.srt` is about `a`, `a.mp4.srt` about `a.mp4`."""
    name = path.name
    for suffix in (".gz", path.suffix if path.suffix.lower() != ".gz" else Path(path.stem).suffix, ".ffmetadata"):
        name = name.removesuffix(suffix) if len(name) > len(suffix) else name
    return LabelledVideo(name=name, has_bare_name=PurePath(name).suffix.lower() not in SUFFIXES)
