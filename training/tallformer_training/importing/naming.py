"""What other projects call the weights: everything is translated to the official TALLFormer names first.

Source: the official TALLFormer code (commit 5519140, Apache-2.0) for detectors; Video Swin (official), mmaction2 and
torchvision (`models/video/swin_transformer.py`, BSD-3-Clause) for backbones. All four order the channels of a patch
merging and the rows of a relative position table alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tallformer_infer.config import ModelConfig
from tallformer_infer.errors import CheckpointError

_TORCHVISION_RULES = (
    (r"^features\.(\d+)\.(\d+)\.mlp\.0\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.mlp.fc1."),
    (r"^features\.(\d+)\.(\d+)\.mlp\.3\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.mlp.fc2."),
    (r"^features\.(\d+)\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}."),
    (r"^features\.(\d+)\.(norm|reduction)\.", lambda m: f"layers.{int(m[1]) // 2}.downsample.{m[2]}."),
)
"""Stages are `features.0, 2, 4, 6`, the mergings between them `features.1, 3, 5`."""


@dataclass(frozen=True)
class Layout:
    """How a file names its weights."""

    title: str
    """For people."""
    backbone_only: bool
    """Whether the file holds an encoder without a detector, and perhaps with a classifier that is not used here."""
    official: Callable[[str], str]
    """From the file's name to the official one."""


def official_names(model: ModelConfig, names: Iterable[str]) -> dict[str, str]:
    """Official name of each of our parameters and buffers; no two have the same.

    Ours differ in the first word only (`reduction`, `tcm`, `pyramid`, `fpn` for the numbered parts of the official
    neck), and in the layers of the convolutional pyramid. Official detectors also store buffers that we derive from
    the recipe: `dummy_tensor`, `relative_position_index` and `pe.pe`.
    """
    necks = ["reduction", *(["tcm"] if model.tcm else []), "pyramid", "fpn"]
    words = {word: f"neck.{index}" for index, word in enumerate(necks)}
    if model.tcm:
        words["tcm"] += ".encoder"
    table = {}
    for name in names:
        word, _, rest = name.partition(".")
        if word == "pyramid" and model.pyramid.kind == "convolution":
            rest = re.sub(r"^layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.0.", rest)
        table[name] = f"{words.get(word, word)}.{rest}"
    return table


def detect_layout(names: Iterable[str], model: ModelConfig) -> Layout:
    """Find out by its names where a file comes from.

    Raises:
        CheckpointError: It is none of the known ones; the message shows some names.
    """
    names = list(names)
    first = {name.partition(".")[0] for name in names}
    if "neck" in first or any(name.startswith(("head.cls_convs", "head.retina")) for name in names):
        return Layout("TALLFormer detector", False, str)
    if "features" in first and "patch_embed" in first:
        return Layout("torchvision Video Swin", True, _from_torchvision)
    last_norm = f"backbone.norm{len(model.backbone.depths) - 1}."
    if any(name.startswith(last_norm) for name in names):
        return Layout("mmaction2 Video Swin", True, lambda name: name.replace(last_norm, "backbone.norm."))
    if "backbone" in first:
        return Layout("Video Swin", True, str)
    if "patch_embed" in first and "layers" in first:
        return Layout("Video Swin without prefix", True, lambda name: f"backbone.{name}")
    raise CheckpointError(f"neither a TALLFormer detector nor a Video Swin backbone; its first names: {names[:3]}")


def _from_torchvision(name: str) -> str:
    for pattern, replacement in _TORCHVISION_RULES:
        translated, count = re.subn(pattern, replacement, name)
        if count:
            return f"backbone.{translated}"
    # `head` is the classifier; it must not be taken for the detector's.
    return f"cls_head.{name}" if name.startswith("head.") else f"backbone.{name}"
