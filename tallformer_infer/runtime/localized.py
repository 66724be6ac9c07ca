"""What a localizer gave, as candidates."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from tallformer_infer.config import Recipe
from tallformer_infer.errors import BundleError
from tallformer_infer.structures import Candidates


def candidates_above_threshold(
    segments: NDArray[Any], scores: NDArray[Any], classes: NDArray[Any], *, recipe: Recipe, given_by: str
) -> Candidates:
    """Candidates above the recipe's score threshold, of all windows together.

    Args:
        segments: In frames, shape (B, P, 2).
        scores: Shape (B, P).
        classes: Indices, shape (B, P).
        recipe: Names the classes.
        given_by: Bundle and graph, for the message.

    Raises:
        BundleError: There is a class that the recipe does not name.
    """
    if classes.size and not 0 <= classes.min() <= classes.max() < len(recipe.classes):
        raise BundleError(f"{given_by} gives class {classes.max()}, the recipe names {len(recipe.classes)} classes")
    above = scores > recipe.suppress.score_threshold
    return Candidates(segments[above], scores[above], classes[above])
