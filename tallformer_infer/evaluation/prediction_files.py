"""Reading predicted segments: our own `actions.json`, and the ActivityNet `results` form."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tallformer_infer.config import ALL_ACTIONS, RAW_SCORES
from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.annotations import Predictions
from tallformer_infer.evaluation.json_rows import Rows, read_json_object, shown, to_columns
from tallformer_infer.evaluation.origin import origin_of
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.evaluation.video_names import bare_name_of, composed_names


def read_predictions(path: Path) -> Predictions:
    """Read predicted segments.

    Args:
        path: `actions.json` as `tallformer detect` writes it, where a video goes by its file name without folder and
            ending; or ActivityNet-form JSON, `{"results": {video: [{"segment", "label", "score"}]}}`.

    Raises:
        AnnotationError: The file cannot be read, or has wrong segments in it; one line each.
    """
    document = read_json_object(path)
    problems = Problems(str(path))
    if "results" in document:
        names, rows = _results_form(document["results"], problems)
    elif "videos" in document:
        names, rows = _actions_form(document["videos"], problems)
    elif "database" in document:
        raise AnnotationError(
            f"{path}: has truth, not predictions; expected what a model found (were two files swapped?)"
        )
    else:
        raise AnnotationError(f'{path}: has neither "videos" (actions.json) nor "results" (ActivityNet form)')
    columns = to_columns(rows, problems, scored=True)
    problems.raise_if_any()
    return Predictions(
        source=str(path),
        videos=composed_names(names, str(path)),
        labels=columns.labels,
        video_indices=columns.list_indices,
        class_indices=columns.class_indices,
        segments_s=columns.segments_s,
        scores=columns.scores,
        notes=_notes(document),
    )


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
    for number, video in enumerate(_list_at("videos", videos, problems)):
        if not isinstance(video, dict) or not isinstance(video.get("path"), str):
            problems.add(f"videos[{number}]", f'expected an object with "path" and "actions", got {shown(video)}')
            continue
        name = bare_name_of(video["path"])
        if name in seen:
            problems.add(f"videos[{number}].path", f"{video['path']} and {seen[name]} are both the video {name}")
        seen[name] = video["path"]
        names.append(name)
        rows.keys.append(f"videos[{number}].actions")
        rows.lists.append(_list_at(rows.keys[-1], video.get("actions"), problems))
    return names, rows


def _list_at(key: str, value: object, problems: Problems) -> list[Any]:
    if isinstance(value, list):
        return value
    problems.add(key, f"expected a list, got {'nothing' if value is None else shown(value)}")
    return []


def _notes(document: dict[str, Any]) -> tuple[str, ...]:
    """What `actions.json` says about itself: an untrained model, an operating point, videos that could not be read."""
    model, failures = document.get("model"), document.get("failures")
    notes = []
    if isinstance(model, dict) and model.get("trained") is False:
        notes.append(f"the predictions are of the untrained model {model.get('name')} and mean nothing")
    origin = origin_of(document)
    if origin is not None and origin.operating_point not in (None, ALL_ACTIONS):
        notes.append(
            f"the predictions are those of operating point {origin.operating_point}, without the less sure ones, which "
            f"mAP counts too: for mAP, detect with --operating-point {RAW_SCORES}"
        )
    if isinstance(failures, list) and failures:
        paths = ", ".join(str(failure.get("path")) for failure in failures if isinstance(failure, dict))
        notes.append(f"videos that could not be read when the predictions were made: {paths}")
    return tuple(notes)
