"""Annotated segments as they stand in a file: ActivityNet-form JSON, or the text folder of THUMOS14.

Source: ActivityNet-1.3, HACS Segments and THUMOS14 annotation files, by their published form.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.json_rows import read_json_object, shown
from tallformer_infer.evaluation.truth_files import choose_subset, fold_subset
from tallformer_infer.evaluation.video_names import composed
from tallformer_training.datasets.findings import Findings

_CLASS_FILE = re.compile(r"(?P<label>[A-Za-z].*)_(?P<subset>train|val|validation|test)\.txt", re.IGNORECASE)
_SEGMENT = "expected [start, end] in seconds"


@dataclass(frozen=True, kw_only=True)
class AnnotatedSegment:
    """One annotated action."""

    start_s: float
    """Start on the file's own time line, in seconds."""
    end_s: float
    """End (exclusive), in seconds."""
    label: str
    """Name of the action."""
    key: str
    """Where it stands, for messages."""


@dataclass(frozen=True, kw_only=True)
class AnnotatedVideo:
    """One annotated video."""

    name: str
    """As the annotations call it."""
    segments: tuple[AnnotatedSegment, ...]
    """In the order of the file; starts and ends are finite numbers."""
    duration_s: float | None
    """Length in seconds, where the file says it."""
    key: str
    """Where it stands, for messages."""


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotated videos of one subset."""

    source: str
    """File or folder."""
    subset: str | None
    """None where the file names no subsets."""
    videos: tuple[AnnotatedVideo, ...]
    """In the order of the file."""


def read_annotations(path: Path, *, subset: str | None, defaults: tuple[str, ...], findings: Findings) -> Annotations:
    """Read the annotated segments of one subset.

    What is no number or no name goes to `findings`; the segments that are well-formed are returned.

    Args:
        path: ActivityNet-form JSON (`database`: ActivityNet, HACS Segments, THUMOS14 as JSON), or a folder of THUMOS14
            text files, one `Class_val.txt` per class with lines `video start end` in seconds.
        subset: Name of the subset; None takes the only one there is, or else the first of `defaults` that there is.
        defaults: Folded names: `training`, `validation`, `testing`.
        findings: Gets what is wrong.

    Raises:
        AnnotationError: The file cannot be read at all, or has no such subset.
    """
    if path.is_dir():
        return _read_folder(path, subset, defaults, findings)
    document = read_json_object(path)
    database = document.get("database")
    if not isinstance(database, dict) or not database:
        raise AnnotationError(f'{path}: has no "database" of videos; expected ActivityNet-form JSON')
    subsets = _subsets_of(str(path), database, findings)
    chosen = choose_subset(Counter(subsets.values()), wanted=subset, defaults=defaults, source=str(path))
    videos = tuple(
        _read_video(str(path), name, database[name], findings) for name, found in subsets.items() if found == chosen
    )
    return Annotations(source=str(path), subset=chosen, videos=videos)


def _subsets_of(source: str, database: dict[str, Any], findings: Findings) -> dict[str, str | None]:
    """Folded subset of every video; None for all of them where the file names no subsets."""
    given = {name: entry["subset"] for name, entry in database.items() if isinstance(entry, dict) and "subset" in entry}
    for name in database if given else ():
        if name not in given:
            findings.add(source, f"database.{name}", 'has no "subset", though other videos have one')
        elif not isinstance(given[name], str):
            findings.add(source, f"database.{name}.subset", f"expected a name, got {shown(given[name])}")
    subsets: dict[str, str | None] = {
        name: fold_subset(subset) for name, subset in given.items() if isinstance(subset, str)
    }
    return subsets or dict.fromkeys(database)


def _read_video(source: str, name: str, entry: Any, findings: Findings) -> AnnotatedVideo:
    key = f"database.{name}"
    if not isinstance(entry, dict):
        findings.add(source, key, f'expected an object with "annotations", got {shown(entry)}')
        entry = {"annotations": []}
    duration_s = _duration(source, key, entry, findings)
    rows: object = entry.get("annotations")
    if not isinstance(rows, list):
        got = shown(rows) if "annotations" in entry else "nothing"
        findings.add(source, f"{key}.annotations", f"expected a list of segments, got {got}")
        rows = []
    segments = [
        segment
        for number, row in enumerate(rows)
        if (segment := _read_segment(source, f"{key}.annotations[{number}]", row, findings))
    ]
    return AnnotatedVideo(name=composed(name), segments=tuple(segments), duration_s=duration_s, key=key)


def _duration(source: str, key: str, entry: Mapping[str, Any], findings: Findings) -> float | None:
    if "duration" not in entry:
        return None
    duration_s = _number(entry["duration"])
    if duration_s is None or duration_s <= 0:
        findings.add(source, f"{key}.duration", f"expected a length in seconds, got {shown(entry['duration'])}")
        return None
    return duration_s


def _read_segment(source: str, key: str, row: Any, findings: Findings) -> AnnotatedSegment | None:
    if not isinstance(row, dict) or "segment" not in row or "label" not in row:
        findings.add(source, key, f'expected an object with "segment" and "label", got {shown(row)}')
        return None
    label, segment = row["label"], row["segment"]
    if not isinstance(label, str) or not label:
        findings.add(source, f"{key}.label", f"expected the name of a class, got {shown(label)}")
        return None
    times = [_number(time) for time in segment] if isinstance(segment, list) else []
    if len(times) != 2 or times[0] is None or times[1] is None:
        findings.add(source, f"{key}.segment", f"{_SEGMENT}, got {shown(segment)}")
        return None
    return AnnotatedSegment(start_s=times[0], end_s=times[1], label=composed(label), key=f"{key}.segment")


def _number(value: object) -> float | None:
    """A finite number, also one written as a string, as some THUMOS14 files do."""
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None


def _read_folder(folder: Path, subset: str | None, defaults: tuple[str, ...], findings: Findings) -> Annotations:
    files = {path: match for path in sorted(folder.iterdir()) if (match := _CLASS_FILE.fullmatch(path.name))}
    if not files:
        raise AnnotationError(f"{folder}: has no files like Diving_val.txt; expected the text folder of THUMOS14")
    available: Counter[str | None] = Counter(fold_subset(match["subset"]) for match in files.values())
    chosen = choose_subset(available, wanted=subset, defaults=defaults, source=str(folder))
    found: dict[str, list[AnnotatedSegment]] = {}
    for path, match in files.items():
        if fold_subset(match["subset"]) == chosen:
            _read_class_file(path, match["label"], found, findings)
    videos = tuple(
        AnnotatedVideo(name=name, segments=tuple(segments), duration_s=None, key=name)
        for name, segments in sorted(found.items())
    )
    return Annotations(source=str(folder), subset=chosen, videos=videos)


def _read_class_file(path: Path, label: str, found: dict[str, list[AnnotatedSegment]], findings: Findings) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as text: {error}") from error
    for number, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        times = [_number(word) for word in words[1:]]
        if len(times) != 2 or times[0] is None or times[1] is None:
            findings.add(str(path), f"line {number}", f"expected `video start end` in seconds, got {shown(line)}")
            continue
        found.setdefault(composed(words[0]), []).append(
            AnnotatedSegment(start_s=times[0], end_s=times[1], label=composed(label), key=f"{path.name}:{number}")
        )
