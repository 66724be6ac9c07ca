"""Labelled segments and videos, common to all formats; and matching video names to files."""

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
"""Windows path: a drive, a share, or backslashes without a slash."""

SUFFIXES = frozenset(
    {".mp4", ".mkv", ".webm", ".avi", ".mov", ".m4v", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp", ".ogv"}
)
"""Suffixes of the files in a folder that count as videos."""


@dataclass(frozen=True, kw_only=True)
class Segment:
    """A segment with its class, predicted by a model or annotated by a person."""

    start_s: float
    """Start on the file's own timeline, in seconds."""
    end_s: float
    """End (exclusive), in seconds; not before the start."""
    label: str
    """Class name, not empty."""
    score: float | None = None
    """Confidence in [0, 1]; None for a manual annotation."""
    key: str = field(default="", compare=False)
    """Position in its file, for messages."""


@dataclass(frozen=True, kw_only=True)
class LabelledVideo:
    """A video and its segments."""

    name: str
    """Path, address or bare name, as in the source of the labels."""
    segments: tuple[Segment, ...] = ()
    """Segments in any order."""
    duration_s: float | None = None
    """End time in seconds, if known; the duration of a file that starts at 0, as nearly all do."""
    start_s: float = 0.0
    """Time of the first frame, in seconds."""
    fps: float | None = None
    """Frames per second of the file, if known."""
    subset: str | None = None
    """`training`, `validation` ..., if the source gives it."""
    has_bare_name: bool = False
    """Whether `name` has no file suffix, so that anything that looks like one is part of the name."""
    is_elsewhere: bool = False
    """Whether `name` is a path on another machine."""
    key: str = field(default="", compare=False)
    """Position in its file, for messages."""

    @property
    def address(self) -> str:
        """URL of the video, for formats that use one."""
        return address_elsewhere(self.name) if self.is_elsewhere else address_of(self.name)

    @property
    def bare_name(self) -> str:
        """Name used in truth and predictions: without folder and suffix."""
        return self.name if self.has_bare_name else bare_name_of(self.name)


def labelled_video(result: Result) -> LabelledVideo:
    """Convert a result to a labelled video; model and settings are dropped."""
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
    """Copy of a video with all times shifted by `by_s` seconds."""
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
    """Convert seconds to milliseconds, rounded."""
    return round(seconds * 1000)


def by_class(segments: Iterable[Segment]) -> dict[str, list[Segment]]:
    """Group segments by label, sorted by time; labels are in order of first appearance."""
    found: dict[str, list[Segment]] = {}
    for segment in in_time_order(segments):
        found.setdefault(segment.label, []).append(segment)
    return found


def lanes(segments: Iterable[Segment], *, may_touch: bool = True) -> list[list[Segment]]:
    """Distribute segments over the minimum number of lanes such that no two on a lane overlap.

    Args:
        segments: Segments in any order. They are compared in whole milliseconds, and shorter ones count as 1 ms.
        may_touch: Whether a segment may start in the same millisecond in which the previous one on its lane ends.

    Returns:
        Lanes ordered by their first segment, each sorted by time.
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
    """Return the only video, for a format that holds one per file.

    Raises:
        OutputError: There is not exactly one.
    """
    if len(videos) != 1:
        raise OutputError(f"{format_name} holds one video per file, got {len(videos)}; write one file per video")
    return videos[0]


class GatheredVideos:
    """Collects videos and their segments while a file is read, in order of first appearance."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._facts: dict[str, dict[str, Any]] = {}
        self._segments: dict[str, list[Segment]] = {}

    def add_video(self, name: str, **facts: Any) -> None:
        """Add a video; `facts` are fields of `LabelledVideo`."""
        self._segments.setdefault(name, [])
        self._facts.setdefault(name, {}).update(facts)

    def refuse(self, key: str, problem: str) -> None:
        """Add a problem at `key`."""
        self._problems.add(key, problem)

    def add(self, video: str, key: str, ends_s: Sequence[object], label: object, *, score: object = None) -> None:
        """Add a segment with [start, end] in seconds, or report what is wrong with it as a problem at `key`."""
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
        """All videos with their segments.

        Raises:
            AnnotationError: There were problems; one line each.
        """
        self._problems.raise_if_any()
        return tuple(
            LabelledVideo(name=name, segments=tuple(segments), **self._facts[name])
            for name, segments in self._segments.items()
        )


def named_after(path: Path) -> LabelledVideo:
    """Video of a label file that names none: `a` for `a.srt`, `a.mp4` for `a.mp4.srt`."""
    name = path.name
    for suffix in (".gz", path.suffix if path.suffix.lower() != ".gz" else Path(path.stem).suffix, ".ffmetadata"):
        name = name.removesuffix(suffix) if len(name) > len(suffix) else name
    return LabelledVideo(name=name, has_bare_name=PurePath(name).suffix.lower() not in SUFFIXES)


def bare_name_of(name: str) -> str:
    """Name of a video without folder and suffix, from a path (POSIX or Windows) or an address."""
    if "://" in name:
        path = re.split(r"[?#]", name.partition("://")[2])[0]
        return PurePosixPath(unquote(path, errors="surrogateescape")).stem
    return (PureWindowsPath if _WINDOWS.match(name) else PurePath)(name).stem


def composed(text: str) -> str:
    """Normalize text to Unicode NFC: macOS writes decomposed file names, most tools composed ones."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def match_video(video: str, known: Container[str]) -> str | None:
    """Find `video` in `known`: the same name, or the one with or without a leading `v_`; None if there is none.

    ActivityNet's video files have that `v_`, its annotations do not.

    Args:
        video: Any name.
        known: Names normalized by `composed`.
    """
    video = composed(video)
    other = video.removeprefix("v_") if video.startswith("v_") else f"v_{video}"
    return video if video in known else other if other in known else None


def composed_names(names: Iterable[str], source: str) -> tuple[str, ...]:
    """Video names normalized by `composed`.

    Raises:
        AnnotationError: Two names are the same after normalization.
    """
    found = Counter(composed(name) for name in names)
    if found and max(found.values()) > 1:
        raise AnnotationError(
            f"{source}: has the video {found.most_common(1)[0][0]} twice, with composed and with decomposed Unicode; "
            "keep one"
        )
    return tuple(found)


def read_video_list(path: Path) -> frozenset[str]:
    """Read a text file with one video name per line; empty lines and comments after `#` are ignored.

    Raises:
        AnnotationError: The file cannot be read, or lists no video.
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
    """Find video files in a folder, recursively; return their paths by name without suffix.

    Raises:
        AnnotationError: The folder does not exist, or contains no video.
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
    """Files of a video, by its exact name, without suffix, or with or without a leading `v_`."""
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
    """URL of a video: `file:` with the absolute path for a local file; addresses are only percent-encoded."""
    if _is_address(video):
        return quote(video.encode("utf-8", "surrogatepass"), safe="!#$%&'()*+,/:;=?@[]~")
    path = Path(os.path.abspath(video))  # noqa: PTH100 (links stay)
    return f"file://{'' if path.as_posix().startswith('/') else '/'}{_quoted(path.as_posix())}"


def address_elsewhere(video: str) -> str:
    """URL of a video that is not on this machine: a path relative to the file that refers to it, or an address."""
    return address_of(video) if _is_address(video) else _quoted(video.replace("\\", "/"))


def relative_address_of(video: str, folder: Path) -> str | None:
    """URL of a video relative to `folder`; None for an address, or on another drive."""
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
    except UnicodeEncodeError:  # not a file name, but a video name from foreign labels
        return quote(path.encode("utf-8", "surrogatepass"))


def _is_address(video: str) -> bool:
    return "://" in video
