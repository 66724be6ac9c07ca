"""Reading annotated segments: ActivityNet-form JSON and the text folders of THUMOS14."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.annotations import Truth
from tallformer_infer.evaluation.json_rows import Columns, Rows, number, read_json_object, shown, to_columns
from tallformer_infer.evaluation.problems import Problems
from tallformer_infer.evaluation.video_names import composed, composed_names

SUBSET_NAMES = {"train": "training", "val": "validation", "valid": "validation", "test": "testing"}
"""Short names of subsets, as some files and most users write them."""

_AMBIGUOUS = "ambiguous"
_MAY_END_LATE_S = 1.0
"""How far behind the end of its video a segment may end without a note; annotations are rounded."""
_CLASS_FILE = re.compile(r"(?P<label>[A-Za-z].*)_(?P<subset>train|val|validation|test)\.txt", re.IGNORECASE)


def read_truth(path: Path, *, subset: str | None, defaults: tuple[str, ...]) -> Truth:
    """Read the annotated segments of one subset.

    Args:
        path: ActivityNet-form JSON (`database`: ActivityNet, HACS Segments, THUMOS14 as JSON, FineAction ...), or a
            folder of THUMOS14 text files, one `Class_test.txt` per class with lines `video start end` in seconds.
        subset: Name of the subset; None takes the only one there is, or else the first of `defaults` that there is.
        defaults: Names as `fold_subset` writes them.

    Raises:
        AnnotationError: The file cannot be read, has no such subset, or has wrong segments in it; one line each.
    """
    if path.is_dir():
        return _read_thumos_folder(path, subset=subset, defaults=defaults)
    database = _database_of(read_json_object(path), path)
    subsets = _subsets_of(database, path)
    chosen = choose_subset(Counter(subsets.values()), wanted=subset, defaults=defaults, source=str(path))
    videos = [video for video, name in subsets.items() if name == chosen]
    problems = Problems(str(path))
    rows = _annotations_of(database, videos, problems)
    columns, notes = _without_ambiguous(to_columns(rows, problems, scored=False))
    problems.raise_if_any()
    others = frozenset(composed(video) for video, name in subsets.items() if name != chosen)
    notes += _notes_on_ends(columns, [number(database[video].get("duration")) for video in videos])
    return _truth(str(path), chosen, composed_names(videos, str(path)), columns, others=others, notes=notes)


def fold_subset(name: str) -> str:
    """One spelling per subset: lower case, and `validation` for `val`, `testing` for `test`, `training` for `train`."""
    folded = name.strip().lower()
    return SUBSET_NAMES.get(folded, folded)


def choose_subset(
    available: Counter[str | None], *, wanted: str | None, defaults: tuple[str, ...], source: str
) -> str | None:
    """Decide which subset is scored.

    Args:
        available: Number of videos per folded subset; None counts videos of a file that names no subsets.
        wanted: As the user wrote it; None lets the file decide.
        defaults: The first of these that there is is taken if the file has several.
        source: File, for messages.

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
        raise AnnotationError(f"{source}: names no subsets, so leave out --subset {wanted}")
    raise AnnotationError(f"{source}: has no subset {wanted}; it has {named}")


def _database_of(document: dict[str, Any], path: Path) -> dict[str, Any]:
    database = document.get("database")
    if isinstance(database, dict) and database:
        return database
    if "database" in document:
        raise AnnotationError(f"{path}: database: expected an object with a key per video, got {shown(database)}")
    if "results" in document or "videos" in document:
        raise AnnotationError(f"{path}: has predictions, not truth; expected annotations (were two files swapped?)")
    raise AnnotationError(f'{path}: has no "database"; expected ActivityNet-form JSON, {{"database": {{video: ...}}}}')


def _subsets_of(database: dict[str, Any], path: Path) -> dict[str, str | None]:
    problems = Problems(str(path))
    for video, entry in database.items():
        if not isinstance(entry, dict):
            problems.add(f"database.{video}", f'expected an object with "annotations", got {shown(entry)}')
        elif not isinstance(entry.get("subset", ""), str):
            problems.add(f"database.{video}.subset", f"expected a name, got {shown(entry['subset'])}")
    problems.raise_if_any()
    if not any("subset" in entry for entry in database.values()):
        return dict.fromkeys(database)
    for video, entry in database.items():
        if "subset" not in entry:
            problems.add(f"database.{video}", 'has no "subset", though other videos have one')
    problems.raise_if_any()
    return {video: fold_subset(entry["subset"]) for video, entry in database.items()}


def _annotations_of(database: dict[str, Any], videos: list[str], problems: Problems) -> Rows:
    rows = Rows([f"database.{video}.annotations" for video in videos], [])
    for key, video in zip(rows.keys, videos, strict=True):
        annotations = database[video].get("annotations")
        if not isinstance(annotations, list):
            got = shown(annotations) if "annotations" in database[video] else "nothing"
            problems.add(key, f"expected a list of segments, got {got}")
            annotations = []
        rows.lists.append(annotations)
    return rows


def _without_ambiguous(columns: Columns) -> tuple[Columns, tuple[str, ...]]:
    """Rows without those of `Ambiguous`, which THUMOS14 has for what is no class, and a note on them."""
    is_class = np.array([label.casefold() != _AMBIGUOUS for label in columns.labels], bool)
    if is_class.all():
        return columns, ()
    kept = is_class[columns.class_indices]
    left_out = Columns(
        labels=tuple(label for label, is_kept in zip(columns.labels, is_class.tolist(), strict=True) if is_kept),
        list_indices=columns.list_indices[kept],
        class_indices=(np.cumsum(is_class) - 1)[columns.class_indices[kept]],
        segments_s=columns.segments_s[kept],
        scores=columns.scores,
    )
    return left_out, (f"truth segments marked Ambiguous, which is no class: {np.count_nonzero(~kept)}; left out",)


def _notes_on_ends(columns: Columns, durations_s: list[float | None]) -> tuple[str, ...]:
    """A note on segments that begin before their video or end behind it, by more than rounding."""
    ends_s = np.array([np.inf if duration_s is None else duration_s for duration_s in durations_s], np.float64)
    starts_s, stops_s = columns.segments_s[:, 0], columns.segments_s[:, 1]
    outside = (starts_s < 0) | (stops_s > ends_s[columns.list_indices] + _MAY_END_LATE_S)
    count = np.count_nonzero(outside)
    if not count:
        return ()
    return (f"truth segments outside of their video: {count} of {len(outside)}; they count as the file has them",)


def _truth(
    source: str,
    subset: str | None,
    videos: tuple[str, ...],
    columns: Columns,
    *,
    others: frozenset[str],
    notes: Iterable[str] = (),
) -> Truth:
    if not len(columns.class_indices):
        raise AnnotationError(f"{source}: no annotated segment in subset {subset}; there is nothing to score against")
    lengthless = int(np.count_nonzero(columns.segments_s[:, 0] == columns.segments_s[:, 1]))
    if lengthless:
        notes = (*notes, f"truth segments without length: {lengthless}; no prediction with a length can find them")
    return Truth(
        source=source,
        subset=subset,
        videos=videos,
        labels=columns.labels,
        video_indices=columns.list_indices,
        class_indices=columns.class_indices,
        segments_s=columns.segments_s,
        other_subset_videos=others,
        notes=tuple(notes),
    )


def _read_thumos_folder(folder: Path, *, subset: str | None, defaults: tuple[str, ...]) -> Truth:
    """Read one text file per class; `Ambiguous` is no class, and is skipped as the reference does for scoring."""
    files = {path: match for path in sorted(folder.iterdir()) if (match := _CLASS_FILE.fullmatch(path.name))}
    available = Counter(fold_subset(match["subset"]) for match in files.values())
    if not files:
        raise AnnotationError(f"{folder}: has no files like Diving_test.txt; expected the text folder of THUMOS14")
    problems = Problems(str(folder))
    by_subset: dict[str, dict[str, list[dict[str, Any]]]] = {name: {} for name in available}
    for path, match in files.items():
        if match["label"].casefold() != _AMBIGUOUS:
            _read_class_file(path, match["label"], by_subset[fold_subset(match["subset"])], problems)
    counts: Counter[str | None] = Counter({name: len(videos) for name, videos in by_subset.items()})
    chosen = choose_subset(counts, wanted=subset, defaults=defaults, source=str(folder))
    videos = by_subset.pop(str(chosen))
    problems.raise_if_any()
    columns = to_columns(Rows(list(videos), list(videos.values())), problems, scored=False)
    others = frozenset(composed(video) for found in by_subset.values() for video in found)
    return _truth(str(folder), chosen, composed_names(videos, str(folder)), columns, others=others)


def _read_class_file(path: Path, label: str, videos: dict[str, list[dict[str, Any]]], problems: Problems) -> None:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise AnnotationError(f"{path}: cannot be read as text: {error}") from error
    for place, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        key = f"{path.name}:{place}"
        try:
            video, start_s, end_s = words[0], float(words[1]), float(words[2])
        except (ValueError, IndexError):
            problems.add(key, f"expected `video start end` in seconds, got {shown(line)}")
            continue
        if len(words) != 3 or not np.isfinite([start_s, end_s]).all():
            problems.add(key, f"expected `video start end` in seconds, got {shown(line)}")
        elif end_s < start_s:
            problems.add(key, f"ends at {end_s:g} s, before it starts at {start_s:g} s")
        videos.setdefault(video, []).append({"segment": [start_s, end_s], "label": label})
