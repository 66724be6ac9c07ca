"""What the detector, training and export want of an encoder, and which there are.

Another one is a class of settings (`tallformer_infer.config.model`), a module that is an `Encoder`, and a case here.
"""

from __future__ import annotations

from typing import Protocol, assert_never

from torch import Tensor

from tallformer_infer.config import AnyEncoderConfig, BackboneConfig, I3dConfig
from tallformer_training.model.backbone import VideoSwin
from tallformer_training.model.i3d import InceptionI3d
from tallformer_training.model.windows import Size


class Encoder(Protocol):
    """A `torch.nn.Module` that encodes clips on their own."""

    stride_frames: int
    """Frames per feature step."""
    stem_name: str
    """Layer that sees the pixels, which stays in float32 whatever the others compute in."""

    def steps(self, clips: Tensor) -> Tensor:
        """Encode clips, normalised RGB (N, 3, F, H, W), to feature steps (N, C, F / stride), rounded up."""

    def keep_norms(self) -> None:
        """From now on, keep the statistics of batch norms as they are in training."""


AnyEncoder = VideoSwin | InceptionI3d
"""One of the encoders, as the module that it is."""


def make_encoder(config: AnyEncoderConfig, *, clip_size: Size, checkpointing: bool = False) -> AnyEncoder:
    """The encoder of some settings, with fresh weights.

    Args:
        config: Its settings.
        clip_size: Frames, height and width in pixels that it will mostly see.
        checkpointing: Trade time for memory in training.
    """
    match config:
        case BackboneConfig():
            return VideoSwin(config, clip_size=clip_size, checkpointing=checkpointing)
        case I3dConfig():
            return InceptionI3d(config, checkpointing=checkpointing)
        case _:
            assert_never(config)
