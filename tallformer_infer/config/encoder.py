"""Encoders of clips: each has a class of settings here, which `kind` tells apart, and a module in torch.

Source: TALLFormer (arXiv 2204.01680) and its official code, commit 5519140, Apache-2.0, for Video Swin; Carreira and
Zisserman (arXiv 1705.07750) for I3D.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tallformer_infer.config.sizes import require_positive
from tallformer_infer.errors import ConfigError

Stem = Literal["patch", "motion"]
Pooling = Literal["mean", "max"]
Tap = Literal["mixed_4f", "mixed_5c"]
PatchSize = tuple[int, int, int]


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Video Swin transformer that encodes one clip at a time."""

    kind: Literal["video_swin"] = "video_swin"
    """Tells the kinds of encoders apart; descriptions without it mean this one."""
    embed_channels: int
    """Channels after patch embedding; doubles at each of the following stages."""
    depths: tuple[int, ...]
    """Blocks per stage."""
    heads: tuple[int, ...]
    """Attention heads per stage."""
    window: tuple[int, int, int] = (8, 7, 7)
    """Attention window (time, height, width), in patches."""
    patch: PatchSize = (2, 4, 4)
    """Patch size (time, height, width), in frames and pixels."""
    stem: Stem = "patch"
    """`patch`: a linear map of each patch, as in the paper; `motion`: convolutions over what changes from one frame to
    the next, for encoders that start from random weights."""
    pooling: Pooling = "mean"
    """How the last map becomes one feature step: `mean` over space after the last norm, as in the paper; `max` before
    it, for small things in a large picture."""
    mlp_ratio: float = 4.0
    """Hidden width of a block's MLP, as a multiple of its channels."""
    drop_path: float = 0.2
    """Stochastic depth of the last block, in [0, 1); grows linearly from 0."""
    frozen_stages: int = 2
    """Stages that are not trained; 0 freezes the patch embedding only, -1 nothing."""

    def __post_init__(self) -> None:
        require_positive("backbone", embed_channels=self.embed_channels, patch=self.patch, window=self.window)
        require_positive("backbone", depths=self.depths, heads=self.heads)
        if not self.depths or len(self.depths) != len(self.heads):
            raise ConfigError(f"backbone: depths={list(self.depths)} and heads={list(self.heads)} must be as many")
        for stage, heads in enumerate(self.heads):
            channels = self.embed_channels * 2**stage
            if channels % heads:
                raise ConfigError(f"backbone: heads={heads} must divide the {channels} channels of stage {stage}")
        if self.stem == "motion":
            self._require_motion_stem()

    def _require_motion_stem(self) -> None:
        frames, height, width = self.patch
        if frames != 2 or height != width or height < 2 or height & (height - 1):
            raise ConfigError(
                f"backbone: patch={list(self.patch)} must be 2 frames and a power of two of pixels, "
                "the same both ways, for stem=motion"
            )
        if self.embed_channels % (height // 2):
            raise ConfigError(
                f"backbone: embed_channels={self.embed_channels} must be a multiple of {height // 2} for stem=motion"
            )

    @property
    def out_channels(self) -> int:
        """Channels of a feature step."""
        return int(self.embed_channels * 2 ** (len(self.depths) - 1))

    @property
    def stride_frames(self) -> int:
        """Frames per feature step."""
        return self.patch[0]

    @property
    def reduction_stride(self) -> int:
        """Feature steps per step of the pyramid's first level, where a reduction stands in front of it."""
        return 4

    @property
    def text(self) -> str:
        """What it is, for people."""
        return f"Video Swin, {self.embed_channels} channels, depths {self._depths_text}"

    @property
    def short_text(self) -> str:
        """The same for a column of a table."""
        return f"Swin {self.embed_channels}, {self._depths_text}"

    @property
    def _depths_text(self) -> str:
        return "-".join(map(str, self.depths))

    @property
    def stride_px(self) -> int:
        """Pixels per position of the last feature map."""
        return int(self.patch[1] * 2 ** (len(self.depths) - 1))


@dataclass(frozen=True, kw_only=True)
class I3dConfig:
    """Inception-I3D that encodes one clip at a time. Its batch norms are never trained."""

    kind: Literal["i3d"]
    """Tells the kinds of encoders apart."""
    tap: Tap = "mixed_5c"
    """Layer whose map becomes feature steps: `mixed_5c`, the last one, with a step every 8 frames; `mixed_4f`, with one
    every 4, whose later layers the model does not have."""
    narrowing: int = 1
    """What the published channels of every layer are divided by: 1, 2, 4 or 8. Kinetics weights are for 1."""

    def __post_init__(self) -> None:
        if self.narrowing not in _NARROWINGS:
            raise ConfigError(f"backbone: narrowing={self.narrowing} must be one of {', '.join(map(str, _NARROWINGS))}")

    @property
    def out_channels(self) -> int:
        """Channels of a feature step."""
        return _TAPS[self.tap][0] // self.narrowing

    @property
    def stride_frames(self) -> int:
        """Frames per feature step."""
        return _TAPS[self.tap][1]

    @property
    def reduction_stride(self) -> int:
        """Feature steps per step of the pyramid's first level, of 8 frames as with Video Swin."""
        return _FINEST_FRAMES // self.stride_frames

    @property
    def stride_px(self) -> int:
        """Pixels per position of the last feature map."""
        return 32 if self.tap == "mixed_5c" else 16

    @property
    def text(self) -> str:
        """What it is, for people."""
        return f"I3D to {self.tap.capitalize()}, {self.out_channels} channels"

    @property
    def short_text(self) -> str:
        """The same for a column of a table."""
        return f"I3D {self.out_channels}"


AnyEncoderConfig = BackboneConfig | I3dConfig
"""One of the encoders; `kind` tells which."""

_NARROWINGS = (1, 2, 4, 8)
_TAPS: dict[Tap, tuple[int, int]] = {"mixed_4f": (832, 4), "mixed_5c": (1024, 8)}
"""Channels and frames per step."""
_FINEST_FRAMES = 8
