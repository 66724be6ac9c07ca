"""Truth and predictions of a set of videos, as flat arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.evaluation.video_names import composed, composed_names, match_video
from tallformer_infer.structures import Action

Segment = tuple[float, float, str]
"""Start in seconds, end in seconds, label."""


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
    def of(segments: Mapping[str, Sequence[Segment]], *, source: str = "truth") -> Truth:
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


def _check_rows(segments_s: NDArray[np.float64], *columns: NDArray[np.int64] | NDArray[np.float64]) -> None:
    rows = len(segments_s)
    if segments_s.shape != (rows, 2) or any(column.shape != (rows,) for column in columns):
        raise ValueError(
            f"expected segments (N, 2) and columns (N,), got {segments_s.shape = }, {[c.shape for c in columns]}"
        )
