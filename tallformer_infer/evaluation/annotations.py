"""Read ground truth, predictions and class scores of a set of videos from files, and align them."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import ALL_ACTIONS, RAW_SCORES
from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels import (
    Annotations,
    LabelledVideo,
    Problems,
    composed,
    composed_names,
    match_video,
    read_annotations,
    read_json_object,
    result_rows,
    shown,
    to_columns,
)
from tallformer_infer.structures import Action

_AMBIGUOUS = "ambiguous"
_MAY_END_LATE_S = 1.0
"""Tolerance for segments that end after their video, in seconds; annotations are rounded."""

SkipReason = Literal["no truth", "other subset", "no annotated segment", "left out"]


@dataclass(frozen=True, kw_only=True)
class Truth:
    """The annotated segments of one subset, one row each, in file order."""

    source: str
    """File or folder, for messages."""
    subset: str | None
    """Subset that the rows belong to; None if the file has no subsets."""
    videos: tuple[str, ...]
    """Every video of the subset, with or without annotated segments; names and labels are composed (NFC)."""
    labels: tuple[str, ...]
    """Classes of the segments, in order of first appearance; each has at least one segment."""
    video_indices: NDArray[np.int64]
    """Index into `videos` of each segment, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Index into `labels` of each segment, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Half-open segments (start, end) in seconds, shape (N, 2)."""
    other_subset_videos: frozenset[str] = frozenset()
    """Videos in other subsets of the file."""
    left_out_videos: frozenset[str] = frozenset()
    """Videos removed by `without`."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""

    def __post_init__(self) -> None:
        _check_rows(self.segments_s, self.video_indices, self.class_indices)

    @staticmethod
    def of(segments: Mapping[str, Sequence[tuple[float, float, str]]], *, source: str = "truth") -> Truth:
        """Create truth from {video: [(start_s, end_s, label), ...]}; a video may have no segments."""
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
        """Copy without `videos` and their segments; a note gives the number of unknown names."""
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
    """Predicted segments, one row each, in file order."""

    source: str
    """File, for messages."""
    videos: tuple[str, ...]
    """Every video in the predictions, with or without a segment; names and labels are composed (NFC)."""
    labels: tuple[str, ...]
    """Classes, in order of first appearance."""
    video_indices: NDArray[np.int64]
    """Index into `videos` of each segment, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Index into `labels` of each segment, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Half-open segments (start, end) in seconds, shape (N, 2)."""
    scores: NDArray[np.float64]
    """Confidence, higher is better, shape (N,)."""
    notes: tuple[str, ...] = ()
    """Notes for the user, one sentence each."""

    def __post_init__(self) -> None:
        _check_rows(self.segments_s, self.video_indices, self.class_indices, self.scores)

    @staticmethod
    def of(actions: Mapping[str, Sequence[Action]], *, source: str = "predictions") -> Predictions:
        """Create predictions from {video: [action, ...]}; a video may have no actions."""
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
        path: ActivityNet-form JSON, or the text folder of THUMOS14, see `read_annotations`.
        subset: Name of the subset; None selects the only one, otherwise the first of `defaults` that exists.
        defaults: Names as returned by `fold_subset`.

    Raises:
        AnnotationError: The file cannot be read, has no such subset, or has malformed segments; one line each.
    """
    problems = Problems(str(path))
    annotations = read_annotations(path, subset=subset, defaults=defaults, problems=problems)
    videos, ambiguous = _without_ambiguous(annotations)
    for segment in (segment for video in videos for segment in video.segments):
        if segment.end_s < segment.start_s:
            problems.add(segment.key, f"ends at {segment.end_s:g} s, before it starts at {segment.start_s:g} s")
    problems.raise_if_any()
    if not any(video.segments for video in videos):
        raise AnnotationError(f"{path}: no annotated segment in subset {annotations.subset}, expected at least one")
    notes = (
        *_note(ambiguous, "truth segments marked Ambiguous, which is not a class: {}; excluded"),
        *_notes_on(videos),
    )
    rows = {video.name: [(row.start_s, row.end_s, row.label) for row in video.segments] for video in videos}
    truth = Truth.of(rows, source=str(path))
    return dataclasses.replace(truth, subset=annotations.subset, other_subset_videos=annotations.others, notes=notes)


def read_predictions(path: Path) -> Predictions:
    """Read predicted segments.

    Args:
        path: `actions.json` from `tallformer detect`, where the name of a video is its file name without folder and
            suffix; or ActivityNet-form JSON, `{"results": {video: [{"segment", "label", "score"}]}}`.

    Raises:
        AnnotationError: The file cannot be read, or has malformed segments; one line each.
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


@dataclass(frozen=True, kw_only=True)
class Origin:
    """How predictions were made by `tallformer detect`, from either output format."""

    bundle_sha256: str
    """Hash of the `bundle.json` of the model."""
    operating_point: str | None
    """Operating point that was applied; None if scores are the model's own."""
    filters: tuple[str, ...]
    """Options that removed actions: `--threshold`, `--top-k`, `--classes`."""


def origin_of(document: dict[str, Any]) -> Origin | None:
    """How the predictions of a document were made; None if the document does not say."""
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
    """How the predictions of a file were made; None if the file does not say, or is not a JSON object."""
    try:
        return origin_of(read_json_object(path))
    except AnnotationError:
        return None


@dataclass(frozen=True)
class ClassScores:
    """Video-level class scores."""

    source: str
    """File, for messages."""
    videos: Mapping[str, Mapping[str, float]]
    """Scores by class name, by video; missing classes have a score of 0."""

    def of(self, video: str) -> Mapping[str, float]:
        """Scores of one video; its name matches with or without a leading `v_`.

        Raises:
            AnnotationError: The file has no scores of this video.
        """
        name = match_video(video, self.videos)
        if name is None:
            raise AnnotationError(f"{self.source}: has no class scores for the video {video}")
        return self.videos[name]


def read_class_scores(path: Path) -> ClassScores:
    """Read class scores of videos.

    Args:
        path: JSON of the form `{"class": [names], "results": {video: [scores]}}`, in which scores of published
            classifiers are distributed (CUHK, UntrimmedNet), or annotations in ActivityNet form, whose classes get a
            score of 1: the result if the classes were known.

    Raises:
        AnnotationError: The file cannot be read, or is inconsistent; the message names the key.
    """
    document = read_json_object(path)
    if "database" in document:
        return ClassScores(str(path), _of_truth(document["database"], path))
    names, results = document.get("class"), document.get("results")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names) or len(set(names)) != len(names):
        raise AnnotationError(f"{path}: class: expected a list of distinct names, got {shown(names)}")
    if not isinstance(results, dict):
        raise AnnotationError(f"{path}: results: expected an object with a key per video, got {shown(results)}")
    return ClassScores(
        str(path),
        {
            composed(video): dict(zip(names, _scores(row, len(names), path, video), strict=True))
            for video, row in results.items()
        },
    )


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """Which videos of the truth's subset and of the predictions were scored, and why others were not."""

    scored: tuple[str, ...]
    """Videos whose predictions count, by their names and in their order in the truth."""
    without_prediction: tuple[str, ...]
    """Those of `scored` that are missing from the predictions; all their truths count as missed."""
    skipped: Mapping[SkipReason, tuple[str, ...]]
    """Videos that do not count. `no truth`: predicted, but not in the truth. `other subset`: predicted, but in another
    subset of the truth. `no annotated segment`: in the subset, but without segments (only if the protocol excludes
    them). `left out`: excluded on request."""


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Predictions that count, with the video and class indices of the truth."""

    video_indices: NDArray[np.int64]
    """Index into `Truth.videos`, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Index into `Truth.labels`, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Start and end in seconds, shape (N, 2)."""
    scores: NDArray[np.float64]
    """Confidence, shape (N,)."""
    videos: VideoReport
    """Which videos were scored."""
    unknown_labels: Mapping[str, int]
    """Number of predictions in scored videos that were dropped because no truth has their label, by label."""


def require_common_videos(predictions: Predictions, truth: Truth) -> None:
    """Check that predictions and truth have a video in common.

    Raises:
        AnnotationError: They have no video in common; the message gives two names of each.
    """
    known = frozenset(truth.videos) | truth.left_out_videos
    if not predictions.videos or any(match_video(video, known) for video in predictions.videos):
        return
    found, expected = (
        ", ".join(videos[:2]) + (", ..." if len(videos) > 2 else "") for videos in (predictions.videos, truth.videos)
    )
    elsewhere = sum(match_video(video, truth.other_subset_videos) is not None for video in predictions.videos)
    hint = f"; {elsewhere} are in another subset, see --subset" if elsewhere else ""
    raise AnnotationError(
        f"{predictions.source} and {truth.source} have no video in common: predictions are for {found}; "
        f"truth is for {expected}{hint}"
    )


def align(predictions: Predictions, truth: Truth, *, empty_videos_count: bool) -> Aligned:
    """Select the predictions that count, in file order.

    Videos match by name, with or without a leading `v_`, as ActivityNet's files use both.

    Args:
        predictions: Predicted segments.
        truth: Annotated segments.
        empty_videos_count: Whether predictions on videos without annotated segments count (as false positives).

    Raises:
        AnnotationError: Two videos of the predictions match the same video of the truth.
    """
    rows = {video: row for row, video in enumerate(truth.videos)}
    matched = {video: match_video(video, rows) for video in predictions.videos}
    _refuse_doubles(matched, predictions.source, truth.source)
    counts_at_all = np.full(len(truth.videos), empty_videos_count)
    counts_at_all[truth.video_indices] = True

    video_rows = np.array([-1 if name is None else rows[name] for name in matched.values()], np.int64)
    video_rows[(video_rows >= 0) & ~counts_at_all[video_rows]] = -1
    classes = {label: row for row, label in enumerate(truth.labels)}
    class_rows = np.array([classes.get(label, -1) for label in predictions.labels], np.int64)

    video_indices = video_rows[predictions.video_indices]
    class_indices = class_rows[predictions.class_indices]
    kept = (video_indices >= 0) & (class_indices >= 0)
    unknown = predictions.class_indices[(video_indices >= 0) & (class_indices < 0)]
    return Aligned(
        video_indices=video_indices[kept],
        class_indices=class_indices[kept],
        segments_s=predictions.segments_s[kept],
        scores=predictions.scores[kept],
        videos=_report(matched, truth, counts_at_all),
        unknown_labels={predictions.labels[row]: count for row, count in sorted(Counter(unknown.tolist()).items())},
    )


def _without_ambiguous(annotations: Annotations) -> tuple[list[LabelledVideo], int]:
    """Remove segments labelled `Ambiguous`, which THUMOS14 uses for unclear actions; return videos and their number."""
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
    outside_of = f"truth segments outside their video: {{}} of {len(segments)}; used unchanged"
    without_length = "truth segments of zero length: {}; no prediction longer than zero can match them"
    return (*_note(outside, outside_of), *_note(lengthless, without_length))


def _note(count: int, text: str) -> tuple[str, ...]:
    return (text.format(count),) if count else ()


def _notes_of(document: dict[str, Any]) -> tuple[str, ...]:
    """Warnings from `actions.json`: an untrained model, an operating point, videos that could not be read."""
    model, failures = document.get("model"), document.get("failures")
    notes = []
    if isinstance(model, dict) and model.get("trained") is False:
        notes.append(f"the predictions are from the untrained model {model.get('name')} and are meaningless")
    origin = origin_of(document)
    if origin is not None and origin.operating_point not in (None, ALL_ACTIONS):
        notes.append(
            f"the predictions were filtered by operating point {origin.operating_point}, but mAP also counts "
            f"low-scored ones: for mAP, detect with --operating-point {RAW_SCORES}"
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


def _refuse_doubles(matched: dict[str, str | None], predictions_source: str, truth_source: str) -> None:
    first: dict[str, str] = {}
    for video, name in matched.items():
        if name is not None and first.setdefault(name, video) != video:
            raise AnnotationError(
                f"{predictions_source}: {first[name]} and {video} are both the video {name} of {truth_source}; keep one"
            )


def _report(matched: dict[str, str | None], truth: Truth, counts_at_all: NDArray[np.bool_]) -> VideoReport:
    predicted = set(matched.values())
    scored = tuple(video for video, counts in zip(truth.videos, counts_at_all.tolist(), strict=True) if counts)
    empty = tuple(video for video, counts in zip(truth.videos, counts_at_all.tolist(), strict=True) if not counts)
    annotated = {truth.videos[row] for row in np.unique(truth.video_indices).tolist()}
    unmatched = [
        name for name, match in matched.items() if match is None and not match_video(name, truth.left_out_videos)
    ]
    elsewhere = {name for name in unmatched if match_video(name, truth.other_subset_videos)}
    skipped: dict[SkipReason, tuple[str, ...]] = {
        "no truth": tuple(name for name in unmatched if name not in elsewhere),
        "other subset": tuple(name for name in unmatched if name in elsewhere),
        "no annotated segment": empty,
        "left out": tuple(sorted(truth.left_out_videos)),
    }
    return VideoReport(
        scored=scored,
        without_prediction=tuple(video for video in scored if video in annotated and video not in predicted),
        skipped=skipped,
    )


def _scores(row: Any, count: int, path: Path, video: str) -> list[float]:
    if not isinstance(row, list) or len(row) != count:
        raise AnnotationError(f"{path}: results.{video}: expected {count} scores, one per class, got {shown(row)}")
    for score in row:
        if isinstance(score, bool) or not isinstance(score, (int, float)) or not 0 <= score < math.inf:
            raise AnnotationError(f"{path}: results.{video}: expected scores from 0 on, got {shown(score)}")
    return [float(score) for score in row]


def _of_truth(database: Any, path: Path) -> dict[str, dict[str, float]]:
    if not isinstance(database, dict):
        raise AnnotationError(f"{path}: database: expected an object with a key per video, got {shown(database)}")
    found: dict[str, dict[str, float]] = {}
    for video, entry in database.items():
        try:
            found[composed(video)] = {str(annotation["label"]): 1.0 for annotation in entry["annotations"]}
        except (TypeError, KeyError) as error:
            raise AnnotationError(
                f'{path}: database.{video}: expected "annotations" with a "label" each, got {shown(entry)}'
            ) from error
    return found
