"""Labelled segments and videos, common to all formats; and video names: which mean the same video, and where it is."""

from __future__ import annotations

import dataclasses
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import quote, unquote

from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.labels.files import Problems, number, shown
from tallformer_infer.structures import Result

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\|[^/]*\\[^/]*\Z")
"""A drive, a share, or backslashes without a slash."""

SUFFIXES = frozenset(
    {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"}
)
"""Files of a folder that are taken for videos."""


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


def bare_name_of(name: str) -> str:
    """The name of a video without folder and ending: of a path, also one of Windows, or of an address."""
    if "://" in name:
        path = re.split(r"[?#]", name.partition("://")[2])[0]
        return PurePosixPath(unquote(path, errors="surrogateescape")).stem
    return (PureWindowsPath if _WINDOWS.match(name) else PurePath)(name).stem


def composed(text: str) -> str:
    """The same text in Unicode's composed form (NFC): macOS writes file names decomposed, most tools do not."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def match_video(video: str, known: Container[str]) -> str | None:
    """The name in `known` that means `video`: the same, or else the one with or without a leading `v_`.

    ActivityNet's video files and annotations disagree about that `v_`.

    Args:
        video: Any name.
        known: Names as `composed` gives them.
    """
    video = composed(video)
    other = video.removeprefix("v_") if video.startswith("v_") else f"v_{video}"
    return video if video in known else other if other in known else None


def composed_names(names: Iterable[str], source: str) -> tuple[str, ...]:
    """Names of videos as `composed` gives them.

    Raises:
        AnnotationError: Two of them are the same then.
    """
    found = Counter(composed(name) for name in names)
    if found and max(found.values()) > 1:
        raise AnnotationError(
            f"{source}: has the video {found.most_common(1)[0][0]} twice, with composed and with decomposed letters; "
            "keep one"
        )
    return tuple(found)


def read_video_list(path: Path) -> frozenset[str]:
    """Read a text file with one video name per line; empty lines, and what follows a `#`, are passed over.

    Raises:
        AnnotationError: The file cannot be read, or names no video.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise AnnotationError(f"{path}: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise AnnotationError(f"{path}: expected a text file with one video name per line") from error
    names = frozenset(composed(name) for line in text.splitlines() if (name := line.partition("#")[0].strip()))
    if not names:
        raise AnnotationError(f"{path}: expected one video name per line, found none")
    return names


def find_videos(folder: Path) -> dict[str, list[Path]]:
    """Every video file in a folder and below it, by name without suffix.

    Raises:
        AnnotationError: There is no such folder, or no video in it.
    """
    if not folder.is_dir():
        raise AnnotationError(f"{folder}: no such folder; expected the folder of the videos")
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith("."):
            found.setdefault(composed(path.stem), []).append(path)
    if not found:
        raise AnnotationError(f"{folder}: has no video file ({', '.join(sorted(SUFFIXES))})")
    return found


def files_of(name: str, found: dict[str, list[Path]]) -> list[Path]:
    """The files of a video, by its name as it is, without suffix, or with or without a leading `v_`."""
    for candidate in _spellings(name):
        match = match_video(candidate, found)
        if match is not None:
            return found[match]
    return []


def _spellings(name: str) -> Iterable[str]:
    yield name
    path = Path(name)
    if path.suffix.lower() in SUFFIXES:
        yield path.stem


def address_of(video: str) -> str:
    """The URL of a video: of a file on this machine, `file:` and its whole path; an address as it is, quoted."""
    if _is_address(video):
        return quote(video.encode("utf-8", "surrogatepass"), safe="!#$%&'()*+,/:;=?@[]~")
    path = Path(os.path.abspath(video))  # noqa: PTH100 (links stay)
    return f"file://{'' if path.as_posix().startswith('/') else '/'}{_quoted(path.as_posix())}"


def address_elsewhere(video: str) -> str:
    """The URL of a video that does not lie on this machine: relative to wherever the file that names it will lie."""
    return address_of(video) if _is_address(video) else _quoted(video.replace("\\", "/"))


def relative_address_of(video: str, folder: Path) -> str | None:
    """The URL of a video relative to `folder`; None where there is none."""
    if _is_address(video):
        return None
    try:
        path = os.path.relpath(video, folder)
    except ValueError:  # on another drive
        return None
    return _quoted(path.replace(os.sep, "/"))


def _quoted(path: str) -> str:
    try:
        return quote(path.encode("utf-8", "surrogateescape"))
    except UnicodeEncodeError:  # no name of a file, but of a video in somebody's labels
        return quote(path.encode("utf-8", "surrogatepass"))


def _is_address(video: str) -> bool:
    return "://" in video
