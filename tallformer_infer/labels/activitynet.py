"""The ActivityNet forms: `database`, which `eval` and `train` take for truth, and `results`, what a model found.

Source: the ActivityNet challenge's annotation and submission files, by their published form.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError, OutputError
from tallformer_infer.labels.columns import Rows
from tallformer_infer.labels.files import Problems, number, shown
from tallformer_infer.labels.names import bare_name_of
from tallformer_infer.labels.segments import GatheredVideos, LabelledVideo, Segment, in_time_order
from tallformer_infer.results.document import Failure, describe_action, describe_file, describe_run
from tallformer_infer.structures import Result, Selection


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


def activitynet_document(
    results: Sequence[Result], *, selection: Selection | None = None, failures: Sequence[Failure] = ()
) -> dict[str, Any]:
    """The ActivityNet `results` form: actions by video name, and everything else under `external_data`.

    Args:
        results: One or more, all of one model, device and window layout, in the order of the inputs.
        selection: Filters that were applied; None takes those of the first result.
        failures: Inputs of the same run that gave no result.

    Raises:
        OutputError: Two videos have the same name without folder and ending.
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
    """The name of each video in the ActivityNet form: its file name without folder and ending.

    Raises:
        OutputError: Two are the same; the message names both files.
    """
    seen: dict[str, str] = {}
    for path in paths:
        name = bare_name_of(path)
        if name in seen:
            raise OutputError(
                f"{seen[name]} and {path}: both would be {name!r} in the activitynet format; "
                "rename one, run them apart, or use --format json"
            )
        seen[name] = path
    return list(seen)


def videos_of_document(document: dict[str, Any], problems: Problems, path: Path) -> tuple[LabelledVideo, ...]:
    """Videos of a `database` (every subset), of `results`, or of `actions.json`.

    Raises:
        AnnotationError: It is none of these, or has wrong segments in it; one line each.
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
    """A video of a `database` and its segments that are well-formed; what is not goes to `problems`.

    Numbers may be written as strings, as some THUMOS14 files do.
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
    """Names of the videos of `results`, or of `actions.json`, and their rows as they stand there.

    Raises:
        AnnotationError: The document is neither.
    """
    if "results" in document:
        return _results_form(document["results"], problems)
    if "videos" in document:
        return _actions_form(document["videos"], problems)
    if "database" in document:
        raise AnnotationError(
            f"{path}: has truth, not predictions; expected what a model found (were two files swapped?)"
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
