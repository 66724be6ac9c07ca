"""ActivityNet formats: `database`, ground truth that `eval` and `train` read, and `results`, predictions of a model.

All rows are converted to arrays at once, which is fast.

Source: the ActivityNet challenge's annotation and submission files, by their published form.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.labels.files import Problems, number, shown
from tallformer_infer.labels.segments import (
    GatheredVideos,
    LabelledVideo,
    Segment,
    bare_name_of,
    composed,
    in_time_order,
)
from tallformer_infer.results import Failure, describe_action, describe_file, describe_run
from tallformer_infer.structures import Result, Selection


def truth_document(videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    """Build a `database` document; scores are dropped.

    Raises:
        OutputError: Two videos have the same name without folder and suffix.
    """
    database = {}
    for name, video in zip(bare_names(videos), videos, strict=True):
        entry: dict[str, Any] = {} if video.duration_s is None else {"duration": round(video.duration_s, 6)}
        if video.subset is not None:
            entry["subset"] = video.subset
        if video.fps is not None:
            entry["fps"] = round(video.fps, 6)
        entry["annotations"] = [_segment(segment) for segment in in_time_order(video.segments)]
        database[name] = entry
    return {"version": "tallformer", "taxonomy": [], "database": database}


def results_document(videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    """Build a `results` document, highest scores first; a segment without a score gets 1.0.

    Raises:
        OutputError: Two videos have the same name without folder and suffix.
    """
    return {
        "version": "tallformer",
        "results": {
            name: [
                {**_segment(segment), "score": 1.0 if segment.score is None else round(segment.score, 6)}
                for segment in sorted(video.segments, key=lambda segment: -(segment.score or 0.0))
            ]
            for name, video in zip(bare_names(videos), videos, strict=True)
        },
        "external_data": {},
    }


def bare_names(videos: Sequence[LabelledVideo]) -> list[str]:
    """Name of each video without folder and suffix.

    Raises:
        OutputError: Two names are the same; the message gives both videos.
    """
    seen: dict[str, str] = {}
    for video in videos:
        name = video.bare_name
        if name in seen:
            raise OutputError(
                f"{seen[name]} and {video.name}: both would be {name!r}; rename one, or convert them separately"
            )
        seen[name] = video.name
    return list(seen)


def activitynet_document(
    results: Sequence[Result], *, selection: Selection | None = None, failures: Sequence[Failure] = ()
) -> dict[str, Any]:
    """Build an ActivityNet `results` document: actions by video name, and everything else under `external_data`.

    Args:
        results: At least one, all with the same model, device and window layout, in input order.
        selection: Filters that were applied; None uses those of the first result.
        failures: Inputs of the same run that failed.

    Raises:
        OutputError: Two videos have the same name without folder and suffix.
        ValueError: There are no results, or they do not come from one run.

    Source: the submission form of the ActivityNet challenge, as its evaluation code reads it.
    """
    names = video_ids([result.video.path for result in results])
    run = describe_run(results, selection or (results[0].selection if results else Selection()))
    return {
        "version": f"tallformer {run['tool']['version']}",
        "results": {
            name: [describe_action(action) for action in sorted(result.actions, key=lambda action: -action.score)]
            for name, result in zip(names, results, strict=True)
        },
        "external_data": {
            **run,
            "videos": {name: describe_file(result) for name, result in zip(names, results, strict=True)},
            "failures": [{"path": failure.path, "error": failure.error} for failure in failures],
        },
    }


def video_ids(paths: Sequence[str]) -> list[str]:
    """Name of each video in the ActivityNet format: its file name without folder and suffix.

    Raises:
        OutputError: Two names are the same; the message gives both files.
    """
    seen: dict[str, str] = {}
    for path in paths:
        name = bare_name_of(path)
        if name in seen:
            raise OutputError(
                f"{seen[name]} and {path}: both would be {name!r} in the activitynet format; "
                "rename one, run them separately, or use --format json"
            )
        seen[name] = path
    return list(seen)


def videos_of_document(document: dict[str, Any], problems: Problems, path: Path) -> tuple[LabelledVideo, ...]:
    """Read the videos of a `database` (all subsets), of `results`, or of `actions.json`.

    Raises:
        AnnotationError: The document is none of these, or has malformed segments; one line each.
    """
    found = GatheredVideos(problems)
    if "database" in document:
        for name, entry in _items(document["database"], problems):
            video = video_of_entry(name, entry, problems)
            found.add_video(name, duration_s=video.duration_s, fps=video.fps, subset=video.subset, has_bare_name=True)
            for segment in video.segments:
                found.add(name, segment.key, [segment.start_s, segment.end_s], segment.label)
    elif "results" in document:
        results = document["results"]
        for name, rows in results.items() if isinstance(results, dict) else ():
            found.add_video(name, has_bare_name=True)
            _add_all(found, name, f"results.{name}", rows, problems)
    elif isinstance(document.get("videos"), list):
        for place, video in enumerate(document["videos"]):
            key = f"videos[{place}]"
            if not isinstance(video, dict) or not isinstance(video.get("path"), str):
                problems.add(key, f'expected an object with "path" and "actions", got {shown(video)}')
                continue
            fps = number(video.get("source_fps")) or number(video.get("sample_fps"))
            start_s = number(video.get("start_s")) or 0.0
            found.add_video(video["path"], start_s=start_s, duration_s=_end_s(video, start_s), fps=fps)
            _add_all(found, video["path"], f"{key}.actions", video.get("actions"), problems)
    else:
        raise AnnotationError(f'{path}: has none of "database", "results" and "videos"')
    return found.videos()


def video_of_entry(name: str, entry: Any, problems: Problems) -> LabelledVideo:
    """Read a video of a `database` with its well-formed segments; report the others to `problems`.

    Numbers may be strings, as in some THUMOS14 files.
    """
    key = f"database.{name}"
    if not isinstance(entry, dict):
        problems.add(key, f'expected an object with "annotations", got {shown(entry)}')
        entry = {"annotations": []}
    rows: object = entry.get("annotations")
    if not isinstance(rows, list):
        got = shown(rows) if "annotations" in entry else "nothing"
        problems.add(f"{key}.annotations", f"expected a list of segments, got {got}")
        rows = []
    segments = (_annotated(f"{key}.annotations[{place}]", row, problems) for place, row in enumerate(rows))
    duration_s, subset = number(entry.get("duration")), entry.get("subset")
    return LabelledVideo(
        name=name,
        segments=tuple(segment for segment in segments if segment is not None),
        duration_s=duration_s if duration_s is None or duration_s > 0 else None,
        fps=number(entry.get("fps")),
        subset=subset if isinstance(subset, str) else None,
        has_bare_name=True,
        key=key,
    )


def result_rows(document: dict[str, Any], problems: Problems, path: Path) -> tuple[list[str], Rows]:
    """Names of the videos in `results` or `actions.json`, and their unchecked rows.

    Raises:
        AnnotationError: The document is neither.
    """
    if "results" in document:
        return _results_form(document["results"], problems)
    if "videos" in document:
        return _actions_form(document["videos"], problems)
    if "database" in document:
        raise AnnotationError(
            f"{path}: has ground truth, not predictions; expected the output of a model (were two files swapped?)"
        )
    raise AnnotationError(f'{path}: has neither "videos" (actions.json) nor "results" (ActivityNet form)')


def _annotated(key: str, row: Any, problems: Problems) -> Segment | None:
    if not isinstance(row, dict):
        problems.add(key, f'expected an object with "segment" and "label", got {shown(row)}')
        return None
    for name in ("segment", "label"):
        if name not in row:
            problems.add(key, f'has no "{name}"')
            return None
    label, segment = row["label"], row["segment"]
    if not isinstance(label, str) or not label:
        problems.add(f"{key}.label", f"expected the name of a class, got {shown(label)}")
        return None
    times = [number(time) for time in segment] if isinstance(segment, list) else []
    if len(times) != 2 or times[0] is None or times[1] is None:
        problems.add(f"{key}.segment", f"expected [start, end] in seconds, got {shown(segment)}")
        return None
    return Segment(start_s=times[0], end_s=times[1], label=label, key=f"{key}.segment")


def _results_form(results: object, problems: Problems) -> tuple[list[str], Rows]:
    if not isinstance(results, dict):
        problems.add("results", f"expected an object with a key per video, got {shown(results)}")
        return [], Rows([], [])
    names, rows = list(results), Rows([f"results.{name}" for name in results], [])
    for key, found in zip(rows.keys, results.values(), strict=True):
        rows.lists.append(_list_at(key, found, problems))
    return names, rows


def _actions_form(videos: object, problems: Problems) -> tuple[list[str], Rows]:
    names: list[str] = []
    rows = Rows([], [])
    seen: dict[str, str] = {}
    for place, video in enumerate(_list_at("videos", videos, problems)):
        if not isinstance(video, dict) or not isinstance(video.get("path"), str):
            problems.add(f"videos[{place}]", f'expected an object with "path" and "actions", got {shown(video)}')
            continue
        name = bare_name_of(video["path"])
        if name in seen:
            problems.add(f"videos[{place}].path", f"{video['path']} and {seen[name]} are both the video {name}")
        seen[name] = video["path"]
        names.append(name)
        rows.keys.append(f"videos[{place}].actions")
        rows.lists.append(_list_at(rows.keys[-1], video.get("actions"), problems))
    return names, rows


def _list_at(key: str, value: object, problems: Problems) -> list[Any]:
    if isinstance(value, list):
        return value
    problems.add(key, f"expected a list, got {'nothing' if value is None else shown(value)}")
    return []


def _segment(segment: Segment) -> dict[str, Any]:
    return {"segment": [round(segment.start_s, 6) + 0.0, round(segment.end_s, 6) + 0.0], "label": segment.label}


def _end_s(video: dict[str, Any], start_s: float) -> float | None:
    duration_s = number(video.get("duration_s"))
    return None if duration_s is None else round(start_s + duration_s, 6)


def _items(database: object, problems: Problems) -> list[tuple[str, Any]]:
    if isinstance(database, dict):
        return list(database.items())
    problems.add("database", f"expected an object with a key per video, got {shown(database)}")
    return []


def _add_all(found: GatheredVideos, video: str, key: str, rows: object, problems: Problems) -> None:
    if not isinstance(rows, list):
        problems.add(key, f"expected a list of segments, got {'nothing' if rows is None else shown(rows)}")
        return
    for place, row in enumerate(rows):
        segment = row.get("segment") if isinstance(row, dict) else None
        if not isinstance(segment, list) or len(segment) != 2:
            problems.add(f"{key}[{place}]", f'expected "segment": [start, end] and "label", got {shown(row)}')
            continue
        found.add(video, f"{key}[{place}]", segment, row.get("label"), score=row.get("score"))


@dataclass(frozen=True)
class Rows:
    """Unchecked segments of videos, as in the file: objects with "segment", "label" and optionally "score"."""

    keys: list[str]
    """Key of each video's list in the file, for messages: `results.v1`."""
    lists: list[list[Any]]
    """Rows of each video."""

    @cached_property
    def ends(self) -> list[int]:
        """Cumulative number of rows, including each list."""
        return list(accumulate(len(rows_of_video) for rows_of_video in self.lists))

    def key(self, row: int) -> str:
        """Key in the file of a row, by its index over all lists."""
        place = bisect_right(self.ends, row)
        first = self.ends[place] - len(self.lists[place])
        return f"{self.keys[place]}[{row - first}]"


@dataclass(frozen=True)
class Columns:
    """Rows as arrays."""

    labels: tuple[str, ...]
    """Distinct labels, in order of first appearance."""
    list_indices: NDArray[np.int64]
    """Index of the list that each row comes from, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Index into `labels`, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Start and end in seconds, shape (N, 2)."""
    scores: NDArray[np.float64]
    """Confidence, shape (N,)."""


def to_columns(rows: Rows, problems: Problems) -> Columns:
    """Convert rows to arrays; malformed rows are reported to `problems`, and invalidate the result.

    Numbers may be strings, as in some THUMOS14 files.
    """
    flat = [row for rows_of_video in rows.lists for row in rows_of_video]
    columns = _convert(rows, flat)
    if columns is None:
        flat = _find_malformed(rows, flat, problems)
        columns = _convert(rows, flat) if flat else None
    if columns is None:
        none = np.zeros(0, np.int64)
        return Columns((), none, none, np.zeros((0, 2)), np.zeros(0))
    _check_values(rows, columns, problems)
    return columns


def _convert(rows: Rows, flat: Sequence[Any]) -> Columns | None:
    labels: dict[str, int] = {}
    try:
        class_indices = [labels.setdefault(row["label"], len(labels)) for row in flat]
        names = dict.fromkeys(composed(label) for label in labels)
        segments_s = np.asarray([row["segment"] for row in flat], np.float64)
        scores = np.asarray([row["score"] for row in flat], np.float64)
    except (TypeError, ValueError, KeyError, OverflowError, AttributeError):
        return None
    well_formed = segments_s.shape == (len(flat), 2) or not flat
    if not well_formed or scores.ndim != 1 or not all(isinstance(label, str) and label for label in labels):
        return None
    if len(names) < len(labels):  # one label in composed and decomposed form
        places = {name: place for place, name in enumerate(names)}
        merged = np.array([places[composed(label)] for label in labels], np.int64)
        class_indices = merged[np.asarray(class_indices, np.int64)].tolist()
    return Columns(
        labels=tuple(names),
        list_indices=np.repeat(np.arange(len(rows.lists)), [len(rows_of_video) for rows_of_video in rows.lists]),
        class_indices=np.asarray(class_indices, np.int64),
        segments_s=segments_s.reshape(-1, 2),
        scores=scores,
    )


def _find_malformed(rows: Rows, flat: Sequence[Any], problems: Problems) -> list[dict[str, Any]]:
    """Report the problems of each row; return the rows with numbers as floats, or none if there are problems."""
    before = problems.count
    for index, row in enumerate(flat):
        if not isinstance(row, dict):
            problems.add(rows.key(index), f'expected an object with "segment" and "label", got {shown(row)}')
            continue
        for name in ("segment", "label", "score"):
            if name not in row:
                problems.add(rows.key(index), f'has no "{name}"')
            elif (expected := _what_was_expected(name, row[name])) is not None:
                problems.add(f"{rows.key(index)}.{name}", f"expected {expected}, got {shown(row[name])}")
    if problems.count > before:
        return []
    return [
        {
            "segment": [float(time) for time in row["segment"]],
            "label": row["label"],
            "score": float(row["score"]),
        }
        for row in flat
    ]


def _what_was_expected(name: str, value: object) -> str | None:
    if name == "label":
        return None if isinstance(value, str) and value else "the name of a class"
    if name == "score":
        return None if _is_number(value) else "a number"
    if isinstance(value, list) and len(value) == 2 and all(_is_number(item) for item in value):
        return None
    return "[start, end] in seconds"


def _is_number(value: object) -> bool:
    if not isinstance(value, str | int | float):
        return False
    try:
        float(value)
    except (ValueError, OverflowError):
        return False
    return True


def _check_values(rows: Rows, columns: Columns, problems: Problems) -> None:
    finite = np.isfinite(columns.segments_s).all(axis=1)
    backwards = finite & (columns.segments_s[:, 1] < columns.segments_s[:, 0])
    for row in np.flatnonzero(~finite | backwards).tolist():
        start, end = columns.segments_s[row].tolist()
        if backwards[row]:
            problems.add(f"{rows.key(row)}.segment", f"ends at {end:g} s, before it starts at {start:g} s")
        else:
            problems.add(f"{rows.key(row)}.segment", f"expected [start, end] in seconds, got [{start:g}, {end:g}]")
    for row in np.flatnonzero(~np.isfinite(columns.scores)).tolist():
        problems.add(f"{rows.key(row)}.score", f"expected a number, got {columns.scores[row]:g}")
