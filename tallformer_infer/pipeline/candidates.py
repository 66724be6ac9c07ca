"""The candidates of a video: the localizer that gives them, where their classes come from, and which are final.

Note [where classes come from]
    The graphs give every segment its classes. For models of proposals (head `refined`) there are two other ways: a file
    with class scores of whole videos, and the official code's order (`windows=reference`), which suppresses proposals
    before they get classes. In both, the localizer gives proposals, kept as candidates of one class, and their classes
    are added later: so other class scores need neither the videos nor the localizer.

# Note [which rate answers for what]
A lower rate sees less of short actions, and its boundaries are coarser. It is responsible for what windows of the next
higher rate may cut: actions longer than what two neighbouring windows share; shorter ones lie whole in one of them. A
rate finds pieces of what its windows cut, and suppression leaves them beside the whole, as they overlap it too little.
So where a lower rate follows, a rate is responsible for actions of up to half a window only. Measured on generated
videos, see `docs/demo.md`.
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
"""What a model says a whole video shows, background first, shape (1 + K,)."""


def localizer_of(
    recipe: Recipe, runtime: Runtime, windows: Windows, *, has_scores: bool, scores: Mapping[str, float] | None = None
) -> Localizer | ProposingLocalizer:
    """The localizer of a run.

    Args:
        recipe: Of the model.
        runtime: Runs its graphs.
        windows: `reference` does as the official code.
        has_scores: A file says what the videos show.
        scores: What it says of this one, by name; None: it will be asked later.

    Raises:
        ConfigError: There is a file for a model without proposals, or the runtime cannot give them.
    """
    is_refined = isinstance(recipe.model.head, RefinedHeadConfig)
    if has_scores:
        check_takes_scores(recipe)
    if not is_refined or not (has_scores or windows == "reference"):
        return Localizer(runtime)
    if not isinstance(runtime, ProposingRuntime):
        raise ConfigError(f"{runtime.name} cannot give proposals without classes; take another runtime")
    return ProposingLocalizer(runtime, recipe, scores, is_reference=windows == "reference")


class Localizer:
    """Windows to candidates by the localizer's graph, which gives them their classes."""

    gives_classes = True
    own_scores: OwnScores | None = None

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def localize(self, window: FeatureWindow) -> Candidates:
        """Candidates of one window."""
        return self._runtime.localize(_batch(window, window.real_frames))


class ProposingLocalizer:
    """Windows to proposals, see Note [where classes come from]; with scores at hand, they get their classes at once."""

    def __init__(
        self, runtime: ProposingRuntime, recipe: Recipe, scores: Mapping[str, float] | None, *, is_reference: bool
    ) -> None:
        self._runtime = runtime
        self._recipe = recipe
        self._scores = None if is_reference else scores
        self._is_reference = is_reference
        self.gives_classes = self._scores is not None
        """Whether candidates have classes; else all are of one and the same."""
        self.own_scores: OwnScores | None = np.zeros(1 + len(recipe.classes), np.float32) if is_reference else None
        """What the model says the video shows, where its order is the official code's."""

    def localize(self, window: FeatureWindow) -> Candidates:
        """Proposals of one window, or candidates."""
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
    """Refuse class scores for a model that scores every segment itself.

    Raises:
        ConfigError: It does.
    """
    if not isinstance(recipe.model.head, RefinedHeadConfig):
        raise ConfigError(
            f"recipe {recipe.name}: class scores of videos are for models with head.kind=refined; this one scores "
            "every segment itself"
        )


def classify(proposals: Candidates, recipe: Recipe, scores: Mapping[str, float]) -> Candidates:
    """Candidates of a video from its proposals and what it shows, those above the recipe's lowest score.

    Args:
        proposals: Of all windows, from a `ProposingLocalizer`.
        recipe: Of the model.
        scores: What the video shows, by name.

    Raises:
        ConfigError: A name is none of the model's.
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
    """What the official code keeps of a video: it suppresses proposals, and gives those that are left classes.

    Args:
        proposals: Of all windows.
        recipe: Of the model.
        own: What the model says the video shows.
        scores: What a file says it shows, by name; None takes the model's.
        frames: Length of the video.
    """
    chosen = own
    if scores is not None:
        chosen = np.concatenate([[np.float32(-np.inf)], scores_by_class(scores, recipe.classes)])
    found = reference_actions(proposals, chosen, recipe.suppress, most_classes=_most_classes(recipe))
    inside = np.clip(found.segments_frames, 0, frames)
    return Candidates(inside, found.scores, found.classes).take(inside[:, 1] > inside[:, 0])


def scores_by_class(scores: Mapping[str, float], classes: tuple[str, ...]) -> NDArray[np.float32]:
    """Scores in the order of the model's classes, shape (K,); those that are not named have 0.

    Raises:
        ConfigError: A name is none of the model's.
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
    """Shortest and longest candidates that count at each factor, in frames; see Note [which rate answers for what].

    Args:
        window: Length of windows.
        step_frames: Between their starts.
        factors: Rising.
    """
    shared_frames = window.window_frames - step_frames
    half_frames = max(window.window_frames / 2, shared_frames)  # no length may be left to nobody
    shortest = [0.0, *(float(factor * shared_frames) for factor in factors[:-1])]
    longest = [*(factor * half_frames for factor in factors[:-1]), math.inf]
    return dict(zip(factors, zip(shortest, longest, strict=True), strict=True))


def in_video_frames(
    candidates: Candidates, factor: int, *, lengths_frames: tuple[float, float], frames: int
) -> Candidates:
    """Candidates of a window in frames of the video, without those that another rate answers for.

    Args:
        candidates: In frames of the window's rate.
        factor: Frames of the video in each.
        lengths_frames: Shortest and longest that count.
        frames: Of the video so far; a window of a lower rate may end up to `factor` frames later.
    """
    segments = candidates.segments_frames
    if factor > 1:
        segments = np.minimum(segments * np.float32(factor), np.float32(frames))
    scaled = Candidates(segments, candidates.scores, candidates.classes)
    lengths = segments[:, 1] - segments[:, 0]
    return scaled.take((lengths >= lengths_frames[0]) & (lengths <= lengths_frames[1]))


class CandidatePool:
    """Collects candidates and keeps the best `limit` of them.

    A trained model has a few candidates per second above its score threshold, and the limit is never reached. It is
    there for what is not: random weights, a threshold near 0, a day of video.
    """

    def __init__(self, limit: int | None) -> None:
        """Start empty; a `limit` of None keeps all."""
        self._limit = limit
        self._parts: list[Candidates] = []
        self._count = 0

    def add(self, candidates: Candidates) -> None:
        """Take candidates, which come after all taken before."""
        self._parts.append(candidates)
        self._count += len(candidates)
        if self._limit is not None and self._count > 2 * self._limit:
            self.replace(best_candidates(Candidates.concatenate(self._parts), self._limit))

    def all(self) -> Candidates:
        """The best candidates, in the order in which they came."""
        candidates = Candidates.concatenate(self._parts)
        return best_candidates(candidates, self._limit)

    def replace(self, candidates: Candidates) -> None:
        """Hold these instead of all taken so far."""
        self._parts = [candidates]
        self._count = len(candidates)


class CandidatePools:
    """A pool for each rate, so that none of them crowds out another."""

    def __init__(self, limit: int | None, factors: tuple[int, ...]) -> None:
        """Start empty; `limit` is that of each."""
        self._pools = {factor: CandidatePool(limit) for factor in factors}

    def add(self, factor: int, candidates: Candidates) -> None:
        """Take candidates of a rate, in frames of the video."""
        self._pools[factor].add(candidates)

    def all(self) -> Candidates:
        """The best candidates of every rate, one rate after another."""
        return Candidates.concatenate([pool.all() for pool in self._pools.values()])

    def take_settled(self, next_start_frame: float) -> Candidates:
        """Take out those that no later candidate can change, see `are_settled`."""
        parts = [pool.all() for pool in self._pools.values()]
        candidates = Candidates.concatenate(parts)
        settled = are_settled(candidates, next_start_frame)
        ends = np.cumsum([len(part) for part in parts])
        for pool, part, own in zip(self._pools.values(), parts, np.split(settled, ends[:-1]), strict=True):
            pool.replace(part.take(~own))
        return candidates.take(settled)


def best_candidates(candidates: Candidates, limit: int | None) -> Candidates:
    """The `limit` of highest score, of equal scores the earlier, in the order given; None: all."""
    if limit is None or len(candidates) <= limit:
        return candidates
    order = np.argsort(-candidates.scores, kind="stable")[:limit]
    return candidates.take(np.sort(order))


def are_settled(candidates: Candidates, next_start_frame: float) -> NDArray[np.bool_]:
    """Which candidates' suppression is final; the others wait.

    Suppression acts between overlapping candidates of one class, and along chains of them. A chain that ends at or
    before the start of the next window cannot meet a later candidate, since those start there or after it.

    Args:
        candidates: All that were not settled so far.
        next_start_frame: Start of the next window; infinite after the last.

    Returns:
        Shape (N,).
    """
    if len(candidates) == 0:
        return np.zeros(0, bool)
    starts, ends = candidates.segments_frames.astype(np.float64).T
    order = np.lexsort((starts, candidates.classes))
    span = max(float(ends.max()) - float(starts.min()), 0.0) + 1.0
    shift = candidates.classes[order] * span  # one time line, the classes one after another
    reach = np.maximum.accumulate(ends[order] + shift)
    begins_chain = np.concatenate([[True], starts[order][1:] + shift[1:] >= reach[:-1]])
    first = np.flatnonzero(begins_chain)
    chain = np.cumsum(begins_chain) - 1
    chain_end = np.maximum.reduceat(ends[order], first)[chain]
    settled = np.empty(len(candidates), bool)
    settled[order] = chain_end <= next_start_frame
    return settled
