"""Which predictions are scored against which truth, and what is left out and why."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.annotations import Predictions, Truth
from tallformer_infer.labels.names import match_video

SkipReason = Literal["no truth", "other subset", "no annotated segment", "left out"]


@dataclass(frozen=True, kw_only=True)
class VideoReport:
    """What became of every video of the truth's subset and of the predictions."""

    scored: tuple[str, ...]
    """Videos whose predictions count, by their name in the truth, in its order."""
    without_prediction: tuple[str, ...]
    """Those of `scored` that the predictions do not have at all; every truth in them counts as missed."""
    skipped: Mapping[SkipReason, tuple[str, ...]]
    """Videos that do not count. `no truth`: predicted, but not in the truth. `other subset`: predicted, but the truth
    has them in another subset. `no annotated segment`: in the subset, but with nothing to find (only where the protocol
    leaves them out). `left out`: taken out on request."""


@dataclass(frozen=True, kw_only=True)
class Aligned:
    """Predictions that count, in the rows of the truth."""

    video_indices: NDArray[np.int64]
    """Row of `Truth.videos`, shape (N,)."""
    class_indices: NDArray[np.int64]
    """Row of `Truth.labels`, shape (N,)."""
    segments_s: NDArray[np.float64]
    """Start and end in seconds, shape (N, 2)."""
    scores: NDArray[np.float64]
    """Shape (N,)."""
    videos: VideoReport
    """What became of every video."""
    unknown_labels: Mapping[str, int]
    """Predictions in scored videos that were dropped because no truth has their label, per label."""


def require_common_videos(predictions: Predictions, truth: Truth) -> None:
    """Refuse predictions and truth that were not made for one another.

    Raises:
        AnnotationError: They have no video in common; the message has two names of each.
    """
    known = frozenset(truth.videos) | truth.left_out_videos
    if not predictions.videos or any(match_video(video, known) for video in predictions.videos):
        return
    found, expected = (
        ", ".join(videos[:2]) + (", ..." if len(videos) > 2 else "") for videos in (predictions.videos, truth.videos)
    )
    elsewhere = sum(match_video(video, truth.other_subset_videos) is not None for video in predictions.videos)
    hint = f"; {elsewhere} are in another subset, which --subset chooses" if elsewhere else ""
    raise AnnotationError(
        f"{predictions.source} and {truth.source} have no video in common: predictions are of {found}; "
        f"truth is of {expected}{hint}"
    )


def align(predictions: Predictions, truth: Truth, *, empty_videos_count: bool) -> Aligned:
    """Keep the predictions that count, in the order of the file.

    Videos match by name, with or without a leading `v_`, as ActivityNet's files have it both ways.

    Args:
        predictions: What was predicted.
        truth: What there is.
        empty_videos_count: True where predictions on videos without annotated segments count (as false positives).

    Raises:
        AnnotationError: Two videos of the predictions are the same video of the truth.
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
