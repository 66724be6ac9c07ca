"""Architecture of a model: encoder, neck, pyramid and head.

Source: TALLFormer (arXiv 2204.01680) and its official code, commit 5519140, Apache-2.0, with Video Swin; Carreira and
Zisserman (arXiv 1705.07750) for I3D.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Literal

from tallformer_infer.errors import ConfigError

Stem = Literal["patch", "motion"]
Pooling = Literal["mean", "max"]
Tap = Literal["mixed_4f", "mixed_5c"]
PatchSize = tuple[int, int, int]

_NARROWINGS = (1, 2, 4, 8)
_TAPS: dict[Tap, tuple[int, int]] = {"mixed_4f": (832, 4), "mixed_5c": (1024, 8)}
"""Channels and frames per step."""
_FINEST_FRAMES = 8

Margins = Literal["mean", "larger"]
Pyramid = Literal["attention", "convolution", "transformer"]
Norm = Literal["batch", "group"]
ClassifierInput = Literal["encoder", "tcm"]

GROUPS = 32
"""Groups of a group norm, in the official code and in AFSD."""


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Video Swin transformer that encodes one clip at a time."""

    kind: Literal["video_swin"] = "video_swin"
    """Kind of encoder; the default for descriptions without it."""
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
    """`patch`: a linear map of each patch, as in the paper; `motion`: convolutions over differences between frames, for
    encoders that are trained from random weights."""
    pooling: Pooling = "mean"
    """Spatial pooling of the last feature map: `mean` after the last norm, as in the paper; `max` before it, for small
    objects in a large picture."""
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
        """Feature steps per step of the pyramid's first level, if a reduction precedes it."""
        return 4

    @property
    def text(self) -> str:
        """Description, for display."""
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
    """Layer that provides feature steps: `mixed_5c`, the last one, with a step every 8 frames; `mixed_4f`, with one
    every 4, where the model has no later layers."""
    narrowing: int = 1
    """Divisor of the published number of channels of every layer: 1, 2, 4 or 8. Kinetics weights are for 1."""

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
        """Description, for display."""
        return f"I3D to {self.tap.capitalize()}, {self.out_channels} channels"

    @property
    def short_text(self) -> str:
        """The same for a column of a table."""
        return f"I3D {self.out_channels}"


AnyEncoderConfig = BackboneConfig | I3dConfig
"""Config of any encoder, identified by `kind`."""


def require_positive(section: str, **values: int | tuple[int, ...]) -> None:
    """Check that sizes are at least 1.

    Raises:
        ConfigError: A size is below 1; the message names it.
    """
    for name, value in values.items():
        sizes = value if isinstance(value, tuple) else (value,)
        if any(size < 1 for size in sizes):
            raise ConfigError(
                f"{section}: {name}={list(value) if isinstance(value, tuple) else value} must be at least 1"
            )


@dataclass(frozen=True, kw_only=True)
class TcmConfig:
    """Temporal consistency module: a transformer over the feature steps of a window."""

    layers: int = 3
    """Pre-norm transformer blocks."""
    heads: int = 16
    """Attention heads."""
    max_steps: int = 60
    """Longest sequence the relative position table holds; part of the weights' shapes."""
    drop_path: float = 0.1
    """Stochastic depth of every layer, in [0, 1)."""

    def __post_init__(self) -> None:
        require_positive("tcm", layers=self.layers, heads=self.heads, max_steps=self.max_steps)


@dataclass(frozen=True, kw_only=True)
class PyramidConfig:
    """Temporal pyramid: each level has half the feature steps of the one below."""

    kind: Pyramid = "attention"
    """`attention`: locally masked transformer layers (THUMOS14); `convolution`: strided convolutions (ActivityNet);
    `transformer`: ActionFormer's, which uses the encoder's steps directly, without reduction and `tcm`."""
    levels: int = 5
    """Number of levels, including the input."""
    heads: int = 8
    """Attention heads (not convolution)."""
    attention_steps: tuple[int, ...] = (7, 7, 5, 5)
    """Width of the local attention in steps: per level above the first (attention), or per level (transformer, where
    an empty tuple means global attention)."""
    dropout: float = 0.1
    """Dropout in training, in [0, 1) (attention only)."""
    fpn_channels: int = 256
    """Channels of every level after the feature pyramid network; for `transformer`, those of the model."""
    norm: Norm = "batch"
    """Normalisation of the feature pyramid network and of the strided convolutions (not transformer)."""
    embed_layers: int = 2
    """Convolutions in front of the first level (transformer only)."""
    stem_layers: int = 2
    """Transformer blocks of the first level (transformer only)."""
    drop_path: float = 0.1
    """Stochastic depth of every block, in [0, 1) (transformer only)."""

    def __post_init__(self) -> None:
        require_positive("pyramid", levels=self.levels, heads=self.heads, fpn_channels=self.fpn_channels)
        if self.kind == "attention" and len(self.attention_steps) != self.levels - 1:
            raise ConfigError(
                f"pyramid: attention_steps={list(self.attention_steps)} must have {self.levels - 1} entries, levels - 1"
            )
        if self.kind == "transformer" and len(self.attention_steps) not in (0, self.levels):
            raise ConfigError(
                f"pyramid: attention_steps={list(self.attention_steps)} must have {self.levels} entries, one each, "
                "or none, for kind=transformer"
            )
        if self.embed_layers < 1 or self.stem_layers < 0 or not 0 <= self.drop_path < 1:
            raise ConfigError(
                f"pyramid: embed_layers={self.embed_layers} must be at least 1, stem_layers={self.stem_layers} at "
                f"least 0, drop_path={self.drop_path} in [0, 1)"
            )


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """Anchor head shared by all levels of the pyramid (THUMOS14)."""

    kind: Literal["anchor"] = "anchor"
    """Tells the kinds of heads apart; descriptions without it mean this one."""
    channels: int = 256
    """Channels of the two convolution towers."""
    stacked_convs: int = 4
    """Convolutions per tower."""
    scale_base: float = 2.0
    """Length of the shortest anchor of a level, in strides of that level."""
    scales: int = 5
    """Anchors per position; lengths are `stride * scale_base * 2 ** (i / scales)`."""

    def __post_init__(self) -> None:
        require_positive("head", channels=self.channels, stacked_convs=self.stacked_convs, scales=self.scales)
        if not 0 < self.scale_base < float("inf"):
            raise ConfigError(f"head: scale_base={self.scale_base} must be above 0")


@dataclass(frozen=True, kw_only=True)
class RefinedHeadConfig:
    """Head that proposes segments, refines them with features at their boundaries, and classifies the whole window.

    Its channels are those of the pyramid. Used for ActivityNet and HACS, whose videos have one class each.

    Source: AFSD (Lin et al., CVPR 2021), as in TALLFormer's ActivityNet variant.
    """

    kind: Literal["refined"]
    """Tells the kinds of heads apart."""
    stacked_convs: int = 2
    """Convolutions per tower."""
    longest_reach: float = 4.0
    """Maximum distance from a position to an end of its proposal, in strides of its level."""
    classes_per_proposal: int = 2
    """Number of classes per proposal, the likeliest ones of the window: 2 for ActivityNet, 1 for HACS."""
    classifier_input: ClassifierInput = "encoder"
    """Input of the classifier of the whole window: features of the `encoder`, as in the official code, or of the `tcm`,
    as in the paper."""
    classifier_dropout: float = 0.5
    """Dropout before the classifier in training, in [0, 1)."""

    def __post_init__(self) -> None:
        require_positive("head", stacked_convs=self.stacked_convs, classes_per_proposal=self.classes_per_proposal)
        if not 0 < self.longest_reach < float("inf"):
            raise ConfigError(f"head: longest_reach={self.longest_reach} must be above 0")
        if not 0 <= self.classifier_dropout < 1:
            raise ConfigError(f"head: classifier_dropout={self.classifier_dropout} must be in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class PointHeadConfig:
    """Anchor-free head that predicts the distances to the ends of the action and its class at every position.

    Its channels are those of the pyramid.

    Source: ActionFormer (Zhang et al., ECCV 2022, arXiv 2202.07925).
    """

    kind: Literal["points"]
    """Tells the kinds of heads apart."""
    stacked_convs: int = 2
    """Convolutions per tower."""

    def __post_init__(self) -> None:
        require_positive("head", stacked_convs=self.stacked_convs)


@dataclass(frozen=True, kw_only=True)
class ContrastHeadConfig:
    """Head without trained localization: finds segments in which a class is likelier than in the margins around them.

    A linear classifier predicts class probabilities at each feature step of the encoder. Candidates are all segments of
    a grid. Such a model has no reduction, `tcm` or pyramid.
    """

    kind: Literal["contrast"]
    """Tells the kinds of heads apart."""
    lengths_steps: tuple[int, ...] = (3, 4, 5, 6, 8, 10, 12, 15, 19, 24, 30, 38, 47, 59, 74, 93, 116, 148, 186)
    """Lengths of segments, in feature steps, increasing."""
    stride_part: float = 0.125
    """Distance between the starts of segments, as a fraction of their length; rounded down to 1, 2, 4, … steps."""
    margin_part: float = 0.25
    """Length of the margin on each side of a segment, as a fraction of its length."""
    least_margin_steps: int = 3
    """Minimum length of a margin, in feature steps."""
    most_margin_steps: int = 25
    """Maximum length of a margin, in feature steps."""
    margins: Margins = "mean"
    """How the two margins are combined: the `mean` of both, or the `larger` one."""
    edge_part: float = 0.0
    """Value of margin steps outside the video, as a fraction of the mean inside the segment: 0 for zero, 1 for no
    contrast."""
    temperature: float = 1.0
    """Divisor of the classifier's outputs before the softmax."""
    logit_steps: int = 1
    """Feature steps over which the classifier's outputs are averaged, odd."""
    smoothing_steps: int = 3
    """Feature steps over which probabilities are averaged, odd."""
    contrast_weight: float = 1.0
    """Weight of the probability in the margins, which is subtracted from that inside to give the contrast."""
    inside_power: float = 0.0
    """The score is `inside ** inside_power * contrast ** contrast_power`, with means over the steps of the segment."""
    contrast_power: float = 1.0
    """See `inside_power`."""

    def __post_init__(self) -> None:
        lengths = self.lengths_steps
        require_positive("head", lengths_steps=lengths, least_margin_steps=self.least_margin_steps)
        if not lengths or any(longer <= shorter for shorter, longer in itertools.pairwise(lengths)):
            raise ConfigError(f"head: lengths_steps={list(lengths)} must be given, each longer than the one before")
        if self.most_margin_steps < self.least_margin_steps:
            raise ConfigError(
                f"head: most_margin_steps={self.most_margin_steps} must be at least "
                f"least_margin_steps={self.least_margin_steps}"
            )
        for name in ("logit_steps", "smoothing_steps"):
            if getattr(self, name) < 1 or getattr(self, name) % 2 == 0:
                raise ConfigError(f"head: {name}={getattr(self, name)} must be odd and at least 1")
        for name in ("stride_part", "margin_part", "temperature", "contrast_power"):
            if not 0 < getattr(self, name) < math.inf:
                raise ConfigError(f"head: {name}={getattr(self, name)} must be above 0")
        for name in ("edge_part", "contrast_weight", "inside_power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ConfigError(f"head: {name}={getattr(self, name)} must be at least 0")

    def margin_steps(self, length_steps: int) -> int:
        """Length of the margin on each side of a segment with this length, in steps."""
        wanted = math.floor(length_steps * self.margin_part + 0.5)
        return min(max(wanted, self.least_margin_steps), self.most_margin_steps)

    def stride_steps(self, length_steps: int, clip_steps: int) -> int:
        """Steps between the starts of segments with this length: a power of two that divides a clip.

        A video that is shifted by a clip therefore has the same segments, shifted.
        """
        stride = 1
        while 2 * stride <= length_steps * self.stride_part and clip_steps % (2 * stride) == 0:
            stride *= 2
        return stride

    @property
    def reach_steps(self) -> int:
        """Steps before and after a segment that its score may depend on."""
        return max(map(self.margin_steps, self.lengths_steps)) + self.logit_steps // 2 + self.smoothing_steps // 2


AnyHeadConfig = HeadConfig | RefinedHeadConfig | PointHeadConfig | ContrastHeadConfig
"""Config of any head, identified by `kind`."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The whole detector."""

    backbone: AnyEncoderConfig
    """Encoder of a clip."""
    channels: int = 512
    """Channels between the reduction and the pyramid."""
    tcm: TcmConfig | None = TcmConfig()
    """Transformer over the window; None for none."""
    pyramid: PyramidConfig = PyramidConfig()
    """Temporal pyramid and feature pyramid network; like `channels`, not used for `head.kind=contrast`."""
    head: AnyHeadConfig = HeadConfig()
    """Head that finds segments on the levels of the pyramid."""

    def __post_init__(self) -> None:
        require_positive("model", channels=self.channels)
        if isinstance(self.head, RefinedHeadConfig) and self.pyramid.fpn_channels % GROUPS:
            raise ConfigError(
                f"pyramid: fpn_channels={self.pyramid.fpn_channels} must be a multiple of {GROUPS} "
                "for head.kind=refined"
            )
        if isinstance(self.head, ContrastHeadConfig):
            if self.tcm is not None:
                raise ConfigError("model: tcm must be null for head.kind=contrast, which takes the encoder's steps")
        elif self.pyramid.kind == "transformer":
            self._require_transformer()

    def _require_transformer(self) -> None:
        if self.tcm is not None:
            raise ConfigError("model: tcm must be null for pyramid.kind=transformer, whose first level does its work")
        if self.pyramid.fpn_channels != self.channels:
            raise ConfigError(
                f"pyramid: fpn_channels={self.pyramid.fpn_channels} must be {self.channels}, the model's channels, "
                "for kind=transformer"
            )
        if isinstance(self.head, RefinedHeadConfig):
            raise ConfigError("head: kind=refined needs pyramid.kind=convolution or attention, not transformer")

    @property
    def anchor_head(self) -> HeadConfig:
        """The head, if it is an anchor head.

        Raises:
            ConfigError: It is of another kind.
        """
        if isinstance(self.head, HeadConfig):
            return self.head
        raise ConfigError(f"head.kind={self.head.kind}: has no anchors; expected head.kind=anchor")

    @property
    def encoder_stride(self) -> int:
        """Frames per feature step of the encoder."""
        return self.backbone.stride_frames

    @property
    def reduction_stride(self) -> int:
        """Feature steps of the encoder per step of the finest level."""
        is_direct = self.pyramid.kind == "transformer" or isinstance(self.head, ContrastHeadConfig)
        return 1 if is_direct else self.backbone.reduction_stride

    @property
    def level_strides(self) -> tuple[int, ...]:
        """Frames per feature step of every pyramid level; of the encoder if there is no pyramid."""
        if isinstance(self.head, ContrastHeadConfig):
            return (self.encoder_stride,)
        return tuple(self.encoder_stride * self.reduction_stride * 2**level for level in range(self.pyramid.levels))
