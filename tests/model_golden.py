"""The official code's tiny detector, and the deterministic weights of the specification's appendix."""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import (
    BackboneConfig,
    HeadConfig,
    ModelConfig,
    PyramidConfig,
    Recipe,
    SamplingConfig,
    TcmConfig,
    WindowConfig,
)
from tallformer_infer.config.presets import THUMOS14_CLASSES
from tallformer_training.importing.naming import official_names
from tallformer_training.model import Detector

DERIVED = ("dummy_tensor", "relative_position_index", "pe.pe")
"""Ends of the official names that we derive from the recipe."""

# Tolerances of golden/README.md, each about ten times the official float32's distance from its own float64.
FEATURES = {"rtol": 1e-4, "atol": 1e-4}
LOGITS = {"rtol": 0, "atol": 1e-4}
REGRESSIONS = {"rtol": 0, "atol": 5e-5}
SEGMENTS = {"rtol": 0, "atol": 1e-3}
SCORES = {"rtol": 0, "atol": 2e-5}


def tiny_recipe(golden: Path, *, crop_px: int = 112) -> Recipe:
    """The configuration that the golden weights were made for, in our words."""
    official = json.loads((golden / "thumos_tiny_config.json").read_text())
    return recipe_from_official(official["model"], crop_px=crop_px, window_frames=96)


def recipe_from_official(model: Mapping[str, Any], *, crop_px: int, window_frames: int) -> Recipe:
    """An official detector configuration in our words."""
    swin, (srm, tcm, tdm, fpn), head = model["backbone"], model["neck"], model["head"]
    return Recipe(
        name="from-official",
        classes=THUMOS14_CLASSES[: head["num_classes"]],
        sampling=SamplingConfig(resize="none", crop_px=crop_px),
        window=WindowConfig(window_frames=window_frames, clip_frames=model["chunk_size"]),
        model=ModelConfig(
            backbone=BackboneConfig(
                embed_channels=swin["embed_dim"],
                depths=tuple(swin["depths"]),
                heads=tuple(swin["num_heads"]),
                window=tuple(swin["window_size"]),
                patch=tuple(swin["patch_size"]),
                drop_path=swin["drop_path_rate"],
                frozen_stages=swin["frozen_stages"],
            ),
            channels=srm["srm_cfg"]["out_channels"],
            tcm=TcmConfig(
                layers=tcm["num_layers"],
                heads=tcm["encoder_layer_cfg"]["num_heads"],
                max_steps=tcm["encoder_layer_cfg"]["max_seq_len"],
                drop_path=tcm["encoder_layer_cfg"]["drop_path"],
            ),
            pyramid=PyramidConfig(
                heads=tdm["num_heads"],
                attention_steps=tuple(tdm["kernel_sizes"]),
                fpn_channels=fpn["out_channels"],
            ),
            head=HeadConfig(
                channels=head["feat_channels"], stacked_convs=head["stacked_convs"], scales=head["num_anchors"]
            ),
        ),
    )


def official_weights(golden: Path, name: str = "thumos_tiny_weights.npz") -> dict[str, Tensor]:
    """A golden state dict by the official names."""
    with np.load(golden / name) as arrays:
        return {key: torch.from_numpy(arrays[key]) for key in arrays.files}


def tiny_detector(golden: Path, *, crop_px: int = 112) -> Detector:
    """The detector with the golden weights, in evaluation mode."""
    recipe = tiny_recipe(golden, crop_px=crop_px)
    detector = Detector(recipe)
    weights = official_weights(golden)
    names = official_names(recipe.model, detector.state_dict())
    detector.load_state_dict({ours: weights[official] for ours, official in names.items()})
    return detector.eval()


def tiny_window(golden: Path, clip: str) -> tuple[Tensor, dict[str, NDArray[Any]]]:
    """Normalised frames (1, 3, 96, H, W) of one of the three golden windows, and its arrays.

    Args:
        golden: Folder of the goldens.
        clip: `112`, or one of the two windows of the 64 px video: `w0`, `w1`.
    """
    file = "thumos_tiny_112x112.npz" if clip == "112" else "thumos_tiny_64x64.npz"
    with np.load(golden / file) as arrays:
        pixels = arrays["frames_rgb"]
        prefix = "" if clip == "112" else f"{clip}_"
        if prefix:
            top, left = arrays["crop_top_left"]
            start, real = (0, 96) if clip == "w0" else (72, 78)
            pixels = pixels[start : start + real, top : top + 64, left : left + 64]
        values = {key.removeprefix(prefix): arrays[key] for key in arrays.files if key.startswith(prefix)}
    return normalised(pixels, frames=96), values


def normalised(pixels: NDArray[np.uint8], *, frames: int) -> Tensor:
    """Pixels (T, H, W, 3) as the encoder wants them, (1, 3, frames, H, W), zeros after the last frame."""
    sampling = SamplingConfig()
    values = (torch.from_numpy(pixels).float() - torch.tensor(sampling.mean)) / torch.tensor(sampling.std)
    clip = values.permute(3, 0, 1, 2)[None]
    return torch.nn.functional.pad(clip, (0, 0, 0, 0, 0, frames - clip.shape[2]))


def seeded(tag: str, shape: tuple[int, ...]) -> Tensor:
    """Normal numbers that depend on the tag only (specification, appendix A.1)."""
    numbers = np.random.RandomState(zlib.crc32(tag.encode())).standard_normal(shape)
    return torch.from_numpy(numbers.astype(np.float32))


def fill(state: dict[str, Tensor], official: Mapping[str, str]) -> dict[str, Tensor]:
    """Deterministic weights (specification, appendix A.1) for a state dict, by official name."""
    return {ours: _filled(official[ours], tensor) for ours, tensor in state.items()}


def _filled(name: str, tensor: Tensor) -> Tensor:
    if not tensor.dtype.is_floating_point:
        return tensor
    numbers = seeded(name, tuple(tensor.shape))
    if name.endswith("running_var"):
        return 0.5 + numbers.abs()
    if name.endswith("relative_position_bias_table"):
        return 0.5 * numbers
    if tensor.dim() == 1:
        return (1 if name.endswith((".weight", ".scale")) else 0) + 0.1 * numbers
    return numbers / float(np.sqrt(np.prod(tensor.shape[1:])))


def wide_one_stage_recipe(recipe: Recipe) -> Recipe:
    """The recipe with an encoder of one block that gives as many channels: its neck and head are the real ones."""
    channels = recipe.model.backbone.out_channels
    backbone = BackboneConfig(embed_channels=channels, depths=(1,), heads=(32,))
    return replace(recipe, model=replace(recipe.model, backbone=backbone))
