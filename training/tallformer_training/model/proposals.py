"""From what the refined head says to segments with scores."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from tallformer_training.model.decoding import Segments
from tallformer_training.model.refined_head import RefinedOutputs


class Proposals(NamedTuple):
    """Segments without a class, and classes without a segment, of B windows."""

    segments_frames: Tensor
    """(start, end) in frames of the whole video, shape (B, A, 2)."""
    scores: Tensor
    """How sure it is that each segment holds an action, in [0, 1], shape (B, A)."""
    class_scores: Tensor
    """How sure it is what the window shows: background, then the classes, adding up to 1, shape (B, 1 + K)."""


def decode_proposals(
    outputs: RefinedOutputs, *, level_strides: tuple[int, ...], window_start_frames: Tensor, real_frames: Tensor
) -> Proposals:
    """Decode a batch of windows.

    Segments are limited to the real frames of their window first and moved to their place in the video afterwards.
    Those that lie behind the real frames become segments without length there.

    Args:
        outputs: What the head says.
        level_strides: Frames per step of each level.
        window_start_frames: First frame of each window in the video, shape (B,).
        real_frames: Frames of each window that are not padding, shape (B,).
    """
    frames = outputs.frame_features.shape[-1]
    centres = position_centres(frames, level_strides).to(outputs.distances_frames)
    segments = refined_segments(centres, outputs.distances_frames, outputs.offsets)
    ends = real_frames.to(segments.dtype)[:, None, None]
    starts = window_start_frames.to(segments.dtype)[:, None, None]
    is_action = (outputs.logits.softmax(dim=-1) + outputs.refined_logits.softmax(dim=-1))[..., 1] / 2
    return Proposals(
        torch.minimum(segments.clamp(min=0), ends) + starts,
        is_action * outputs.quality_logits.sigmoid(),
        outputs.class_logits.softmax(dim=-1),
    )


def with_classes(proposals: Proposals, *, classes_per_proposal: int) -> Segments:
    """Give every proposal the likeliest classes of its window; its score in others is 0.

    The score is that of the proposal times that of the class. Background is never among the classes.
    """
    likely = proposals.class_scores[:, 1:]  # (B, K)
    least = likely.topk(min(classes_per_proposal, likely.shape[1]), dim=1).values[:, -1:]
    kept = torch.where(likely >= least, likely, 0.0)
    return Segments(proposals.segments_frames, proposals.scores[:, :, None] * kept[:, None, :])


def position_centres(frames: int, level_strides: tuple[int, ...]) -> Tensor:
    """Where the positions of all levels are, finest first, in frames of a window of `frames`, shape (A,).

    A level of S steps cuts the window into S equal parts; a position is in the middle of its part.
    """
    counts = level_steps(frames, level_strides)
    return torch.cat([(torch.arange(steps) + 0.5) / steps * frames for steps in counts])


def level_steps(frames: int, level_strides: tuple[int, ...]) -> list[int]:
    """Steps of every level of a window of `frames`: each level has half of those before, rounded up."""
    steps = [frames // level_strides[0]]
    for _ in level_strides[1:]:
        steps.append(-(-steps[-1] // 2))
    return steps


def refined_segments(centres_frames: Tensor, distances_frames: Tensor, offsets: Tensor) -> Tensor:
    """Proposals after refinement.

    Args:
        centres_frames: Shape (A,).
        distances_frames: To start and end, shape (B, A, 2).
        offsets: In halves of the proposal's length, shape (B, A, 2).

    Returns:
        Segments (start, end) in frames of the window, not limited to it, shape (B, A, 2).
    """
    half = distances_frames.sum(dim=-1, keepdim=True) / 2
    moved = distances_frames + half * offsets
    return torch.stack([centres_frames - moved[..., 0], centres_frames + moved[..., 1]], dim=-1)
