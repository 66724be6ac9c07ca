"""Where the localizer runs, and where the classes of its segments come from: its graph, or the whole video.

Note [where classes come from]
    The graphs give every segment its classes. Two ways lead around them, for models of proposals (head `refined`): a
    file that says what whole videos show, and the official code's order (`windows=reference`), in which proposals are
    suppressed before they get classes. Then the localizer gives proposals, kept as candidates of one and the same
    class, and their classes follow behind it: so another file needs neither videos nor localizer.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import Recipe, RefinedHeadConfig
from tallformer_infer.errors import ConfigError
from tallformer_infer.nms import proposals_with_classes, reference_actions, without_class
from tallformer_infer.runtime import ProposingRuntime, Runtime
from tallformer_infer.structures import Candidates, Proposals, Windows
from tallformer_infer.timeline import FeatureWindow

OwnScores = NDArray[np.float32]
"""What a model says a whole video shows, background first, shape (1 + K,)."""


class Localizer:
    """Windows to candidates by the localizer's graph, which gives them their classes."""

    gives_classes = True
    own_scores: OwnScores | None = None

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def localize(self, window: FeatureWindow) -> Candidates:
        """Candidates of one window."""
        starts, real_frames = np.array([window.start_frame], np.int64), np.array([window.real_frames], np.int64)
        return self._runtime.localize(window.features[None], starts, real_frames)


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
        proposals = self._runtime.propose(
            window.features[None], np.array([window.start_frame], np.int64), np.array([real_frames], np.int64)
        )
        if self._is_reference:
            self.own_scores = proposals.class_scores
        found = without_class(proposals)
        return found if self._scores is None else classify(found, self._recipe, self._scores)


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
