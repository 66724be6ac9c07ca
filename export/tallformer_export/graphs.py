"""The two learned graphs as modules that take and give what a runtime does."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn

from tallformer_infer.config import RefinedHeadConfig
from tallformer_training.model import Detector, RefinedOutputs, Segments
from tallformer_training.model.proposals import with_classes

PROPOSAL_OUTPUTS = ("proposal_segments", "proposal_scores", "class_scores")
"""What the localizer of a refined head gives besides candidates."""


class EncoderGraph(nn.Module):
    """Graph 1: pixels to feature steps, with all pixel arithmetic inside."""

    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        sampling = detector.recipe.sampling
        self.detector = detector
        self.fill = sampling.fill
        self.register_buffer("mean", torch.tensor(sampling.mean)[:, None, None, None])
        self.register_buffer("std", torch.tensor(sampling.std)[:, None, None, None])
        self.register_buffer("positions", torch.arange(detector.recipe.window.clip_frames))

    def forward(self, clips: Tensor, real_frames: Tensor) -> Tensor:
        """Encode clips.

        Args:
            clips: RGB pixels, uint8, shape (N, F, H, W, 3).
            real_frames: Frames of each clip that belong to the video, int64, shape (N,).

        Returns:
            Features, shape (N, C, F / encoder stride).
        """
        # Channels first: one number is subtracted from a whole plane then, not three from every pixel.
        pixels = clips.float().permute(0, 4, 1, 2, 3)
        is_real = (self.positions < real_frames[:, None]).float()[:, None, :, None, None]
        match self.fill:
            case "mean":  # zero after normalisation, not black before it: spec §4.4
                normalised = (pixels - self.mean) / self.std * is_real
            case "black":  # spec §7.1
                normalised = (pixels * is_real - self.mean) / self.std
            case "edge":
                behind = last_frames(pixels, real_frames) * (1 - is_real)
                normalised = (pixels * is_real + behind - self.mean) / self.std
            case _:
                assert_never(self.fill)
        return self.detector.encode(normalised).float()


def last_frames(pixels: Tensor, real_frames: Tensor) -> Tensor:
    """The last real frame of each clip, black where it has none.

    Args:
        pixels: Shape (N, 3, F, H, W).
        real_frames: Of each clip, shape (N,).

    Returns:
        Shape (N, 3, 1, H, W).
    """
    row = (real_frames - 1).clamp(min=0)[:, None, None, None, None]
    last = pixels.gather(2, row.expand(-1, 3, 1, *pixels.shape[3:]))
    return last * (real_frames > 0).float()[:, None, None, None, None]


class LocalizerGraph(nn.Module):
    """Graph 2: windows of feature steps to candidates."""

    classes: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.per_window = detector.recipe.candidates.per_window
        head = detector.recipe.model.head
        self.classes_per_proposal = head.classes_per_proposal if isinstance(head, RefinedHeadConfig) else 0
        self.register_buffer("classes", torch.arange(len(detector.recipe.classes)))

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of what `forward` returns."""
        names = ("segments", "scores", "classes")
        return (*names, *PROPOSAL_OUTPUTS) if self.classes_per_proposal else names

    def forward(self, features: Tensor, start_frames: Tensor, real_frames: Tensor) -> tuple[Tensor, ...]:
        """Localize windows.

        Args:
            features: Shape (B, C, S).
            start_frames: First frame of each window, int64, shape (B,).
            real_frames: Frames of each window that belong to the video, int64, shape (B,).

        Returns:
            Segments in frames of the whole video (B, P, 2), scores (B, P) and class indices (B, P): one row for each
            (anchor, class), anchors slower than classes, or the best `per_window` of them. Of a refined head also its
            proposals before they get classes, and the classes' scores, see `Proposals`.
        """
        outputs = self.detector.localize(features, real_frames)
        if not isinstance(outputs, RefinedOutputs):
            return self._best(self.detector.decode(outputs, start_frames, real_frames))
        proposals = self.detector.propose(outputs, start_frames, real_frames)
        decoded = with_classes(proposals, classes_per_proposal=self.classes_per_proposal)
        return (*self._best(decoded), *proposals)

    def _best(self, decoded: Segments) -> tuple[Tensor, Tensor, Tensor]:
        kinds = len(self.classes)
        anchors = decoded.scores.shape[1]
        scores = decoded.scores.flatten(1)  # (B, A * K)
        if self.per_window is None or self.per_window >= anchors * kinds:
            segments = decoded.segments_frames.repeat_interleave(kinds, dim=1)
            return segments, scores, self.classes.repeat(anchors).expand(scores.shape[0], -1)
        scores, rows = scores.topk(self.per_window, dim=1)
        anchor = (rows // kinds)[..., None].expand(-1, -1, 2)
        return decoded.segments_frames.gather(1, anchor), scores, rows % kinds
