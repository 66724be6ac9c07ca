"""The official code's tiny ActivityNet detector."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import (
    BackboneConfig,
    ModelConfig,
    PyramidConfig,
    Recipe,
    RefinedHeadConfig,
    TcmConfig,
    WindowConfig,
    preset,
)
from tallformer_training.importing.naming import official_names
from tallformer_training.model import Detector
from tests.model_golden import official_weights

# Tolerances of golden/README.md.
LOGITS = {"rtol": 0, "atol": 1e-4}
DISTANCES = {"rtol": 1e-5, "atol": 2e-3}
FEATURES = {"rtol": 1e-4, "atol": 1e-4}


def official_config(golden: Path) -> dict[str, Any]:
    """The configuration of the official run."""
    config: dict[str, Any] = json.loads((golden / "anet_tiny_config.json").read_text())
    return config


def tiny_recipe(golden: Path) -> Recipe:
    """The configuration that the golden weights were made for, in our words."""
    config = official_config(golden)
    swin, channels = config["model"]["backbone"], config["conv_channels"]
    tcm = config["model"]["neck"][1]
    return Recipe(
        name="anet-tiny",
        classes=tuple(config["action_names"]),
        sampling=replace(preset("anet-swin-b").sampling, resize="none", crop_px=config["testing"]["crop_size"]),
        window=WindowConfig(window_frames=config["frame_num"], clip_frames=swin["chunk_size"]),
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
            channels=channels,
            tcm=TcmConfig(
                layers=tcm["num_layers"],
                heads=tcm["encoder_layer_cfg"]["num_heads"],
                max_steps=tcm["encoder_layer_cfg"]["max_seq_len"],
                drop_path=tcm["encoder_layer_cfg"]["drop_path"],
            ),
            pyramid=PyramidConfig(kind="convolution", levels=6, fpn_channels=channels, norm="group"),
            head=RefinedHeadConfig(kind="refined"),
        ),
        candidates=preset("anet-swin-b").candidates,
        suppress=preset("anet-swin-b").suppress,
    )


def tiny_detector(golden: Path) -> Detector:
    """The detector with the golden weights, in evaluation mode."""
    recipe = tiny_recipe(golden)
    detector = Detector(recipe)
    weights = official_weights(golden, "anet_tiny_weights.npz")
    names = official_names(recipe.model, detector.state_dict())
    detector.load_state_dict({ours: weights[official] for ours, official in names.items()})
    return detector.eval()


def arrays(golden: Path, name: str, prefix: str = "") -> dict[str, NDArray[Any]]:
    """Arrays of a golden file whose names start so, without that start."""
    with np.load(golden / name) as file:
        return {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}


def tensor(array: NDArray[Any]) -> Tensor:
    """As float32."""
    return torch.from_numpy(array).float()


def middle_crop(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The middle 32 pixels of frames (T, H, W, 3)."""
    top, left = (pixels.shape[1] - 32) // 2, (pixels.shape[2] - 32) // 2
    return pixels[:, top : top + 32, left : left + 32]


def class_score_file(golden: Path, folder: Path, classifier: str) -> Path:
    """What the official run scored classes with: a score file (`cuhk`), or the truth (`gt`)."""
    config = official_config(golden)
    if classifier == "cuhk":
        content = config["cuhk"]
    else:
        labels = {
            name.removeprefix("v_"): config["action_names"][info["annotations"][0]["label_id"] - 1]
            for name, info in config["video_info"].items()
        }
        content = {"database": {name: {"annotations": [{"label": label}]} for name, label in labels.items()}}
    path = folder / f"{classifier}.json"
    path.write_text(json.dumps(content))
    return path


def assert_same_actions(found: list[tuple[str, float, float, float]], official: list[dict[str, Any]]) -> None:
    """The same actions, in any order: rows of label, start and end in seconds, score."""
    assert len(found) == len(official)
    expected = [(row["label"], *row["segment"], row["score"]) for row in official]
    by_label = {label for label, *_ in expected}
    assert {label for label, *_ in found} == by_label
    for label in by_label:
        ours, theirs = (
            np.array(sorted(numbers for name, *numbers in rows if name == label)) for rows in (found, expected)
        )
        np.testing.assert_allclose(ours[:, :2], theirs[:, :2], atol=1e-3)
        np.testing.assert_allclose(ours[:, 2], theirs[:, 2], atol=2e-5)
