"""The forward pass of a batch of windows: read clips ahead, encode some, read the others from memory, localize.

# Note [clips after the end of a video]
A window may be longer than its video. Its clips after the end are never drawn for encoding. At test time they are
encoded clips of zeros, so in training they get the encoder's features of such a clip, without gradient, instead of the
zeros of the official code: the localizer is trained on what it sees at test time.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tallformer_infer.config import Recipe
from tallformer_training.augmentation import AugmentationConfig, apply_change, draw_change, normalise
from tallformer_training.datasets import FrameSource
from tallformer_training.loop.plan import PlannedWindow
from tallformer_training.loop.step_classifier import StepClassifier
from tallformer_training.memory.bank import Window, join_windows
from tallformer_training.model import Detector, Outputs

_AUGMENTATION_STREAM = 1

_AHEAD = 2
Source = TypeVar("Source")
Result = TypeVar("Result")


class WindowModel(nn.Module):
    """The detector with the forward pass of training, as one module for `DistributedDataParallel`."""

    def __init__(self, detector: Detector, *, with_steps: bool = False) -> None:
        """Wrap `detector`; `with_steps` adds a classifier of feature steps."""
        super().__init__()
        self.detector = detector
        channels = detector.recipe.model.backbone.out_channels
        self.steps = StepClassifier(channels, len(detector.recipe.classes)) if with_steps else None

    def forward(
        self, clips: Tensor, remembered: Tensor, windows: Sequence[Window], real_frames: Tensor
    ) -> tuple[Tensor, Outputs, Tensor | None]:
        """Encode and localize.

        Args:
            clips: Normalised RGB of the encoded clips, window by window, shape (N, 3, F, H, W).
            remembered: Features of the windows from the memory, shape (B, C, S).
            windows: The batch.
            real_frames: Frames of each window that are not padding, shape (B,).

        Returns:
            Encoded clips (N, C, clip steps), outputs of the head, and the logits of their steps (N, clip steps, K).
        """
        if len(clips):
            encoded = self.detector.encode(clips)
        else:
            encoded = remembered.new_zeros(0, remembered.shape[1], self.detector.recipe.clip_steps)
            if any(parameter.requires_grad for parameter in self.detector.backbone.parameters()):
                # Every process needs a gradient for every weight, or the others wait forever.
                nothing = clips.new_zeros(1, *clips.shape[1:])
                remembered = remembered + 0 * self.detector.encode(nothing).sum()
        features = cut_to_window(join_windows(remembered, encoded, windows), windows, self.detector.recipe)
        outputs = self.detector.localize(features, real_frames)
        return encoded, outputs, None if self.steps is None else self.steps(encoded)


def memory_window(window: PlannedWindow, recipe: Recipe) -> Window:
    """The window in the memory's terms."""
    return Window(
        video=window.entry,
        first_step=window.start_frame // recipe.model.encoder_stride,
        encoded_clips=window.encoded_clips,
    )


def cut_to_window(features: Tensor, windows: Sequence[Window], recipe: Recipe) -> Tensor:
    """Drop the steps before the video, and surplus steps at the end.

    Args:
        features: Features of the windows, shape (B, C, S); S exceeds a window's steps if clips are shifted, see
            `plan`, Note [shifted clips].
        windows: The batch.
        recipe: Length of a window.
    """
    steps = recipe.window_steps
    if features.shape[-1] == steps:
        return features
    begins = [-window.first_step for window in windows]
    return torch.stack([row[:, begin : begin + steps] for row, begin in zip(features, begins, strict=True)])


def prepare_clips(
    loaded: Sequence[LoadedWindow],
    recipe: Recipe,
    augmentation: AugmentationConfig,
    *,
    seed: tuple[int, int],
    device: torch.device,
) -> Tensor:
    """Augment and normalise the clips of a batch; each window is augmented differently.

    Args:
        loaded: The batch.
        recipe: Crop, mean and deviation.
        augmentation: Random augmentation.
        seed: Seed of the run and number of the epoch.
        device: Device of the computation.

    Returns:
        Normalised RGB, window by window, shape (N, 3, F, H, W).
    """
    sampling = recipe.sampling
    parts = []
    for item in loaded:
        if not len(item.pixels):
            continue
        generator = np.random.default_rng([*seed, item.window.number, _AUGMENTATION_STREAM])
        change = draw_change(augmentation, generator, is_flipped=item.window.is_mirrored)
        pixels = torch.from_numpy(item.pixels).to(device, non_blocking=True)
        clips = apply_change(pixels, change, crop_px=sampling.crop_px)
        lead_frames = None if item.lead_frames is None else torch.from_numpy(item.lead_frames)
        parts.append(normalise(clips, torch.from_numpy(item.real_frames), sampling, lead_frames=lead_frames))
    if not parts:
        return torch.zeros(0, 3, recipe.window.clip_frames, sampling.crop_px, sampling.crop_px, device=device)
    return torch.cat(parts)


def fill_behind_the_end(remembered: Tensor, windows: Sequence[PlannedWindow], detector: Detector) -> Tensor:
    """Put the features of an empty clip where a window has no video; see Note [clips after the end of a video]."""
    clip_frames = detector.recipe.window.clip_frames
    clips = remembered.shape[-1] // detector.recipe.clip_steps
    first_empty = [-(-window.real_frames // clip_frames) for window in windows]
    if min(first_empty) >= clips:
        return remembered
    empty = encode_empty(detector, remembered.device).to(remembered.dtype)  # (C, clip steps)
    steps = empty.shape[1]
    filled = remembered.clone()
    for row, first in enumerate(first_empty):
        if first < clips:
            filled[row, :, first * steps :] = empty.repeat(1, clips - first)
    return filled


@torch.no_grad()
def encode_empty(detector: Detector, device: torch.device) -> Tensor:
    """Features of a clip after the end of a video, as at test time, shape (C, clip steps)."""
    side = detector.recipe.sampling.crop_px
    was_training = detector.backbone.training
    detector.backbone.eval()
    clip = torch.zeros(1, 3, detector.recipe.window.clip_frames, side, side, device=device)
    features: Tensor = detector.encode(normalise(clip, torch.zeros(1), detector.recipe.sampling))[0]
    detector.backbone.train(was_training)
    return features


@dataclass(frozen=True, eq=False)
class LoadedWindow:
    """A window with the pixels of its encoded clips; the others are not read."""

    window: PlannedWindow
    """The window."""
    pixels: NDArray[np.uint8]
    """RGB, zero beyond the video, shape (K, F, H, W, 3)."""
    real_frames: NDArray[np.int64]
    """Frames of each clip up to the end of the video, shape (K,)."""
    lead_frames: NDArray[np.int64] | None = None
    """Frames of each clip before the start of the video, shape (K,); None if there are none."""


def load_window(source: FrameSource, path: Path, window: PlannedWindow, *, clip_frames: int) -> LoadedWindow:
    """Read the encoded clips of one window.

    Args:
        source: Source of frames.
        path: The window's video.
        window: The window.
        clip_frames: Frames per clip.
    """
    starts = np.array(window.encoded_clips, np.int64) * clip_frames
    pixels = source.read_clips(path, (starts + window.start_frame).tolist(), clip_frames)
    real_frames = np.clip(window.real_frames - starts, 0, clip_frames)
    lead_frames = np.clip(-window.start_frame - starts, 0, clip_frames) if window.start_frame < 0 else None
    return LoadedWindow(window, pixels, real_frames, lead_frames)


def run_ahead(
    items: Iterable[Source], work: Callable[[Source], Result], *, threads: int, ahead: int = _AHEAD
) -> Iterator[Result]:
    """Results of `work` for every item, in order, computed ahead in threads.

    Args:
        items: Arguments of `work`.
        work: Runs in a thread; its exceptions are raised here.
        threads: Number of threads.
        ahead: Largest number of items computed ahead.
    """
    with ThreadPoolExecutor(threads, thread_name_prefix="tallformer-load") as pool:
        pending: deque[Future[Result]] = deque()
        try:
            for item in items:
                pending.append(pool.submit(work, item))
                if len(pending) > ahead:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()
