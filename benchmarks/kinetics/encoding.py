"""Features of a film at one clip length, frame rate, size and crop, computed once for all settings of the head."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
import torch
from numpy.typing import NDArray

from tallformer_infer.config import I3dConfig
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.model.i3d import InceptionI3d

STRIDE_FRAMES = 8
_SHORT_SIDE = 256 / 224
"""Kinetics' preprocessing: short side of the picture over the side of the centre crop."""
Features = NDArray[np.float16]
Picture = NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Settings of the encoding of a film."""

    sample_fps: float = 25.0
    clip_frames: int = 64
    hop_frames: int = 64
    """Distance of clips; below `clip_frames` they overlap, and steps at the borders of clips are dropped."""
    crop: Literal["square", "full"] = "square"
    """`square`: centre crop of a slightly larger picture; `full`: the whole picture."""
    height_px: int = 224

    @property
    def name(self) -> str:
        """Name of the file of features."""
        return f"{self.sample_fps:g}-{self.clip_frames}-{self.hop_frames}-{self.crop}-{self.height_px}"

    @property
    def step_s(self) -> float:
        """Length of a feature step."""
        return STRIDE_FRAMES / self.sample_fps


def load_encoder(path: Path) -> tuple[InceptionI3d, NDArray[np.float32], NDArray[np.float32]]:
    """Encoder, and weight (400, 1024) and bias of the classifier, from a checkpoint of recipe `kinetics400-i3d`."""
    state = load_checkpoint(path).state
    encoder = InceptionI3d(I3dConfig(kind="i3d"))
    prefix = "backbone."
    encoder.load_state_dict({name.removeprefix(prefix): state[name] for name in state if name.startswith(prefix)})
    encoder.eval().lay_channels_last()
    weight, bias = (state[f"head.classifier.{name}"].float().numpy() for name in ("weight", "bias"))
    return encoder, weight, bias


def encode(film: Path, encoder: InceptionI3d, encoding: Encoding, *, bf16: bool = True) -> Features:
    """Features of a film, shape (steps, C)."""
    parts = []
    for clip in _clips(film, encoding):
        pixels = torch.from_numpy(clip)[None].permute(0, 4, 1, 2, 3).float() / 127.5 - 1
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            maps = encoder(pixels.contiguous(memory_format=torch.channels_last_3d))
        parts.append(maps[0].float().mean(dim=(2, 3)).T.numpy())  # (clip steps, C)
    return _joined(np.stack(parts), encoding).astype(np.float16)


def _joined(features: NDArray[np.float32], encoding: Encoding) -> NDArray[np.float32]:
    """Concatenate the steps of all clips (clips, clip steps, C); of overlapping clips only the middle."""
    steps, hop = features.shape[1], encoding.hop_frames // STRIDE_FRAMES
    front = (steps - hop) // 2
    middle = features[1:, front : front + hop].reshape(-1, features.shape[-1])
    return np.concatenate([features[0, : front + hop], middle])


def _clips(film: Path, encoding: Encoding) -> Iterator[NDArray[np.uint8]]:
    waiting: list[Picture] = []
    for picture in _pictures(film, encoding):
        waiting.append(picture)
        if len(waiting) == encoding.clip_frames:
            yield np.stack(waiting)
            del waiting[: encoding.hop_frames]
    if len(waiting) > encoding.clip_frames - encoding.hop_frames:
        yield np.stack(waiting + [waiting[-1]] * (encoding.clip_frames - len(waiting)))


def _pictures(film: Path, encoding: Encoding) -> Iterator[Picture]:
    """Frames k as sampled by `tallformer_infer.media`: the last one that starts before (k + 1/2) / rate."""
    rate, due = Fraction(encoding.sample_fps).limit_denominator(100), 0
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        film_fps = Fraction(stream.average_rate or 30)
        for number, frame in enumerate(container.decode(stream)):
            picture: Picture | None = None
            while math.ceil((due + Fraction(1, 2)) / rate * film_fps) - 1 <= number:
                picture = _resized(frame, encoding) if picture is None else picture
                yield picture
                due += 1


def _resized(frame: av.VideoFrame, encoding: Encoding) -> Picture:
    side = encoding.height_px
    if encoding.crop == "full":
        width = 4 * round(frame.width * side / frame.height / 4)
        return np.asarray(frame.reformat(width, side, "rgb24", interpolation="BILINEAR").to_ndarray(), np.uint8)
    scale = side * _SHORT_SIDE / min(frame.width, frame.height)
    width, height = round(frame.width * scale), round(frame.height * scale)
    picture = np.asarray(frame.reformat(width, height, "rgb24", interpolation="BILINEAR").to_ndarray(), np.uint8)
    top, left = (height - side) // 2, (width - side) // 2
    return picture[top : top + side, left : left + side]
