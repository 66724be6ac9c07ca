"""BORIS: projects (.boris), with an observation per video and a state event per class, and exported event tables.

In BORIS, a state event of a subject starts at one entry of its code and ends at the next. Overlapping actions of one
class are therefore assigned to different subjects.

Source: BORIS user guide and project files of version 7, by their published form; tables as BORIS 8.27.4 writes them.
"""

from __future__ import annotations

import bisect
import itertools
import re
import string
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tallformer_infer.labels.files import Problems, number, shown
from tallformer_infer.labels.segments import GatheredVideos, LabelledVideo, by_class, lanes

_VERSION = "7.0"
_KEYS = string.ascii_lowercase + string.digits
_PLAYER = "1"
_SCORE = re.compile(r"score ([\d.]+)")
_SOURCE = re.compile(r"player #\d+:(.*?)(?:\|player #\d+:.*)?")
_EPOCH = "1970-01-01T00:00:00"
_FACTS = {"duration_s": "length", "fps": "fps"}


@dataclass(frozen=True)
class _Event:
    time_s: float
    subject: str
    code: str
    comment: str


def boris_document(videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    """Build a project with one observation per video; scores are comments."""
    labels = list(by_class(segment for video in videos for segment in video.segments))
    most = max((len(_lanes(segments)) for video in videos for segments in by_class(video.segments).values()), default=0)
    return {
        "time_format": "hh:mm:ss",
        "project_date": _EPOCH,
        "project_name": "tallformer",
        "project_description": "",
        "project_format_version": _VERSION,
        "subjects_conf": {
            str(place): {"key": "", "name": _subject(place + 1), "description": "actions that overlap others"}
            for place in range(most - 1)
        },
        "behaviors_conf": {
            str(place): _behaviour(label, _KEYS[place % len(_KEYS)]) for place, label in enumerate(labels)
        },
        "observations": dict(zip(_names(videos), map(_observation, videos), strict=True)),
        "behavioral_categories": [],
        "independent_variables": {},
        "coding_map": {},
        "behaviors_coding_map": [],
        "converters": {},
    }


def videos_of_observations(project: dict[str, Any], problems: Problems) -> tuple[LabelledVideo, ...]:
    """Read the videos and state events of a project; point events and observations without a video are skipped.

    The time of a BORIS observation runs through all files of its first player in sequence, plus the observation's time
    offset and, if the observation is set up that way, the creation time of the file.

    Raises:
        AnnotationError: An event starts and does not end, or the duration of a queued file is unknown; one line each.
    """
    found = GatheredVideos(problems)
    behaviours = project.get("behaviors_conf")
    points = {
        str(_at(each, "code"))
        for each in (behaviours.values() if isinstance(behaviours, dict) else ())
        if str(_at(each, "type")).startswith("Point")
    }
    seen: dict[str, str] = {}
    for name, observation in project["observations"].items():
        key = f"observations.{name}"
        files = _files_of(observation)
        if files is None:
            problems.note(f"{key}: has no video (type {shown(_at(observation, 'type'))}); skipped")
            continue
        queue = _Queue(key, observation, files, problems)
        for file in files:
            if file in seen:
                problems.note(f"{key}: {file} is also in {seen[file]}; the actions of both were merged")
            seen[file] = key
            facts = {field: number(_at(observation, "media_info", fact, file)) for field, fact in _FACTS.items()}
            found.add_video(file, **facts)
        for start_s, end_s, event in _pairs(_events(observation, name, points, problems), key, problems):
            score = _SCORE.fullmatch(event.comment)
            for file, ends_s in queue.parts(start_s, end_s):
                found.add(file, key, ends_s, event.code, score=score[1] if score else None)
    return found.videos()


def is_event_table(columns: Collection[str]) -> bool:
    """Whether these are the columns of BORIS's tabular events (rows for START and STOP) or aggregated events."""
    return {"observation_id", "label", "behavior_type"} <= set(columns) and (
        "time" in columns or {"start_s", "end_s"} <= set(columns)
    )


def project_of_events(rows: Iterable[tuple[str, Mapping[str, str]]], problems: Problems) -> dict[str, Any]:
    """Rebuild the parts of a project that its actions need, from an exported event table.

    The times in both tables are those of the project: they run through all files of a player, and include the time
    offset. `Media file name` is the file in which an event starts; `Source` lists all files.

    Args:
        rows: Name of each row for messages, and its cells by column name, as in `is_event_table`.
        problems: Receives malformed rows.
    """
    observations: dict[str, dict[str, Any]] = {}
    for place, row in rows:
        name = row.get("observation_id", "")
        observation = observations.get(name) or observations.setdefault(name, _observation_of(row))
        kind, label = row.get("behavior_type", "").strip().upper(), row.get("label", "")
        is_aggregated = kind == "STATE"
        cells = [row.get(column, "") for column in (("start_s", "end_s") if is_aggregated else ("time",))]
        times_s = [number(cell) for cell in cells]
        if kind not in ("STATE", "START", "STOP", "POINT"):
            problems.add(place, f"expected START, STOP, STATE or POINT as behavior type, got {shown(kind)}")
        elif not label:
            problems.add(place, "has no behavior")
        elif kind != "POINT" and None in times_s:
            problems.add(place, f"expected times in seconds, got {shown(cells)}")
        elif kind != "POINT":  # states with different modifiers are different states
            subject = " ".join(row[column] for column in row if column == "subject" or column.startswith("modifier"))
            comment = row.get("comment") or row.get("comment_start") or ""
            observation["events"] += [[time_s, subject, label, "", comment] for time_s in times_s]
    return {"observations": observations}


def _observation_of(row: Mapping[str, str]) -> dict[str, Any]:
    source = _SOURCE.fullmatch(row.get("source", ""))
    files = source[1].split(";") if source else [row.get("video", "")]
    lengths = row.get("media_duration_s", "").partition("|")[0].split(";")
    rates = (row.get("fps") or row.get("fps_frame/s") or "").partition("|")[0].split(";")
    if source and len(lengths) == 1:  # one file, whose name has a semicolon
        files = [source[1]]
    return {
        "type": row.get("observation_type", ""),
        "file": {} if files in ([""], ["NA"]) else {_PLAYER: files},
        "time offset": row.get("time_offset_s", ""),
        "media_info": {
            "length": dict(zip(files, lengths, strict=False)),
            "fps": dict(zip(files, rates, strict=False)),
        },
        "events": [],
    }


class _Queue:
    """The files of an observation, in sequence on its timeline."""

    def __init__(self, key: str, observation: Any, files: list[str], problems: Problems) -> None:
        self._files = files
        self._offset_s = number(_at(observation, "time offset")) or 0.0
        if _at(observation, "media_creation_date_as_offset"):
            self._offset_s += number(_at(observation, "media_info", "media_creation_time", files[0])) or 0.0
        lengths_s = [number(_at(observation, "media_info", "length", file)) for file in files[:-1]]
        for file, length_s in zip(files, lengths_s, strict=False):
            if length_s is None:
                problems.add(key, f"has no duration for {file}, so the start of the next file is unknown")
        self._starts_s = [0.0, *itertools.accumulate(length_s or 0.0 for length_s in lengths_s)]

    def parts(self, start_s: float, end_s: float) -> Iterator[tuple[str, list[float]]]:
        """File of an action, and [start, end] in that file, in seconds; an action that spans files is split."""
        start_s, end_s = round(start_s - self._offset_s, 6), round(end_s - self._offset_s, 6)
        first = max(0, bisect.bisect_right(self._starts_s, start_s) - 1)
        last = max(first, bisect.bisect_left(self._starts_s, end_s) - 1)
        for place in range(first, last + 1):
            begin_s = self._starts_s[place]
            stop_s = end_s if place == last else self._starts_s[place + 1]
            yield self._files[place], [round(max(start_s, begin_s) - begin_s, 6), round(stop_s - begin_s, 6)]


def _files_of(observation: Any) -> list[str] | None:
    """Files of the first player that has any."""
    players = _at(observation, "file")
    for player in sorted(players) if isinstance(players, dict) else ():
        files = players[player]
        if isinstance(files, list) and files and all(isinstance(file, str) and file for file in files):
            return files
    return None


def _at(value: Any, *keys: str) -> Any:
    """Value under nested keys; None if absent."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _events(observation: Any, name: str, points: set[str], problems: Problems) -> list[_Event]:
    events = _at(observation, "events")
    found = []
    for row in events if isinstance(events, list) else ():
        time_s = number(row[0]) if isinstance(row, list) and len(row) >= 3 else None
        if time_s is None or not all(isinstance(text, str) for text in row[1:3]):
            problems.add(f"observations.{name}.events", f"expected [time, subject, code, ...], got {shown(row)}")
        elif row[2] not in points:
            found.append(_Event(time_s, row[1], row[2], str(row[4]) if len(row) > 4 else ""))
    return sorted(found, key=lambda event: event.time_s)


def _lanes(segments: Sequence[Any]) -> list[list[Any]]:
    return lanes(segments, may_touch=False)  # two entries of one code at the same time would be ambiguous


def _subject(lane: int) -> str:
    return f"overlap {lane + 1}" if lane else ""


def _names(videos: Sequence[LabelledVideo]) -> list[str]:
    """Unique name of each observation."""
    names: list[str] = []
    for video in videos:
        candidates = itertools.chain([video.name], (f"{video.name} #{number}" for number in itertools.count(2)))
        names.append(next(name for name in candidates if name not in names))
    return names


def _behaviour(label: str, key: str) -> dict[str, Any]:
    return {
        "type": "State event",
        "key": key,
        "code": label,
        "description": "",
        "color": "",
        "category": "",
        "modifiers": "",
        "excluded": "",
        "coding map": "",
    }


def _observation(video: LabelledVideo) -> dict[str, Any]:
    end_s = max((segment.end_s for segment in video.segments), default=0.0)
    events = []
    for segments in by_class(video.segments).values():
        for lane, row in enumerate(_lanes(segments)):
            for segment in row:
                comment = "" if segment.score is None else f"score {round(segment.score, 6):.6f}"
                events.append([round(segment.start_s, 3) + 0.0, _subject(lane), segment.label, "", comment])
                events.append([round(segment.end_s, 3) + 0.0, _subject(lane), segment.label, "", ""])
    return {
        "file": {_PLAYER: [video.name], **{str(player): [] for player in range(2, 9)}},
        "type": "MEDIA",
        "date": _EPOCH,
        "description": "",
        "time offset": 0.0,
        "events": sorted(events, key=lambda event: event[0]),
        "observation time interval": [0, 0],
        "independent_variables": {},
        "visualize_spectrogram": False,
        "visualize_waveform": False,
        "close_behaviors_between_videos": False,
        "scan_sampling_time": 0,
        "start_from_current_time": False,
        "start_from_current_epoch_time": False,
        "media_info": {
            "length": {video.name: round(video.duration_s or end_s, 3)},
            "fps": {video.name: video.fps or 25.0},
            "hasVideo": {video.name: True},
            "hasAudio": {video.name: False},
            "offset": {_PLAYER: 0.0},
        },
    }


def _pairs(events: list[_Event], key: str, problems: Problems) -> Iterator[tuple[float, float, _Event]]:
    """Start and end of every action in seconds, and its start event."""
    begun: dict[tuple[str, str], _Event] = {}
    for event in events:
        first = begun.pop((event.subject, event.code), None)
        if first is None:
            begun[event.subject, event.code] = event
        else:
            yield first.time_s, event.time_s, first
    for event in begun.values():
        problems.add(key, f"{event.code!r} starts at {event.time_s:g} s and does not end")
