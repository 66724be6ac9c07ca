"""VGG Image Annotator 3 (VIA) projects: temporal segments with attributes for label and score.

Source: VIA 3's project format, `CodeDoc.md` and `_via_attribute.js`, `_via_file.js` of the VIA project (BSD-2-Clause).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.files import Problems, shown
from tallformer_infer.labels.segments import GatheredVideos, LabelledVideo, by_class, in_time_order

_TEMPORAL = "FILE1_Z2_XY0"
"""Anchor of attributes of temporal segments, without a region in the picture."""
_TEXT, _CHECKBOX, _SELECT = 1, 2, 4
_VIDEO = 4
_AT_ADDRESS, _IN_FILE = 2, 3
_LABEL, _SCORE = "1", "2"


def via_document(videos: Sequence[LabelledVideo]) -> dict[str, Any]:
    """Build a project with one view per video."""
    labels = list(by_class(segment for video in videos for segment in video.segments))
    options = {label: str(place) for place, label in enumerate(labels)}
    numbered = [(str(place), video) for place, video in enumerate(videos, start=1)]
    return {
        "project": {
            "pid": "__VIA_PROJECT_ID__",
            "rev": "__VIA_PROJECT_REV_ID__",
            "rev_timestamp": "__VIA_PROJECT_REV_TIMESTAMP__",
            "pname": "tallformer",
            "creator": "tallformer",
            "created": 0,
            "data_format_version": "3.1.1",
            "vid_list": [place for place, _ in numbered],
        },
        "config": _config(),
        "attribute": {
            _LABEL: _attribute("label", _SELECT, {place: label for label, place in options.items()}),
            _SCORE: _attribute("score", _TEXT, {}),
        },
        "file": {place: _file(place, video) for place, video in numbered},
        "view": {place: {"fid_list": [place]} for place, _ in numbered},
        "metadata": {
            f"{place}_{row:06d}": {
                "vid": place,
                "flg": 0,
                "z": [round(segment.start_s, 6) + 0.0, round(segment.end_s, 6) + 0.0],
                "xy": [],
                "av": {_LABEL: options[segment.label]}
                | ({} if segment.score is None else {_SCORE: f"{round(segment.score, 6):.6f}"}),
            }
            for place, video in numbered
            for row, segment in enumerate(in_time_order(video.segments), start=1)
        },
    }


def videos_of_project(project: dict[str, Any], problems: Problems, path: Path) -> tuple[LabelledVideo, ...]:
    """Read the videos and temporal segments of a project; spatial regions are skipped.

    Raises:
        AnnotationError: A part is malformed, or the label attribute is ambiguous; one line each.
    """
    found = GatheredVideos(problems)
    label, score = _attributes(project.get("attribute"), path)
    names = {place: _name_of_view(project, view, f"view.{place}", problems) for place, view in _part(project, "view")}
    problems.raise_if_any()
    for name in names.values():
        found.add_video(name)
    for key, row in _part(project, "metadata"):
        times = row.get("z")
        if row.get("xy") or not isinstance(times, list) or len(times) != 2:
            continue
        av = row.get("av")
        values: dict[str, Any] = av if isinstance(av, dict) else {}
        video = names.get(str(row.get("vid")))
        if video is None:
            problems.add(f"metadata.{key}.vid", f"there is no view {shown(row.get('vid'))}")
            continue
        for text in _texts(project["attribute"][label], values.get(label)):
            found.add(video, f"metadata.{key}", times, text, score=None if score is None else values.get(score) or None)
    return found.videos()


def _config() -> dict[str, Any]:
    return {
        "file": {"loc_prefix": {"1": "", "2": "", "3": "", "4": ""}},
        "ui": {
            "file_content_align": "center",
            "file_metadata_editor_visible": True,
            "spatial_metadata_editor_visible": True,
            "temporal_segment_metadata_editor_visible": True,
            "spatial_region_label_attribute_id": "",
            "gtimeline_visible_row_count": "4",
        },
    }


def _attribute(name: str, kind: int, options: dict[str, str]) -> dict[str, Any]:
    return {
        "aname": name,
        "anchor_id": _TEMPORAL,
        "type": kind,
        "desc": "",
        "options": options,
        "default_option_id": "",
    }


def _file(place: str, video: LabelledVideo) -> dict[str, Any]:
    where = _AT_ADDRESS if "://" in video.name else _IN_FILE
    return {"fid": place, "fname": video.name, "type": _VIDEO, "loc": where, "src": video.address}


def _part(project: dict[str, Any], name: str) -> list[tuple[str, dict[str, Any]]]:
    part = project.get(name)
    return [(key, row) for key, row in part.items() if isinstance(row, dict)] if isinstance(part, dict) else []


def _attributes(attributes: Any, path: Path) -> tuple[str, str | None]:
    """Keys of the attributes `label` and `score`; the label may be the only temporal attribute, whatever its name."""
    temporal = {
        key: each
        for key, each in (attributes.items() if isinstance(attributes, dict) else ())
        if isinstance(each, dict) and each.get("anchor_id") == _TEMPORAL
    }
    score = next((key for key, each in temporal.items() if each.get("aname") == "score"), None)
    others = [key for key in temporal if key != score]
    named = [key for key in others if temporal[key].get("aname") == "label"]
    chosen = named if named else others
    if len(chosen) != 1:
        names = ", ".join(str(temporal[key].get("aname")) for key in others) or "none"
        raise AnnotationError(f'{path}: temporal attributes are {names}; expected one, or one named "label"')
    return chosen[0], score


def _name_of_view(project: dict[str, Any], view: dict[str, Any], key: str, problems: Problems) -> str:
    files = view.get("fid_list")
    known = dict(_part(project, "file"))
    name = known.get(str(files[0]), {}).get("fname") if isinstance(files, list) and len(files) == 1 else None
    if isinstance(name, str) and name:
        return name
    problems.add(key, f"expected one video, got {shown(files)}")
    return ""


def _texts(attribute: dict[str, Any], value: Any) -> list[Any]:
    """Labels of one value: a text, the option it refers to, or several options separated by commas."""
    options = attribute.get("options")
    options = options if isinstance(options, dict) else {}
    if attribute.get("type") == _TEXT or not isinstance(value, str):
        return [value]
    parts = value.split(",") if attribute.get("type") == _CHECKBOX else [value]
    return [options.get(part, part) for part in parts]
