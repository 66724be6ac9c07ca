"""The ActivityNet forms: `database`, which `eval` and `train` take for truth, and `results`, what a model found.

Source: the ActivityNet challenge's annotation and submission files, by their published form.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.evaluation.json_rows import number, shown
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.formats.labelled import LabelledSegment, LabelledVideo, in_time_order
from tallformer_infer.formats.rows import GatheredVideos


def truth_document(videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    """The `database` form; scores are left out.

    Raises:
        OutputError: Two videos have the same name without folder and ending.
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
    """The `results` form, most certain first; a segment without a score is certain.

    Raises:
        OutputError: Two videos have the same name without folder and ending.
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
    """The name of each video without folder and ending.

    Raises:
        OutputError: Two are the same; the message names both.
    """
    seen: dict[str, str] = {}
    for video in videos:
        name = video.bare_name
        if name in seen:
            raise OutputError(
                f"{seen[name]} and {video.name}: both would be {name!r}; rename one, or convert them apart"
            )
        seen[name] = video.name
    return list(seen)


def videos_of_document(document: dict[str, Any], problems: Problems, path: Path) -> tuple[LabelledVideo, ...]:
    """Videos of a `database` (every subset), of `results`, or of `actions.json`.

    Raises:
        AnnotationError: It is none of these, or has wrong segments in it; one line each.
    """
    found = GatheredVideos(problems)
    if "database" in document:
        for name, entry in _items(document["database"], "database", problems):
            facts = {"duration_s": number(entry.get("duration")), "fps": number(entry.get("fps"))}
            subset = entry.get("subset")
            found.add_video(name, **facts, subset=subset if isinstance(subset, str) else None, has_bare_name=True)
            _add_all(found, name, f"database.{name}.annotations", entry.get("annotations"), problems)
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


def _segment(segment: LabelledSegment) -> dict[str, Any]:
    return {"segment": [round(segment.start_s, 6) + 0.0, round(segment.end_s, 6) + 0.0], "label": segment.label}


def _end_s(video: dict[str, Any], start_s: float) -> float | None:
    duration_s = number(video.get("duration_s"))
    return None if duration_s is None else round(start_s + duration_s, 6)


def _items(value: object, key: str, problems: Problems) -> list[tuple[str, dict[str, Any]]]:
    if not isinstance(value, dict):
        problems.add(key, f"expected an object with a key per video, got {shown(value)}")
        return []
    for name, entry in value.items():
        if not isinstance(entry, dict):
            problems.add(f"{key}.{name}", f'expected an object with "annotations", got {shown(entry)}')
    return [(name, entry) for name, entry in value.items() if isinstance(entry, dict)]


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
