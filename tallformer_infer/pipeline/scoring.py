"""How proposals without a class become actions, where the graphs alone do not decide it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import Recipe, RefinedHeadConfig
from tallformer_infer.errors import ConfigError
from tallformer_infer.nms import proposals_with_classes, reference_actions, without_class
from tallformer_infer.runtime import ProposingRuntime, Runtime
from tallformer_infer.structures import Candidates, Windows
from tallformer_infer.timeline import FeatureWindow


class ProposalScoring:
    """Gives the proposals of one video their classes: those of a file, or the model's own as the official code does."""

    def __init__(
        self, recipe: Recipe, runtime: ProposingRuntime, class_scores: Mapping[str, float] | None, windows: Windows
    ) -> None:
        """Prepare for a video; see `proposal_scoring`."""
        assert isinstance(recipe.model.head, RefinedHeadConfig)
        self._recipe = recipe
        self._runtime = runtime
        self._most_classes = recipe.model.head.classes_per_proposal
        self._is_reference = windows == "reference"
        self._given = None if class_scores is None else scores_by_class(class_scores, recipe.classes)
        self._own = np.zeros(1 + len(recipe.classes), np.float32)

    def localize(self, window: FeatureWindow) -> Candidates:
        """Candidates of one window; as the reference does it, proposals of one and the same class."""
        # The official code limits proposals to the padded window, and to the video only after suppression.
        real_frames = self._recipe.window.window_frames if self._is_reference else window.real_frames
        proposals = self._runtime.propose(
            window.features[None],
            np.array([window.start_frame], np.int64),
            np.array([real_frames], np.int64),
        )
        if self._is_reference:
            self._own = proposals.class_scores
            return without_class(proposals)
        assert self._given is not None
        found = proposals_with_classes(proposals, self._given, most_classes=self._most_classes)
        return found.take(found.scores > self._recipe.suppress.score_threshold)

    def suppress(self, candidates: Candidates, frames: int) -> Candidates:
        """Actions of a whole video of `frames` frames, from the candidates of its windows."""
        if not self._is_reference:
            return self._runtime.suppress(candidates)
        scores = self._own if self._given is None else np.concatenate([[np.float32(-np.inf)], self._given])
        found = reference_actions(candidates, scores, self._recipe.suppress, most_classes=self._most_classes)
        inside = np.clip(found.segments_frames, 0, frames)
        return Candidates(inside, found.scores, found.classes).take(inside[:, 1] > inside[:, 0])


def proposal_scoring(
    recipe: Recipe, runtime: Runtime, class_scores: Mapping[str, float] | None, windows: Windows
) -> ProposalScoring | None:
    """What scores the proposals of a video; None where the graphs do all of it.

    Args:
        recipe: Of the model.
        runtime: Runs its graphs.
        class_scores: What the video shows, by name; None asks the model.
        windows: `reference` does as the official code.

    Raises:
        ConfigError: The model has no proposals, the runtime cannot give them, or a class is not one of the model's.
    """
    is_refined = isinstance(recipe.model.head, RefinedHeadConfig)
    if class_scores is not None and not is_refined:
        raise ConfigError(
            f"recipe {recipe.name}: class scores of videos are for models with head.kind=refined; this one scores "
            "every segment itself"
        )
    if not is_refined or (class_scores is None and windows != "reference"):
        return None
    if not isinstance(runtime, ProposingRuntime):
        raise ConfigError(f"{runtime.name} cannot give proposals without classes; take another runtime")
    return ProposalScoring(recipe, runtime, class_scores, windows)


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
