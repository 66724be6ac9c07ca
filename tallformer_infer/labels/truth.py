"""Annotated segments of one subset: ActivityNet-form JSON, or the text folder of THUMOS14.

Used by `eval`, `calibrate` and `train`. Well-formed segments are returned unchanged; the callers decide which ones
count, and whether they fit the video.

Source: ActivityNet-1.3, HACS Segments and THUMOS14 annotation files, by their published form.
"""

from __future__ import annotations

import dataclasses
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.activitynet import video_of_entry
from tallformer_infer.labels.files import Problems, number, read_json_object, shown
from tallformer_infer.labels.segments import LabelledVideo, Segment, composed, composed_names

SUBSET_NAMES = {"train": "training", "val": "validation", "valid": "validation", "test": "testing"}
"""Short names of subsets, as used in some files and by most users."""

_CLASS_FILE = re.compile(r"(?P<label>[A-Za-z].*)_(?P<subset>train|val|validation|test)\.txt", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class Annotations:
    """The annotated videos of one subset."""

    source: str
    """File or folder."""
    subset: str | None
    """Name of the subset; None if the file has no subsets."""
    videos: tuple[LabelledVideo, ...]
    """Videos, in file order; names and labels are composed (NFC), starts and ends are finite numbers."""
    others: frozenset[str] = frozenset()
    """Names of videos in other subsets."""
    is_folder: bool = False
    """Whether the source is a folder of text files, which lists only videos that have segments."""


def read_annotations(
    path: Path,
    *,
    subset: str | None,
    defaults: tuple[str, ...],
    problems: Problems,
    check_durations: bool = False,
) -> Annotations:
    """Read the annotated segments of one subset.

    Args:
        path: ActivityNet-form JSON (`database`: ActivityNet, HACS Segments, THUMOS14 as JSON, FineAction ...), or a
            folder of THUMOS14 text files, one `Class_test.txt` per class with lines `video start end` in seconds.
        subset: Name of the subset; None selects the only one, otherwise the first of `defaults` that exists.
        defaults: Names as returned by `fold_subset`.
        problems: Receives malformed values; well-formed segments are returned.
        check_durations: Whether a duration that is not a positive number is a problem; if not, it becomes None.

    Raises:
        AnnotationError: The file cannot be read, or has no such subset.
    """
    if path.is_dir():
        return _read_folder(path, subset, defaults, problems)
    database = _database_of(read_json_object(path), path)
    subsets = _subsets_of(database, problems)
    if not subsets:
        problems.raise_if_any()
    chosen = choose_subset(Counter(subsets.values()), wanted=subset, defaults=defaults, source=str(path))
    videos = []
    for name in (name for name, found in subsets.items() if found == chosen):
        entry = database[name]
        videos.append(_composed(video_of_entry(name, entry, problems)))
        length = entry.get("duration", 1.0) if isinstance(entry, dict) else 1.0
        if check_durations and (number(length) or 0.0) <= 0:
            problems.add(f"database.{name}.duration", f"expected a duration in seconds, got {shown(length)}")
    composed_names((video.name for video in videos), str(path))
    others = frozenset(composed(name) for name, found in subsets.items() if found != chosen)
    return Annotations(source=str(path), subset=chosen, videos=tuple(videos), others=others)


def _composed(video: LabelledVideo) -> LabelledVideo:
    segments = tuple(dataclasses.replace(segment, label=composed(segment.label)) for segment in video.segments)
    return dataclasses.replace(video, name=composed(video.name), segments=segments)


def fold_subset(name: str) -> str:
    """Normalize a subset name: lower case, and `validation` for `val`, `testing` for `test`, `training` for `train`."""
    folded = name.strip().lower()
    return SUBSET_NAMES.get(folded, folded)


def choose_subset(
    available: Mapping[str | None, int], *, wanted: str | None, defaults: tuple[str, ...], source: str
) -> str | None:
    """Select a subset.

    Args:
        available: Number of videos per folded subset name; the key is None for a file without subsets.
        wanted: Name given by the user; None selects automatically.
        defaults: Names tried in order if the file has several subsets.
        source: Name of the file, for messages.

    Raises:
        AnnotationError: There is no such subset.
    """
    if wanted is None and len(available) == 1:
        return next(iter(available))
    for name in defaults if wanted is None else (fold_subset(wanted),):
        if name in available:
            return name
    named = ", ".join(
        f"{name} ({count} video{'s' if count > 1 else ''})" for name, count in available.items() if name is not None
    )
    if wanted is None:
        raise AnnotationError(f"{source}: has no subset {' or '.join(defaults)}, but {named}; choose one with --subset")
    if not named:
        raise AnnotationError(f"{source}: has no subsets; remove --subset {wanted}")
    raise AnnotationError(f"{source}: has no subset {wanted}; it has {named}")


def _database_of(document: dict[str, Any], path: Path) -> dict[str, Any]:
    database = document.get("database")
    if isinstance(database, dict) and database:
        return database
    if "database" in document:
        raise AnnotationError(f"{path}: database: expected an object with a key per video, got {shown(database)}")
    if "results" in document or "videos" in document:
        raise AnnotationError(
            f"{path}: has predictions, not ground truth; expected annotations (were two files swapped?)"
        )
    raise AnnotationError(f'{path}: has no "database"; expected ActivityNet-form JSON, {{"database": {{video: ...}}}}')


def _subsets_of(database: dict[str, Any], problems: Problems) -> dict[str, str | None]:
    """Folded subset of every video; None for all if the file has no subsets."""
    given = {name: entry["subset"] for name, entry in database.items() if isinstance(entry, dict) and "subset" in entry}
    for name in database if given else ():
        if name not in given:
            problems.add(f"database.{name}", 'has no "subset", though other videos have one')
        elif not isinstance(given[name], str):
            problems.add(f"database.{name}.subset", f"expected a name, got {shown(given[name])}")
    if not given:
        return dict.fromkeys(database)
    return {name: fold_subset(subset) for name, subset in given.items() if isinstance(subset, str)}


def _read_folder(folder: Path, subset: str | None, defaults: tuple[str, ...], problems: Problems) -> Annotations:
    files = {path: match for path in sorted(folder.iterdir()) if (match := _CLASS_FILE.fullmatch(path.name))}
    if not files:
        raise AnnotationError(f"{folder}: has no files like Diving_test.txt; expected the text folder of THUMOS14")
    names = list(dict.fromkeys(fold_subset(match["subset"]) for match in files.values()))
    found: dict[str | None, dict[str, list[Segment]]] = {name: {} for name in names}
    wrong = {name: Problems(str(folder)) for name in names}
    for path, match in files.items():
        name = fold_subset(match["subset"])
        _read_class_file(path, composed(match["label"]), found[name], wrong[name])
    counts = {name: len(videos) for name, videos in found.items()}
    chosen = choose_subset(counts, wanted=subset, defaults=defaults, source=str(folder))
    problems.take(wrong[str(chosen)])
    videos = tuple(
        LabelledVideo(name=name, segments=tuple(segments), has_bare_name=True, key=name)
        for name, segments in found.pop(chosen).items()
    )
    others = frozenset(video for names in found.values() for video in names)
    return Annotations(source=str(folder), subset=chosen, videos=videos, others=others, is_folder=True)


def _read_class_file(path: Path, label: str, found: dict[str, list[Segment]], problems: Problems) -> None:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as text: {error}") from error
    for place, line in enumerate(lines, start=1):
        words = line.split()
        if not words:
            continue
        key = f"{path.name}:{place}"
        times = [number(word) for word in words[1:]]
        if len(times) != 2 or times[0] is None or times[1] is None:
            problems.add(key, f"expected `video start end` in seconds, got {shown(line)}")
            continue
        segment = Segment(start_s=times[0], end_s=times[1], label=label, key=key)
        found.setdefault(composed(words[0]), []).append(segment)
