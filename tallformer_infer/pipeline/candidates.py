"""Candidates of a video: localizers, class scores, and which candidates are final.

Note [where classes come from]
    By default the graphs classify every segment. For proposal models (head `refined`) there are two alternatives: a
    file with video-level class scores, and the order of the official code (`windows=reference`), which suppresses
    proposals before they get classes. In both, the localizer returns proposals, stored as candidates of one class, and
    classes are added later: other class scores then need neither the videos nor the localizer.

# Note [which rate answers for what]
A lower rate sees less of short actions, and its boundaries are coarser. It is responsible for actions that windows of
the next higher rate may cut: those longer than the overlap of two neighbouring windows, as shorter ones are complete in
one of them. A rate also detects pieces of the actions that its windows cut, which suppression does not remove, as they
overlap the complete action too little. If a lower rate follows, a rate is therefore only responsible for actions of up
to half a window. Measured on generated videos, see `docs/demo.md`.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import Recipe, RefinedHeadConfig, WindowConfig
from tallformer_infer.errors import ConfigError
from tallformer_infer.nms import proposals_with_classes, reference_actions, without_class
from tallformer_infer.runtime import ProposingRuntime, Runtime, WindowBatch
from tallformer_infer.structures import Candidates, Proposals, Windows
from tallformer_infer.timeline import FeatureWindow

OwnScores = NDArray[np.float32]
"""Video-level class scores of the model, background first, shape (1 + K,)."""


def localizer_of(
    recipe: Recipe, runtime: Runtime, windows: Windows, *, has_scores: bool, scores: Mapping[str, float] | None = None
) -> Localizer | ProposingLocalizer:
    """Create the localizer of a run.

    Args:
        recipe: Recipe of the model.
        runtime: Runs its graphs.
        windows: `reference` follows the official code.
        has_scores: Whether class scores come from a file.
        scores: Class scores of this video from that file, by name; None if they are applied later.

    Raises:
        ConfigError: Class scores are given for a model without proposals, or the runtime cannot return proposals.
    """
    is_refined = isinstance(recipe.model.head, RefinedHeadConfig)
    if has_scores:
        check_takes_scores(recipe)
    if not is_refined or not (has_scores or windows == "reference"):
        return Localizer(runtime)
    if not isinstance(runtime, ProposingRuntime):
        raise ConfigError(f"{runtime.name} cannot return proposals without classes; use another runtime")
    return ProposingLocalizer(runtime, recipe, scores, is_reference=windows == "reference")


class Localizer:
    """Localizer whose graph classifies every segment: windows to candidates."""

    gives_classes = True
    own_scores: OwnScores | None = None

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def localize(self, window: FeatureWindow) -> Candidates:
        """Candidates of one window."""
        return self._runtime.localize(_batch(window, window.real_frames))


class ProposingLocalizer:
    """Localizer that returns proposals, see Note [where classes come from]; classified at once if scores are given."""

    def __init__(
        self, runtime: ProposingRuntime, recipe: Recipe, scores: Mapping[str, float] | None, *, is_reference: bool
    ) -> None:
        self._runtime = runtime
        self._recipe = recipe
        self._scores = None if is_reference else scores
        self._is_reference = is_reference
        self.gives_classes = self._scores is not None
        """Whether candidates have classes; if not, all have the same one."""
        self.own_scores: OwnScores | None = np.zeros(1 + len(recipe.classes), np.float32) if is_reference else None
        """Video-level class scores of the model, with `windows=reference`."""

    def localize(self, window: FeatureWindow) -> Candidates:
        """Proposals or candidates of one window."""
        # The official code limits proposals to the padded window, and to the video only after suppression.
        real_frames = self._recipe.window.window_frames if self._is_reference else window.real_frames
        proposals = self._runtime.propose(_batch(window, real_frames))
        if self._is_reference:
            self.own_scores = proposals.class_scores
        found = without_class(proposals)
        return found if self._scores is None else classify(found, self._recipe, self._scores)


def _batch(window: FeatureWindow, real_frames: int) -> WindowBatch:
    return WindowBatch(
        window.features[None], np.array([window.start_frame], np.int64), np.array([real_frames], np.int64)
    )


def check_takes_scores(recipe: Recipe) -> None:
    """Check that the model can use video-level class scores.

    Raises:
        ConfigError: It scores every segment itself.
    """
    if not isinstance(recipe.model.head, RefinedHeadConfig):
        raise ConfigError(
            f"recipe {recipe.name}: class scores of videos are for models with head.kind=refined; this one scores "
            "every segment itself"
        )


def classify(proposals: Candidates, recipe: Recipe, scores: Mapping[str, float]) -> Candidates:
    """Candidates of a video from its proposals and video-level class scores, above the recipe's minimum score.

    Args:
        proposals: Proposals of all windows, from a `ProposingLocalizer`.
        recipe: Recipe of the model.
        scores: Class scores of the video, by name.

    Raises:
        ConfigError: A name is not a class of the model.
    """
    nothing = np.zeros(0, np.float32)
    found = proposals_with_classes(
        Proposals(proposals.segments_frames, proposals.scores, nothing),
        scores_by_class(scores, recipe.classes),
        most_classes=_most_classes(recipe),
    )
    return found.take(found.scores > recipe.suppress.score_threshold)


def reference_candidates(
    proposals: Candidates, recipe: Recipe, own: OwnScores, scores: Mapping[str, float] | None, *, frames: int
) -> Candidates:
    """Candidates of a video as in the official code: suppress proposals, then classify the remaining ones.

    Args:
        proposals: Proposals of all windows.
        recipe: Recipe of the model.
        own: Video-level class scores of the model.
        scores: Class scores from a file, by name; None uses those of the model.
        frames: Number of frames of the video.
    """
    chosen = own
    if scores is not None:
        chosen = np.concatenate([[np.float32(-np.inf)], scores_by_class(scores, recipe.classes)])
    found = reference_actions(proposals, chosen, recipe.suppress, most_classes=_most_classes(recipe))
    inside = np.clip(found.segments_frames, 0, frames)
    return Candidates(inside, found.scores, found.classes).take(inside[:, 1] > inside[:, 0])


def scores_by_class(scores: Mapping[str, float], classes: tuple[str, ...]) -> NDArray[np.float32]:
    """Scores in the order of the model's classes, shape (K,); missing ones are 0.

    Raises:
        ConfigError: A name is not a class of the model.
    """
    unknown = [name for name in scores if name not in classes]
    if unknown:
        near = difflib.get_close_matches(unknown[0], classes, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"class scores: the model has no class {unknown[0]!r}{hint}")
    return np.array([scores.get(name, 0.0) for name in classes], np.float32)


def _most_classes(recipe: Recipe) -> int:
    assert isinstance(recipe.model.head, RefinedHeadConfig), "see `localizer_of`"
    return recipe.model.head.classes_per_proposal


def length_ranges(window: WindowConfig, step_frames: int, factors: tuple[int, ...]) -> dict[int, tuple[float, float]]:
    """Length range of the candidates kept at each factor, in frames; see Note [which rate answers for what].

    Args:
        window: Window config.
        step_frames: Frames between the starts of windows.
        factors: Subsampling factors, increasing.
    """
    shared_frames = window.window_frames - step_frames
    half_frames = max(window.window_frames / 2, shared_frames)  # the ranges must cover all lengths
    shortest = [0.0, *(float(factor * shared_frames) for factor in factors[:-1])]
    longest = [*(factor * half_frames for factor in factors[:-1]), math.inf]
    return dict(zip(factors, zip(shortest, longest, strict=True), strict=True))


def in_video_frames(
    candidates: Candidates, factor: int, *, lengths_frames: tuple[float, float], frames: int
) -> Candidates:
    """Convert candidates of a window to frames of the video, and drop those that another rate is responsible for.

    Args:
        candidates: Candidates, in frames of the window's rate.
        factor: Frames of the video per frame of the window.
        lengths_frames: Shortest and longest length kept, in frames of the video.
        frames: Frames of the video so far; a window of a lower rate may end up to `factor` frames later.
    """
    segments = candidates.segments_frames
    if factor > 1:
        segments = np.minimum(segments * np.float32(factor), np.float32(frames))
    scaled = Candidates(segments, candidates.scores, candidates.classes)
    lengths = segments[:, 1] - segments[:, 0]
    return scaled.take((lengths >= lengths_frames[0]) & (lengths <= lengths_frames[1]))


class CandidatePool:
    """Collects candidates and keeps the best `limit` of them.

    A trained model has a few candidates per second above its score threshold and never reaches the limit. It bounds
    memory for random weights, a threshold near 0, or a day of video.
    """

    def __init__(self, limit: int | None) -> None:
        """Start empty; a `limit` of None keeps all."""
        self._limit = limit
        self._parts: list[Candidates] = []
        self._count = 0

    def add(self, candidates: Candidates) -> None:
        """Append candidates."""
        self._parts.append(candidates)
        self._count += len(candidates)
        if self._limit is not None and self._count > 2 * self._limit:
            self.replace(best_candidates(Candidates.concatenate(self._parts), self._limit))

    def all(self) -> Candidates:
        """The best candidates, in the order in which they were added."""
        candidates = Candidates.concatenate(self._parts)
        return best_candidates(candidates, self._limit)

    def replace(self, candidates: Candidates) -> None:
        """Replace the content of the pool."""
        self._parts = [candidates]
        self._count = len(candidates)


class CandidatePools:
    """One pool per rate, so that no rate crowds out another."""

    def __init__(self, limit: int | None, factors: tuple[int, ...]) -> None:
        """Start empty; `limit` applies to each pool."""
        self._pools = {factor: CandidatePool(limit) for factor in factors}

    def add(self, factor: int, candidates: Candidates) -> None:
        """Append candidates of a rate, in frames of the video."""
        self._pools[factor].add(candidates)

    def all(self) -> Candidates:
        """The best candidates of every rate, one rate after another."""
        return Candidates.concatenate([pool.all() for pool in self._pools.values()])

    def take_settled(self, next_start_frame: float) -> Candidates:
        """Remove and return the final candidates, see `are_settled`."""
        parts = [pool.all() for pool in self._pools.values()]
        candidates = Candidates.concatenate(parts)
        settled = are_settled(candidates, next_start_frame)
        ends = np.cumsum([len(part) for part in parts])
        for pool, part, own in zip(self._pools.values(), parts, np.split(settled, ends[:-1]), strict=True):
            pool.replace(part.take(~own))
        return candidates.take(settled)


def best_candidates(candidates: Candidates, limit: int | None) -> Candidates:
    """The `limit` highest-scored candidates (earlier ones first among equals), in input order; None keeps all."""
    if limit is None or len(candidates) <= limit:
        return candidates
    order = np.argsort(-candidates.scores, kind="stable")[:limit]
    return candidates.take(np.sort(order))


def are_settled(candidates: Candidates, next_start_frame: float) -> NDArray[np.bool_]:
    """Mask of candidates whose suppression is final.

    Suppression acts between overlapping candidates of one class, and along chains of them. A chain that ends at or
    before the start of the next window cannot overlap a later candidate, since those start there or after it.

    Args:
        candidates: All candidates that are not final yet.
        next_start_frame: Start of the next window; infinite after the last.

    Returns:
        Mask, shape (N,).
    """
    if len(candidates) == 0:
        return np.zeros(0, bool)
    starts, ends = candidates.segments_frames.astype(np.float64).T
    order = np.lexsort((starts, candidates.classes))
    span = max(float(ends.max()) - float(starts.min()), 0.0) + 1.0
    shift = candidates.classes[order] * span  # one timeline, with the classes in sequence
    reach = np.maximum.accumulate(ends[order] + shift)
    begins_chain = np.concatenate([[True], starts[order][1:] + shift[1:] >= reach[:-1]])
    first = np.flatnonzero(begins_chain)
    chain = np.cumsum(begins_chain) - 1
    chain_end = np.maximum.reduceat(ends[order], first)[chain]
    settled = np.empty(len(candidates), bool)
    settled[order] = chain_end <= next_start_frame
    return settled
