"""How many clips go through an encoder at once."""

from __future__ import annotations

from tallformer_infer.config import Recipe

_MOST_CLIPS = 8
"""More gain nothing, and each needs memory of its own."""
_MOST_PIXELS = 1024 * 224 * 224
"""Of all clips together: a window of a minute that is one clip, which takes gigabytes by itself."""


def most_clips(recipe: Recipe) -> int:
    """Clips that an encoder may see at once without taking more memory than one very long clip."""
    pixels = recipe.window.clip_frames * recipe.sampling.crop_px**2
    return min(max(_MOST_PIXELS // pixels, 1), _MOST_CLIPS)
