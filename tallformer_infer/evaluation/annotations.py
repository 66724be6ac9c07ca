"""Truth and predictions of a set of videos, as flat arrays, and how they are read from files."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import ALL_ACTIONS, RAW_SCORES
from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels.activitynet import result_rows
from tallformer_infer.labels.columns import to_columns
from tallformer_infer.labels.files import Problems, read_json_object
from tallformer_infer.labels.names import composed, composed_names, match_video
from tallformer_infer.labels.segments import LabelledVideo
from tallformer_infer.labels.truth import Annotations, read_annotations
from tallformer_infer.structures import Action

_AMBIGUOUS = "ambiguous"
_MAY_END_LATE_S = 1.0
"""How far behind the end of its video a segment may end without a note; annotations are rounded."""


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The annotated segments of one subset; one row each, in the order of the file."""

    source: str
    """File or folder, for messages."""
    subset: str | None
    """Subset the rows were taken from; None where the file names no subsets."""
    videos: tuple[str, ...]
    """Every video of the subset, with or without annotated segments; names and labels are composed (NFC)."""
    labels: tuple[str, ...]
    """Classes of the segments, in the order of their first appearance; each has at least one segment."""
    video_indices: NDArray[np.int64]
    """Row of `videos` of each segment, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Row of `labels` of each segment, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Half-open segments (start, end) in seconds, shape (N, 2)."""
    other_subset_videos: frozenset[str] = frozenset()
    """Videos that the file has in other subsets."""
    left_out_videos: frozenset[str] = frozenset()
    """Videos that were taken out by `without`."""
    notes: tuple[str, ...] = ()
    """What a reader should know, one sentence each."""

    def __post_init__(self) -> None:
        _check_rows(self.segments_s, self.video_indices, self.class_indices)

    @staticmethod
    def of(segments: Mapping[str, Sequence[tuple[float, float, str]]], *, source: str = "truth") -> Truth:
        """Truth from {video: [(start_s, end_s, label), ...]}; a video may have no segment."""
        labels: dict[str, int] = {}
        rows = [(video, *row) for video, (_, found) in enumerate(segments.items()) for row in found]
        return Truth(
            source=source,
            subset=None,
            videos=composed_names(segments, source),
            video_indices=np.array([row[0] for row in rows], np.int64),
            class_indices=np.array([labels.setdefault(composed(row[3]), len(labels)) for row in rows], np.int64),
            segments_s=np.array([row[1:3] for row in rows], np.float64).reshape(-1, 2),
            labels=tuple(labels),
        )

    def without(self, videos: Collection[str]) -> Truth:
        """The same truth without `videos` and their segments; a note counts the names that it does not have."""
        matched = {match_video(video, self.videos) for video in videos}
        left_out = matched - {None}
        unknown = sum(match_video(video, self.videos) is None for video in videos)
        note = (f"videos to leave out that are not in the subset: {unknown} of {len(videos)}",) if unknown else ()
        kept = [row for row, video in enumerate(self.videos) if video not in left_out]
        new_row = np.full(len(self.videos), -1, np.int64)
        new_row[kept] = np.arange(len(kept))
        rows = new_row[self.video_indices] >= 0
        classes, class_indices = np.unique(self.class_indices[rows], return_inverse=True)
        return dataclasses.replace(
            self,
            videos=tuple(self.videos[row] for row in kept),
            labels=tuple(self.labels[row] for row in classes.tolist()),
            video_indices=new_row[self.video_indices][rows],
            class_indices=class_indices.astype(np.int64),
            segments_s=self.segments_s[rows],
            left_out_videos=self.left_out_videos.union(video for video in left_out if video is not None),
            notes=self.notes + note,
        )


@dataclass(frozen=True, kw_only=True)
class Predictions:
    """Predicted segments; one row each, in the order of the file."""

    source: str
    """File, for messages."""
    videos: tuple[str, ...]
    """Every video that was predicted on, with or without a segment; names and labels are composed (NFC)."""
    labels: tuple[str, ...]
    """Classes, in the order of their first appearance."""
    video_indices: NDArray[np.int64]
    """Row of `videos` of each segment, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Row of `labels` of each segment, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Half-open segments (start, end) in seconds, shape (N, 2)."""
    scores: NDArray[np.float64]
    """Confidence, higher is better, shape (N,)."""
    notes: tuple[str, ...] = ()
    """What a reader should know, one sentence each."""

    def __post_init__(self) -> None:
        _check_rows(self.segments_s, self.video_indices, self.class_indices, self.scores)

    @staticmethod
    def of(actions: Mapping[str, Sequence[Action]], *, source: str = "predictions") -> Predictions:
        """Predictions from {video: [action, ...]}; a video may have no action."""
        labels: dict[str, int] = {}
        rows = [(video, action) for video, (_, found) in enumerate(actions.items()) for action in found]
        return Predictions(
            source=source,
            videos=composed_names(actions, source),
            video_indices=np.array([video for video, _ in rows], np.int64),
            class_indices=np.array(
                [labels.setdefault(composed(action.label), len(labels)) for _, action in rows], np.int64
            ),
            segments_s=np.array([(action.start_s, action.end_s) for _, action in rows], np.float64).reshape(-1, 2),
            scores=np.array([action.score for _, action in rows], np.float64),
            labels=tuple(labels),
        )

    def __len__(self) -> int:
        return len(self.scores)


def read_truth(path: Path, *, subset: str | None, defaults: tuple[str, ...]) -> Truth:
    """Read the annotated segments of one subset.

    Args:
        path: As `read_annotations` takes it: ActivityNet-form JSON, or the text folder of THUMOS14.
        subset: Name of the subset; None takes the only one there is, or else the first of `defaults` that there is.
        defaults: Names as `fold_subset` writes them.

    Raises:
        AnnotationError: The file cannot be read, has no such subset, or has wrong segments in it; one line each.
    """
    problems = Problems(str(path))
    annotations = read_annotations(path, subset=subset, defaults=defaults, problems=problems)
    videos, ambiguous = _without_ambiguous(annotations)
    for segment in (segment for video in videos for segment in video.segments):
        if segment.end_s < segment.start_s:
            problems.add(segment.key, f"ends at {segment.end_s:g} s, before it starts at {segment.start_s:g} s")
    problems.raise_if_any()
    if not any(video.segments for video in videos):
        raise AnnotationError(
            f"{path}: no annotated segment in subset {annotations.subset}; there is nothing to score against"
        )
    notes = (*_note(ambiguous, "truth segments marked Ambiguous, which is no class: {}; left out"), *_notes_on(videos))
    rows = {video.name: [(row.start_s, row.end_s, row.label) for row in video.segments] for video in videos}
    truth = Truth.of(rows, source=str(path))
    return dataclasses.replace(truth, subset=annotations.subset, other_subset_videos=annotations.others, notes=notes)


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
    names, rows = result_rows(document, problems, path)
    columns = to_columns(rows, problems)
    problems.raise_if_any()
    return Predictions(
        source=str(path),
        videos=composed_names(names, str(path)),
        labels=columns.labels,
        video_indices=columns.list_indices,
        class_indices=columns.class_indices,
        segments_s=columns.segments_s,
        scores=columns.scores,
        notes=_notes_of(document),
    )


def _without_ambiguous(annotations: Annotations) -> tuple[list[LabelledVideo], int]:
    """Videos without segments of `Ambiguous`, which THUMOS14 has for what is no class, and how many these were."""
    videos, count = [], 0
    for video in annotations.videos:
        kept = tuple(segment for segment in video.segments if segment.label.casefold() != _AMBIGUOUS)
        count += len(video.segments) - len(kept)
        if kept or not annotations.is_folder:
            videos.append(dataclasses.replace(video, segments=kept))
    return videos, count


def _notes_on(videos: Sequence[LabelledVideo]) -> tuple[str, ...]:
    segments = [segment for video in videos for segment in video.segments]
    outside = sum(
        segment.start_s < 0 or (video.duration_s is not None and segment.end_s > video.duration_s + _MAY_END_LATE_S)
        for video in videos
        for segment in video.segments
    )
    lengthless = sum(segment.start_s == segment.end_s for segment in segments)
    outside_of = f"truth segments outside of their video: {{}} of {len(segments)}; they count as the file has them"
    without_length = "truth segments without length: {}; no prediction with a length can find them"
    return (*_note(outside, outside_of), *_note(lengthless, without_length))


def _note(count: int, text: str) -> tuple[str, ...]:
    return (text.format(count),) if count else ()


def _notes_of(document: dict[str, Any]) -> tuple[str, ...]:
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


def _check_rows(segments_s: NDArray[np.float64], *columns: NDArray[np.int64] | NDArray[np.float64]) -> None:
    rows = len(segments_s)
    if segments_s.shape != (rows, 2) or any(column.shape != (rows,) for column in columns):
        raise ValueError(
            f"expected segments (N, 2) and columns (N,), got {segments_s.shape = }, {[c.shape for c in columns]}"
        )


@dataclass(frozen=True, kw_only=True)
class Origin:
    """Of predictions that `tallformer detect` wrote, in either dialect."""

    bundle_sha256: str
    """Hash of the `bundle.json` of the model."""
    operating_point: str | None
    """Point that decided which actions were kept; None where scores are the model's own."""
    filters: tuple[str, ...]
    """Options that left actions out: `--threshold`, `--top-k`, `--classes`."""


def origin_of(document: dict[str, Any]) -> Origin | None:
    """How the predictions of a document were made; None where it does not say."""
    run = document.get("external_data", document)
    settings = run.get("settings") if isinstance(run, dict) else None
    if not isinstance(settings, dict) or not isinstance(run.get("bundle_sha256"), str):
        return None
    filters = [
        f"--{key.replace('_', '-')}" for key in ("threshold", "top_k", "classes") if settings.get(key) is not None
    ]
    point = settings.get("operating_point")
    return Origin(
        bundle_sha256=run["bundle_sha256"],
        operating_point=point if isinstance(point, str) else None,
        filters=tuple(filters),
    )


def read_origin(path: Path) -> Origin | None:
    """How the predictions of a file were made; None where it does not say, or is no JSON object."""
    try:
        return origin_of(read_json_object(path))
    except AnnotationError:
        return None
