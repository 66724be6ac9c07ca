"""Proposals of a refined head against torch's, where rounding lets a comparison be made.

Note [regions that round either way]
    A refined head rounds the ends of the regions that it pools. Where an end lies halfway between two steps, the last
    bit of a distance decides which step is taken, and with it what the proposal becomes: in torch on another machine,
    too. Such proposals say nothing of a graph, so they are left out. What the graph makes of its proposals, candidates
    with classes, is compared with what torch makes of the graph's own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import RefinedHeadConfig
from tallformer_training.model import Detector, Proposals, RefinedOutputs
from tallformer_training.model.proposals import level_steps, with_classes
from tallformer_training.model.refined_head import proposal_edges

_MARGIN_FRAMES, _MARGIN_PART = 1e-3, 1e-5
"""How near to the middle between two steps an end may not lie: so far, and so far per frame of distance."""


@torch.no_grad()
def sure_proposals(detector: Detector, features: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Proposals whose regions round in one way only, shape (B, A); see Note [regions that round either way].

    Args:
        detector: With a refined head, in eval mode.
        features: Of windows, shape (B, C, S).
    """
    outputs = detector.localize(torch.from_numpy(features))
    assert isinstance(outputs, RefinedOutputs), "proposals of a refined head"
    frames = outputs.frame_features.shape[-1]
    counts = level_steps(frames, detector.recipe.model.level_strides)
    levels = torch.split(outputs.distances_frames.transpose(1, 2), counts, dim=-1)
    sure = [_is_sure(level, count, frames) for level, count in zip(levels, counts, strict=True)]
    found: NDArray[np.bool_] = torch.cat(sure, dim=1).numpy()
    return found


def candidates_of(detector: Detector, proposals: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """What torch makes of proposals that a graph gave: segments, scores and classes, all of them."""
    head = detector.recipe.model.head
    assert isinstance(head, RefinedHeadConfig), "proposals of a refined head"
    given = Proposals(*(torch.from_numpy(value) for value in proposals))
    decoded = with_classes(given, classes_per_proposal=head.classes_per_proposal)
    windows, count, kinds = decoded.scores.shape
    segments = decoded.segments_frames.repeat_interleave(kinds, dim=1)
    classes = torch.arange(kinds).repeat(count).expand(windows, -1)
    return [segments.numpy(), decoded.scores.flatten(1).numpy(), classes.numpy()]


def _is_sure(distances: Tensor, steps: int, frames: int) -> Tensor:
    """For a level, distances (B, 2, S) to (B, S)."""
    edges = torch.cat(proposal_edges(distances, steps=steps, frames=frames), dim=-1)  # (B, S, 8)
    from_middle = (edges - edges.floor() - 0.5).abs().amin(dim=-1)
    return from_middle > _MARGIN_FRAMES + _MARGIN_PART * distances.amax(dim=1)
