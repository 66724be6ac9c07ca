"""The two learned graphs as modules that take and give what a runtime does."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tallformer_training.model import Detector


class EncoderGraph(nn.Module):
    """Graph 1: pixels to feature steps, with all pixel arithmetic inside."""

    mean: Tensor
    std: Tensor
    positions: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        sampling = detector.recipe.sampling
        self.detector = detector
        self.register_buffer("mean", torch.tensor(sampling.mean))
        self.register_buffer("std", torch.tensor(sampling.std))
        self.register_buffer("positions", torch.arange(detector.recipe.window.clip_frames))

    def forward(self, clips: Tensor, real_frames: Tensor) -> Tensor:
        """Encode clips.

        Args:
            clips: RGB pixels, uint8, shape (N, F, H, W, 3).
            real_frames: Frames of each clip that belong to the video, int64, shape (N,).

        Returns:
            Features, shape (N, C, F / encoder stride).
        """
        is_real = (self.positions < real_frames[:, None]).float()[:, :, None, None, None]
        # Frames beyond the end are zero after normalisation, not black before it: spec §4.4.
        normalised = (clips.float() - self.mean) / self.std * is_real
        return self.detector.encode(normalised.permute(0, 4, 1, 2, 3)).float()


class LocalizerGraph(nn.Module):
    """Graph 2: windows of feature steps to candidates."""

    classes: Tensor

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.detector = detector
        self.per_window = detector.recipe.candidates.per_window
        self.register_buffer("classes", torch.arange(len(detector.recipe.classes)))

    def forward(self, features: Tensor, start_frames: Tensor, real_frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Localize windows.

        Args:
            features: Shape (B, C, S).
            start_frames: First frame of each window, int64, shape (B,).
            real_frames: Frames of each window that belong to the video, int64, shape (B,).

        Returns:
            Segments in frames of the whole video (B, P, 2), scores (B, P) and class indices (B, P): one row for each
            (anchor, class), anchors slower than classes, or the best `per_window` of them.
        """
        outputs = self.detector.localize(features)
        decoded = self.detector.decode(outputs, start_frames, real_frames)
        kinds = len(self.classes)
        anchors = decoded.scores.shape[1]
        scores = decoded.scores.flatten(1)  # (B, A * K)
        if self.per_window is None or self.per_window >= anchors * kinds:
            segments = decoded.segments_frames.repeat_interleave(kinds, dim=1)
            return segments, scores, self.classes.repeat(anchors).expand(scores.shape[0], -1)
        scores, rows = scores.topk(self.per_window, dim=1)
        anchor = (rows // kinds)[..., None].expand(-1, -1, 2)
        return decoded.segments_frames.gather(1, anchor), scores, rows % kinds
