"""Augment whole windows of frames: parameters are drawn once per window and apply to all of its clips.

# Note [one matrix for all colours]
Brightness, contrast, saturation and hue are linear maps of RGB: they are combined into one 3 x 3 matrix and an offset,
applied to every pixel once and clamped to 0..255 once. The official code converts to HSV and clamps after every step;
the ranges are the same, single values are not.

# Note [one grid for all frames]
A rotated crop is sampled from the whole stored picture, mirrored at its border, in one step, with one grid for all
frames of the window: frames become channels. Without rotation the crop is a slice of the stored pixels, exact and free.

Source: ranges of the official TALLFormer training settings, commit 5519140, Apache-2.0 (values only).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import SamplingConfig
from tallformer_infer.errors import ConfigError

_LUMA = np.array([0.299, 0.587, 0.114])
Range = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class AugmentationConfig:
    """Random augmentation. Chances are in [0, 1]; 0 disables a change."""

    random_crop: bool = True
    """Crop at a random position; else in the middle, as at test time."""
    flip: float = 0.5
    """Chance of a horizontal flip."""
    mirrored_classes: tuple[tuple[str, str], ...] = ()
    """Pairs of classes that a horizontal flip exchanges, such as ("spin left", "spin right")."""
    rotate: float = 0.5
    """Chance of a rotation."""
    rotation_deg: float = 45.0
    """Largest angle in either direction."""
    colour: float = 0.5
    """Chance of any colour change; brightness, contrast and saturation then have a chance of a half each."""
    brightness: float = 32.0
    """Largest value added to or subtracted from all channels, in pixel values 0-255."""
    contrast: Range = (0.5, 1.5)
    """Range of the factor of all channels."""
    saturation: Range = (0.5, 1.5)
    """Range of the factor of the distance from grey."""
    hue_deg: float = 18.0
    """Largest rotation around the grey axis, in degrees."""

    def __post_init__(self) -> None:
        for name in ("flip", "rotate", "colour"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"augmentation: {name}={getattr(self, name)} must be in [0, 1]")
        for low, high in (self.contrast, self.saturation):
            if not 0 <= low <= high:
                raise ConfigError(
                    f"augmentation: a range of factors must be ascending and at least 0, got [{low}, {high}]"
                )
        named = [name for pair in self.mirrored_classes for name in pair]
        if len(set(named)) != len(named):
            raise ConfigError(f"augmentation: mirrored_classes names a class twice: {named}")


NO_AUGMENTATION = AugmentationConfig(random_crop=False, flip=0.0, rotate=0.0, colour=0.0)


@dataclass(frozen=True, eq=False)
class Change:
    """Augmentation of all frames of one window."""

    offset: tuple[float, float]
    """Position of the crop, from the top left (0, 0) to the bottom right (1, 1) of the stored picture."""
    is_flipped: bool
    """Whether to flip horizontally."""
    angle_deg: float
    """Clockwise rotation around the middle of the crop; 0 for none."""
    matrix: NDArray[np.float64] | None
    """Map of RGB, shape (3, 3); None keeps colours. See Note [one matrix for all colours]."""
    added: NDArray[np.float64]
    """Added after the map, pixel values, shape (3,)."""


def draw_change(config: AugmentationConfig, generator: np.random.Generator, *, is_flipped: bool = False) -> Change:
    """Draw a change for one window; the caller decides on mirroring, because labels depend on it."""
    offset = tuple(generator.uniform(size=2)) if config.random_crop else (0.5, 0.5)
    is_rotated = generator.random() < config.rotate
    angle_deg = generator.uniform(-config.rotation_deg, config.rotation_deg) if is_rotated else 0.0
    if generator.random() < config.colour:
        matrix, added = _draw_colours(config, generator)
        return Change((offset[0], offset[1]), is_flipped, angle_deg, matrix, added)
    return Change((offset[0], offset[1]), is_flipped, angle_deg, None, np.zeros(3))


def middle_crop(*, is_mirrored: bool = False) -> Change:
    """The change at test time; mirrored for the memory of mirrored videos."""
    return Change((0.5, 0.5), is_mirrored, 0.0, None, np.zeros(3))


def apply_change(clips: Tensor, change: Change, *, crop_px: int) -> Tensor:
    """Change all clips of one window.

    Args:
        clips: RGB, uint8, shape (K, F, H, W, 3).
        change: The change.
        crop_px: Side of the crop.

    Returns:
        RGB in 0..255, float32, shape (K, 3, F, crop_px, crop_px).
    """
    count, frames, height, width = clips.shape[:4]
    top, left = ((side - crop_px) * part for side, part in zip((height, width), change.offset, strict=True))
    if change.angle_deg:
        pictures = clips.reshape(-1, height, width, 3).permute(0, 3, 1, 2).float()
        grid = _grid(change, (top, left), (height, width), crop_px).to(clips.device)
        stacked = pictures.reshape(1, -1, height, width)
        pictures = F.grid_sample(stacked, grid, mode="bilinear", padding_mode="reflection", align_corners=True)
    else:
        rows, columns = slice(round(top), round(top) + crop_px), slice(round(left), round(left) + crop_px)
        pictures = clips[:, :, rows, columns].reshape(-1, crop_px, crop_px, 3).permute(0, 3, 1, 2).float()
        pictures = pictures.flip(-1) if change.is_flipped else pictures
    pictures = pictures.reshape(count * frames, 3, crop_px * crop_px)
    if change.matrix is not None:
        matrix = torch.from_numpy(change.matrix).to(pictures)
        added = torch.from_numpy(change.added).to(pictures)
        pictures = (matrix @ pictures).add_(added[:, None]).clamp_(0, 255)
    return pictures.reshape(count, frames, 3, crop_px, crop_px).transpose(1, 2)


def normalise(
    clips: Tensor, real_frames: Tensor, sampling: SamplingConfig, *, lead_frames: Tensor | None = None
) -> Tensor:
    """Subtract the mean, divide by the deviation, and fill frames outside the video according to `sampling.fill`.

    Args:
        clips: RGB in 0..255, shape (K, 3, F, H, W).
        real_frames: Frames of each clip up to the end of the video, shape (K,).
        sampling: Mean and deviation of the channels.
        lead_frames: Frames of each clip before the start of the video, shape (K,); None if there are none.
    """
    positions = torch.arange(clips.shape[2], device=clips.device)
    real_frames = real_frames.to(clips.device)
    if sampling.fill == "edge":
        shown = torch.minimum(positions, (real_frames.long() - 1).clamp(min=0)[:, None])  # (K, F)
        clips = torch.stack([clip[:, rows] for clip, rows in zip(clips, shown, strict=True)])
        real_frames = torch.where(real_frames > 0, clips.shape[2], 0)
    is_inside = positions < real_frames[:, None]
    if lead_frames is not None:
        is_inside = is_inside & (positions >= lead_frames.to(clips.device)[:, None])
    is_real = is_inside.to(clips.dtype)[:, None, :, None, None]
    mean, std = (clips.new_tensor(values)[:, None, None, None] for values in (sampling.mean, sampling.std))
    if sampling.fill == "mean":
        return ((clips - mean) / std).mul_(is_real)
    return (clips * is_real - mean) / std


def mirrored(
    labels: NDArray[np.int64], classes: tuple[str, ...], pairs: tuple[tuple[str, str], ...]
) -> NDArray[np.int64]:
    """Labels of a mirrored window, shape (N,).

    Raises:
        ConfigError: A pair names an unknown class.
    """
    swapped = np.arange(len(classes))
    for pair in pairs:
        for name in pair:
            if name not in classes:
                raise ConfigError(
                    f"augmentation: mirrored_classes names {name!r}; the classes are {', '.join(classes)}"
                )
        one, other = classes.index(pair[0]), classes.index(pair[1])
        swapped[[one, other]] = other, one
    return swapped[labels]


def _grid(change: Change, corner: tuple[float, float], size: tuple[int, int], crop_px: int) -> Tensor:
    """Source position of each pixel of a rotated crop, in `grid_sample` coordinates, shape (1, crop, crop, 2)."""
    angle = math.radians(change.angle_deg)
    half = (crop_px - 1) / 2
    place = torch.arange(crop_px, dtype=torch.float32) - half
    down, right = torch.meshgrid(place, -place if change.is_flipped else place, indexing="ij")
    rows = corner[0] + half + down * math.cos(angle) - right * math.sin(angle)
    columns = corner[1] + half + right * math.cos(angle) + down * math.sin(angle)
    scaled = (columns / (size[1] - 1) * 2 - 1, rows / (size[0] - 1) * 2 - 1)
    return torch.stack(scaled, dim=-1)[None]


def _draw_colours(
    config: AugmentationConfig, generator: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    matrix, added = np.eye(3), np.zeros(3)

    def maybe(low: float, high: float, neutral: float) -> float:
        value = float(generator.uniform(low, high))
        return value if generator.random() < 0.5 else neutral

    added += maybe(-config.brightness, config.brightness, 0.0)
    contrast = maybe(*config.contrast, 1.0) * np.eye(3)
    turn = _hue(float(generator.uniform(-config.hue_deg, config.hue_deg)))
    steps = [turn @ _saturation(maybe(*config.saturation, 1.0))]
    steps.insert(int(generator.integers(2)), contrast)
    for step in steps:
        matrix, added = step @ matrix, step @ added
    return matrix, added


def _saturation(factor: float) -> NDArray[np.float64]:
    """Scale the distance from the grey of equal luma."""
    return factor * np.eye(3) + (1 - factor) * np.tile(_LUMA, (3, 1))


def _hue(angle_deg: float) -> NDArray[np.float64]:
    """Rotate around the grey axis (Rodrigues' formula)."""
    angle = math.radians(angle_deg)
    axis = np.full((3, 3), 1 / 3)
    cross = np.array([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    turn: NDArray[np.float64] = math.cos(angle) * (np.eye(3) - axis) + axis + math.sin(angle) * cross
    return turn
