"""Rows of a file, checked one by one and gathered by video."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from tallformer_infer.evaluation.json_rows import number, shown
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.evaluation.video_files import SUFFIXES
from tallformer_infer.formats.labelled import LabelledSegment, LabelledVideo


class GatheredVideos:
    """Videos in the order of their first appearance, and the segments that were read so far."""

    def __init__(self, problems: Problems) -> None:
        self._problems = problems
        self._facts: dict[str, dict[str, Any]] = {}
        self._segments: dict[str, list[LabelledSegment]] = {}

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
            segment = LabelledSegment(start_s=times[0], end_s=times[1], label=label, score=found)
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
