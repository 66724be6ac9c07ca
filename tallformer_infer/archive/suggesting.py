"""Select the videos of an archive to label next: unlike labelled ones, and with uncertain actions.

Note [value of a video]
    Distances are between mean features, and s is the median distance of two videos of the archive, which is robust to
    outliers. `novelty` is d / (d + s), with d the distance to the nearest labelled or suggested video (if there is
    none: to the median feature of the archive). `uncertainty` is the mean of 1 - |2 * score - 1| over a video's
    actions: 1 if all have a score of 0.5, 0 if there are none. The value is novelty * (1 + uncertainty) / 2. The best
    video is suggested and then counts as labelled, and so on; a video closer than a tenth of s to a labelled or
    suggested one counts as its copy and is not suggested.
    Source: greedy k-center as in Sener and Savarese, Active Learning for CNNs: A Core-Set Approach (ICLR 2018),
    section 4.3; the weight by uncertainty is ours.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.archive.database import ArchiveDatabase, VideoRow
from tallformer_infer.archive.stages import storage_key
from tallformer_infer.archive.store import FeatureStore
from tallformer_infer.errors import ArchiveError
from tallformer_infer.labels import bare_name_of, match_video
from tallformer_infer.structures import Action

_SAME = 0.1
"""Fraction of the median distance within which two videos count as copies: another codec, a second take."""

_COMPARED = 1000
"""Maximum number of videos for computing the median distance."""


@dataclass(frozen=True, kw_only=True)
class Suggestion:
    """A video to label, see Note [value of a video]."""

    source: str
    """Absolute path or address."""
    duration_s: float
    """Duration, in seconds."""
    value: float
    """Value for labelling, in [0, 1]."""
    novelty: float
    """Novelty compared with labelled and suggested videos, in [0, 1)."""
    nearest: str | None
    """The nearest of these; None for the first suggestion if nothing is labelled."""
    uncertainty: float
    """Uncertainty of its actions, in [0, 1]."""
    actions: int
    """Number of its actions."""
    doubtful: Action | None
    """The action with the score closest to 0.5; None if there are no actions."""


@dataclass(frozen=True, kw_only=True)
class Suggestions:
    """What to label next."""

    videos: tuple[Suggestion, ...]
    """The most valuable first."""
    candidates: int
    """Number of videos considered."""
    labelled: int
    """Number of labelled videos in the archive."""
    without_features: int
    """Number of finished videos without stored features, which are not considered."""


def suggest_next(
    database: ArchiveDatabase, store: FeatureStore, *, labelled: Container[str], count: int
) -> Suggestions:
    """Choose the videos to label next. Nothing is written.

    Args:
        database: The archive.
        store: Features of its videos.
        labelled: Names of labelled videos, for `match_video`.
        count: Maximum number of videos; fewer if all others are copies.

    Raises:
        ArchiveError: No features are stored, or they are of several models.
    """
    done = database.videos("done")
    if len({row.encoder_hash for row in done}) > 1:
        raise ArchiveError(
            f"{database.path.parent}: has features of several models; label all with one: `tallformer label`"
        )
    known = _features_of(done, store)
    rows = [row for row in done if row.content in known]
    if not rows:
        raise ArchiveError(
            f"{database.path.parent}: has no stored features; run `tallformer label` again (without --store-gb 0), or "
            "name their folder with --store"
        )
    features = np.stack([known[row.content or ""] for row in rows])
    is_labelled = np.array([match_video(bare_name_of(row.source), labelled) is not None for row in rows])
    actions = [database.actions_of(row.id) for row in rows]
    doubt = np.array([uncertainty(found) for found in actions])
    chosen = choose(features, doubt, is_labelled, count)
    videos = tuple(_described(rows, actions, float(doubt[one.row]), one) for one in chosen)
    return Suggestions(
        videos=videos,
        candidates=int(np.count_nonzero(~is_labelled)),
        labelled=int(np.count_nonzero(is_labelled)),
        without_features=len(done) - len(rows),
    )


@dataclass(frozen=True)
class Choice:
    """A chosen video."""

    row: int
    """Row of its features."""
    value: float
    """See Note [value of a video]."""
    novelty: float
    """See Note [value of a video]."""
    nearest: int | None
    """Row of the nearest labelled or chosen video."""


def choose(
    features: NDArray[np.float32], doubt: NDArray[np.float64], is_labelled: NDArray[np.bool_], count: int
) -> list[Choice]:
    """Rows to label next, by decreasing value, the earlier one first among equals; see Note [value of a video].

    Args:
        features: Mean feature of each video, shape (N, C).
        doubt: Uncertainty of each, in [0, 1], shape (N,).
        is_labelled: Which are labelled, shape (N,).
        count: Maximum number of rows.
    """
    to_middle = _distances(features, np.median(features, axis=0))
    usual = _usual_distance(features)
    distance, nearest = np.full(len(features), np.inf), np.full(len(features), -1)
    for row in np.flatnonzero(is_labelled).tolist():
        _approach(features, row, distance, nearest)
    free, chosen = ~is_labelled, list[Choice]()
    while len(chosen) < count:
        has_others = bool(is_labelled.any() or chosen)
        apart = distance if has_others else to_middle
        novelty = apart / (apart + usual)
        wanted = free & (distance > _SAME * usual)
        if not wanted.any():
            break
        value = np.where(wanted, novelty * (1 + doubt) / 2, -1.0)
        row = int(value.argmax())
        chosen.append(Choice(row, float(value[row]), float(novelty[row]), int(nearest[row]) if has_others else None))
        free[row] = False
        _approach(features, row, distance, nearest)
    return chosen


def uncertainty(actions: tuple[Action, ...]) -> float:
    """Uncertainty of the actions of a video, in [0, 1], see Note [value of a video]."""
    if not actions:
        return 0.0
    return float(np.mean([1 - abs(2 * action.score - 1) for action in actions]))


def _features_of(rows: list[VideoRow], store: FeatureStore) -> dict[str, NDArray[np.float32]]:
    """Mean feature of every content with stored features, shape (C,)."""
    found: dict[str, NDArray[np.float32]] = {}
    for row in rows:
        if row.content is None or row.encoder_hash is None or row.content in found:
            continue
        mean = store.mean_features(storage_key(row.content, row.encoder_hash))
        if mean is not None:
            found[row.content] = mean
    return found


def _distances(features: NDArray[np.float32], point: NDArray[np.float32]) -> NDArray[np.float64]:
    found: NDArray[np.float64] = np.linalg.norm(features - point, axis=1).astype(np.float64)
    return found


def _usual_distance(features: NDArray[np.float32]) -> float:
    """Median distance of two videos, computed on evenly spaced rows; above 0."""
    some = features[:: -(-len(features) // _COMPARED)].astype(np.float64)
    some -= some.mean(axis=0)
    squares = (some**2).sum(axis=1)
    pairs = np.triu_indices(len(some), k=1)
    apart = np.sqrt(np.maximum(squares[:, None] + squares - 2 * some @ some.T, 0)[pairs])
    # If most videos are copies of one another the median is 0; if all are, the value does not matter.
    return (float(np.median(apart)) or float(apart.mean()) or 1.0) if len(apart) else 1.0


def _approach(
    features: NDArray[np.float32], row: int, distance: NDArray[np.float64], nearest: NDArray[np.intp]
) -> None:
    """Update distances after a row was labelled."""
    found = _distances(features, features[row])
    closer = found < distance
    distance[closer], nearest[closer] = found[closer], row


def _described(rows: list[VideoRow], actions: list[tuple[Action, ...]], doubt: float, chosen: Choice) -> Suggestion:
    row, found = rows[chosen.row], actions[chosen.row]
    return Suggestion(
        source=row.source,
        duration_s=row.duration_s or 0.0,
        value=chosen.value,
        novelty=chosen.novelty,
        nearest=None if chosen.nearest is None else rows[chosen.nearest].source,
        uncertainty=doubt,
        actions=len(found),
        doubtful=min(found, key=lambda action: abs(action.score - 0.5), default=None),
    )
