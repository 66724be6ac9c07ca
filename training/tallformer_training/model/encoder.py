"""The encoders, their interface, and encoding clip by clip: clips are independent of each other.

A new encoder is a class of settings (`tallformer_infer.config.model`), a module with the interface `Encoder`, and a
case here.
"""

from __future__ import annotations

from typing import Protocol, assert_never

import torch
import torch.nn.functional as F
from torch import Tensor

from tallformer_infer.config import AnyEncoderConfig, BackboneConfig, I3dConfig
from tallformer_training.model.backbone import VideoSwin
from tallformer_training.model.i3d import InceptionI3d
from tallformer_training.model.windows import Size

AnyEncoder = VideoSwin | InceptionI3d
"""The module of one of the encoders."""


class Encoder(Protocol):
    """A `torch.nn.Module` that encodes clips independently."""

    stride_frames: int
    """Frames per feature step."""
    stem_name: str
    """First layer, which stays in float32 whatever the precision of the others."""

    def steps(self, clips: Tensor) -> Tensor:
        """Encode clips, normalised RGB (N, 3, F, H, W), to feature steps (N, C, F / stride), rounded up."""

    def keep_norms(self) -> None:
        """Freeze the statistics of batch norms in training."""


def make_encoder(config: AnyEncoderConfig, *, clip_size: Size, checkpointing: bool = False) -> AnyEncoder:
    """The encoder of some settings, with random weights.

    Args:
        config: Settings of the encoder.
        clip_size: Usual number of frames, height and width in pixels.
        checkpointing: Recompute activations in the backward pass.
    """
    match config:
        case BackboneConfig():
            return VideoSwin(config, clip_size=clip_size, checkpointing=checkpointing)
        case I3dConfig():
            return InceptionI3d(config, checkpointing=checkpointing)
        case _:
            assert_never(config)


def encode_clips(backbone: Encoder, clips: Tensor) -> Tensor:
    """Encode clips independently.

    Args:
        backbone: The encoder.
        clips: Normalised RGB, shape (N, 3, F, H, W).

    Returns:
        Feature steps, pooled over space, shape (N, C, S) with S = F / encoder stride, rounded up.
    """
    return backbone.steps(clips)


def encode_frames(backbone: Encoder, frames: Tensor, *, clip_frames: int) -> Tensor:
    """Encode sequences of any length, in clips of `clip_frames` from frame 0.

    A last clip that is too short is padded with zeros *after* normalisation, and the feature steps of the padding are
    cut off.

    Args:
        backbone: The encoder.
        frames: Normalised RGB, shape (B, 3, T, H, W), T at least 1.
        clip_frames: Frames per clip, a multiple of the encoder's stride.

    Returns:
        Feature steps, shape (B, C, S) with S = T / encoder stride, rounded up.
    """
    batch, _, length = frames.shape[:3]
    padding = -length % clip_frames
    features = encode_clips(backbone, cut_clips(frames, clip_frames))  # (B * clips, C, clip steps)
    clips = (length + padding) // clip_frames
    channels, steps = features.shape[1:]
    sequence = features.reshape(batch, clips, channels, steps).transpose(1, 2).reshape(batch, channels, clips * steps)
    return sequence[..., : clips * steps - padding // backbone.stride_frames]


def encode_clip_major(backbone: Encoder, clips: Tensor) -> Tensor:
    """Encode clips in clip-major order, as training selects them.

    Args:
        backbone: The encoder.
        clips: Normalised RGB, shape (clips, B, 3, F, H, W).

    Returns:
        Feature steps, shape (clips, B, C, S).
    """
    features = encode_clips(backbone, clips.flatten(0, 1))
    return features.reshape(*clips.shape[:2], *features.shape[1:])


def encode_halves(backbone: Encoder, frames: Tensor, *, clip_frames: int) -> Tensor:
    """Encode in two passes, for half the memory: a single sequence is cut in time, several by sequence.

    Equal to `encode_frames`, except for a single sequence whose half is not a multiple of `clip_frames`: each half is
    then padded separately. That is the official "split" mode, which the ActivityNet test script uses.

    Args:
        backbone: The encoder.
        frames: Normalised RGB, shape (B, 3, T, H, W), T at least 2.
        clip_frames: Frames per clip, a multiple of the encoder's stride.

    Returns:
        Feature steps, shape (B, C, S).
    """
    cut, join = (2, -1) if frames.shape[0] == 1 else (0, 0)
    middle = frames.shape[cut] // 2
    parts = (frames.narrow(cut, 0, middle), frames.narrow(cut, middle, frames.shape[cut] - middle))
    return torch.cat([encode_frames(backbone, part, clip_frames=clip_frames) for part in parts], dim=join)


def cut_clips(frames: Tensor, clip_frames: int) -> Tensor:
    """Cut (B, 3, T, H, W) into clips, shape (B * clips, 3, F, H, W), batch-major; the end is padded with zeros."""
    padding = -frames.shape[2] % clip_frames
    if padding:
        frames = F.pad(frames, (0, 0, 0, 0, 0, padding))
    batch, colours, length, height, width = frames.shape
    clips = frames.reshape(batch, colours, length // clip_frames, clip_frames, height, width)
    return clips.transpose(1, 2).reshape(-1, colours, clip_frames, height, width)
