"""The whole detector: frames to feature steps (encode), feature steps to segments (localize, decode)."""

from __future__ import annotations

from typing import assert_never

import torch
from torch import Tensor, nn

from tallformer_infer.config import (
    ContrastHeadConfig,
    HeadConfig,
    ModelConfig,
    PointHeadConfig,
    Recipe,
    RefinedHeadConfig,
)
from tallformer_training.model.contrast_head import ContrastHead, ContrastOutputs
from tallformer_training.model.encoder import (
    encode_clip_major,
    encode_clips,
    encode_frames,
    encode_halves,
    make_encoder,
)
from tallformer_training.model.head import AnchorHead, HeadOutputs, Segments, decode_windows
from tallformer_training.model.point_head import PointHead, PointOutputs, decode_points
from tallformer_training.model.pyramid import AttentionPyramid, ConvolutionPyramid, FeaturePyramid
from tallformer_training.model.refined_head import (
    Proposals,
    RefinedHead,
    RefinedOutputs,
    decode_proposals,
    initialise_glorot,
    with_classes,
)
from tallformer_training.model.tcm import Reduction, TemporalConsistency
from tallformer_training.model.transformer_pyramid import LevelNorms, TransformerPyramid, level_masks

Outputs = HeadOutputs | RefinedOutputs | PointOutputs | ContrastOutputs
"""Outputs of one of the heads."""


class Detector(nn.Module):
    """TALLFormer for one recipe.

    Source: TALLFormer (arXiv 2204.01680).
    """

    def __init__(self, recipe: Recipe, *, checkpointing: bool = False) -> None:
        """Make the detector with random weights, in training mode.

        Args:
            recipe: Architecture, clip size and anchors.
            checkpointing: Recompute activations of the encoder in the backward pass.

        Raises:
            ConfigError: Numbers of heads, groups and channels do not fit together.
        """
        super().__init__()
        model = recipe.model
        self.recipe = recipe
        crop_px = recipe.sampling.crop_px
        clip_size = (recipe.window.clip_frames, crop_px, crop_px)
        self.backbone = make_encoder(model.backbone, clip_size=clip_size, checkpointing=checkpointing)
        self.reduction = _reduction(model)
        self.tcm = TemporalConsistency(model.channels, model.tcm) if model.tcm else None
        self.pyramid = _pyramid(recipe)
        self.fpn = _fpn(recipe)
        self.head = _head(recipe)
        if isinstance(self.head, RefinedHead):
            initialise_glorot(self.reduction)

    def forward(self, frames: Tensor) -> Outputs:
        """Encode and localize whole windows, normalised RGB of shape (B, 3, T, H, W)."""
        return self.localize(self.encode_frames(frames))

    def encode(self, clips: Tensor) -> Tensor:
        """Encode clips independently: normalised RGB (N, 3, F, H, W) to feature steps (N, C, F / stride)."""
        return encode_clips(self.backbone, clips)

    def encode_frames(self, frames: Tensor) -> Tensor:
        """Encode sequences of any length T: (B, 3, T, H, W) to (B, C, T / stride), rounded up (see `clips`)."""
        return encode_frames(self.backbone, frames, clip_frames=self.recipe.window.clip_frames)

    def encode_halves(self, frames: Tensor) -> Tensor:
        """Like `encode_frames`, in two passes with half the memory (see `clips`)."""
        return encode_halves(self.backbone, frames, clip_frames=self.recipe.window.clip_frames)

    def encode_clip_major(self, clips: Tensor) -> Tensor:
        """Encode clips in clip-major order: (clips, B, 3, F, H, W) to (clips, B, C, F / stride)."""
        return encode_clip_major(self.backbone, clips)

    def localize(self, features: Tensor, real_frames: Tensor | None = None) -> Outputs:
        """Find actions in windows of feature steps.

        Args:
            features: Shape (B, C, S).
            real_frames: Frames of each window that are not padding, shape (B,); None if there is no padding. Only used
                by a pyramid of kind `transformer`, the point head and the contrast head.

        Raises:
            ValueError: S is more than the recipe's window has.
        """
        if real_frames is None:
            real_frames = torch.full(features.shape[:1], self.recipe.window.window_frames, device=features.device)
        if isinstance(self.head, ContrastHead):
            contrast: ContrastOutputs = self.head(features, real_frames)
            return contrast
        x: Tensor = self.reduction(features)
        if self.tcm is not None:
            x = self.tcm(x)
        masks = [
            mask.to(features.dtype) for mask in level_masks(real_frames, x.shape[-1], self.recipe.model.level_strides)
        ]
        levels = self.fpn(self.pyramid(x, masks) if isinstance(self.pyramid, TransformerPyramid) else self.pyramid(x))
        outputs: Outputs
        match self.recipe.model.head:
            case HeadConfig():
                outputs = self.head(levels)
            case PointHeadConfig():
                outputs = self.head(levels, masks)
            case ContrastHeadConfig():
                raise AssertionError("it has neither reduction nor pyramid")
            case RefinedHeadConfig(classifier_input=seen):
                outputs = self.head(levels, features if seen == "encoder" else x)
        return outputs

    def decode(self, outputs: Outputs, window_start_frames: Tensor, real_frames: Tensor) -> Segments:
        """Turn the head's outputs into segments and scores.

        Args:
            outputs: From `localize`.
            window_start_frames: First frame of each window in the video, shape (B,).
            real_frames: Frames of each window that are not padding, shape (B,).

        Returns:
            Segments (B, A, 2) in frames of the whole video and scores (B, A, K).
        """
        config = self.recipe.model.head
        if isinstance(outputs, RefinedOutputs):
            assert isinstance(config, RefinedHeadConfig), "what another head says"
            proposals = self.propose(outputs, window_start_frames, real_frames)
            return with_classes(proposals, classes_per_proposal=config.classes_per_proposal)
        if isinstance(outputs, ContrastOutputs):
            assert isinstance(self.head, ContrastHead), "what another head says"
            return self.head.decode(outputs, window_start_frames, real_frames)
        if isinstance(outputs, PointOutputs):
            return decode_points(
                outputs,
                steps=self.recipe.finest_steps,
                level_strides=self.recipe.model.level_strides,
                window_start_frames=window_start_frames,
                real_frames=real_frames,
            )
        return decode_windows(
            outputs,
            self.recipe.model.anchor_head,
            strides=self.recipe.model.level_strides,
            anchors_per_level=self.recipe.candidates.anchors_per_level,
            window_start_frames=window_start_frames,
            real_frames=real_frames,
        )

    def propose(self, outputs: RefinedOutputs, window_start_frames: Tensor, real_frames: Tensor) -> Proposals:
        """Like `decode`, before segments get classes; only for a refined head."""
        return decode_proposals(
            outputs,
            level_strides=self.recipe.model.level_strides,
            window_start_frames=window_start_frames,
            real_frames=real_frames,
        )


def _head(recipe: Recipe) -> AnchorHead | RefinedHead | PointHead | ContrastHead:
    model, classes = recipe.model, len(recipe.classes)
    match model.head:
        case HeadConfig():
            return AnchorHead(model.pyramid.fpn_channels, classes, model.head)
        case ContrastHeadConfig():
            return ContrastHead(recipe, model.head)
        case PointHeadConfig():
            return PointHead(model.pyramid.fpn_channels, model.head, classes=classes, levels=model.pyramid.levels)
        case RefinedHeadConfig():
            seen = model.backbone.out_channels if model.head.classifier_input == "encoder" else model.channels
            return RefinedHead(
                model.pyramid.fpn_channels,
                model.head,
                classes=classes,
                classifier_channels=seen,
                level_strides=model.level_strides,
            )
        case _:
            assert_never(model.head)


def _reduction(model: ModelConfig) -> Reduction | nn.Identity:
    if model.pyramid.kind == "transformer" or isinstance(model.head, ContrastHeadConfig):
        return nn.Identity()
    return Reduction(model.backbone.out_channels, model.channels, stride=model.reduction_stride)


def _pyramid(recipe: Recipe) -> AttentionPyramid | ConvolutionPyramid | TransformerPyramid | nn.Identity:
    model, config = recipe.model, recipe.model.pyramid
    if isinstance(model.head, ContrastHeadConfig):
        return nn.Identity()
    match config.kind:
        case "attention":
            return AttentionPyramid(model.channels, config, max_steps=recipe.finest_steps)
        case "convolution":
            return ConvolutionPyramid(model.channels, config)
        case "transformer":
            return TransformerPyramid(model.backbone.out_channels, model.channels, config)
        case _:
            assert_never(config.kind)


def _fpn(recipe: Recipe) -> FeaturePyramid | LevelNorms | nn.Identity:
    model, config = recipe.model, recipe.model.pyramid
    if isinstance(model.head, ContrastHeadConfig):
        return nn.Identity()
    if config.kind == "transformer":
        return LevelNorms(model.channels, levels=config.levels)
    return FeaturePyramid(model.channels, config.fpn_channels, levels=config.levels, norm=config.norm)
