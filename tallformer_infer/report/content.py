"""What a page shows: videos with their actions, and the truth beside them where it is known."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tallformer_infer.labels import bare_name_of


@dataclass(frozen=True, kw_only=True)
class PageAction:
    """An action on a page."""

    start_s: float
    """Start on the file's own time line, in seconds, which is also what a browser's player counts in."""
    end_s: float
    """End (exclusive), in seconds."""
    label: str
    """Name of the action."""
    score: float | None = None
    """Confidence in [0, 1]; None where there is none."""
    truth: int | None = None
    """Row of the video's `truth` that it is; None where it is none."""
    tiou: float = 0.0
    """Overlap with that row, in [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class PageTruth:
    """A segment that is known to be there."""

    start_s: float
    """Start, in seconds."""
    end_s: float
    """End (exclusive), in seconds."""
    label: str
    """Name of the action."""


@dataclass(frozen=True, kw_only=True)
class PageVideo:
    """A video on a page."""

    name: str
    """As people know it."""
    source: str
    """URL for the player; relative ones are relative to the page."""
    actions: tuple[PageAction, ...]
    """In order of time."""
    truth: tuple[PageTruth, ...] | None = None
    """What is known to happen; None where nothing is known."""
    start_s: float = 0.0
    """Time of the first frame, in seconds."""
    end_s: float | None = None
    """Time of the end, in seconds; None where it is not known."""
    stream: int = 0
    """Which of the file's video streams was analysed, from 0."""
    streams: int = 1
    """Video streams of the file."""
    truth_name: str | None = None
    """Its name in files of truth; None: `name` without folder and ending."""
    fps: float | None = None
    """Frames per second of the file, which a border is moved by; None where it is not known."""
    content: bytes | None = None
    """The file itself, to be put into the page; None leaves it where it is."""


def page_data(videos: Sequence[PageVideo], *, classes: Sequence[str] = (), review: str | None = None) -> dict[str, Any]:
    """What the page's script reads: rows of numbers, labels by their number; those of the actions come first."""
    labels: dict[str, int] = {}
    found = sorted({item.label for video in videos for item in _items(video)})
    for label in found:
        labels[label] = len(labels)
    embedded = iter(range(len(videos)))
    return {
        "labels": [*found, *(label for label in classes if label not in labels)],
        "key": result_key(videos),
        "review": review,
        "videos": [
            {
                "name": video.name,
                "id": video.truth_name or bare_name_of(video.name),
                "source": video.source,
                "embedded": None if video.content is None else next(embedded),
                "start_s": video.start_s,
                "end_s": _end_s(video),
                "duration_s": None if video.end_s is None else _rounded(video.end_s),
                "fps": None if video.fps is None else _rounded(video.fps),
                "stream": video.stream,
                "streams": video.streams,
                "actions": [_row(action, labels) for action in video.actions],
                "truth": None
                if video.truth is None
                else [[_rounded(known.start_s), _rounded(known.end_s), labels[known.label]] for known in video.truth],
            }
            for video in videos
        ],
    }


def result_key(videos: Sequence[PageVideo]) -> str:
    """A hash of the result, under which a review of it is kept."""
    content = [
        (video.name, [(action.start_s, action.end_s, action.label, action.score) for action in video.actions])
        for video in videos
    ]
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()[:32]


def _items(video: PageVideo) -> list[PageAction | PageTruth]:
    return [*video.actions, *(video.truth or ())]


def _row(action: PageAction, labels: dict[str, int]) -> list[Any]:
    return [
        _rounded(action.start_s),
        _rounded(action.end_s),
        labels[action.label],
        None if action.score is None else _rounded(action.score),
        -1 if action.truth is None else action.truth,
        round(action.tiou, 3),
    ]


def _end_s(video: PageVideo) -> float:
    ends_s = [item.end_s for item in _items(video)]
    return _rounded(max([video.start_s + 1.0 if video.end_s is None else video.end_s, *ends_s]))


def _rounded(value: float) -> float:
    return round(float(value), 6) + 0.0
