"""Which recipes fit a file of weights: what the file holds, what contradicts a recipe, and what to do instead."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from tallformer_infer.config import RECIPES, BackboneConfig, Recipe, preset, to_json
from tallformer_infer.errors import CheckpointError
from tallformer_training.importing.naming import I3D_STEM, OPENTAD, Layout, detect_layout, official_names
from tallformer_training.model import Detector

_SWINS: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "Video Swin-T",
    (96, (2, 2, 18, 2)): "Video Swin-S",
    (128, (2, 2, 18, 2)): "Video Swin-B",
    (192, (2, 2, 18, 2)): "Video Swin-L",
}
_SHAPELESS = {"frozen_stages", "drop_path", "classes_per_proposal"}
"""Settings of a model that change no name and no shape of its weights."""


def contradictions(layout: Layout, recipe: Recipe) -> list[str]:
    """What the origin of a file says that the recipe does not, one line each.

    OpenTAD's encoder sees a window as one clip, and frames behind the end of a video repeat the last one. With other
    clips the names and shapes are the same, and the results are not.
    """
    found = []
    if layout.title == OPENTAD:
        window, fill = recipe.window, recipe.sampling.fill
        if window.clips != 1:
            found.append(
                f"OpenTAD's encoder sees a window as one clip, but the recipe says clip_frames={window.clip_frames} "
                f"of window_frames={window.window_frames}"
            )
        if fill != "edge":
            found.append(f"OpenTAD repeats the last frame behind the end of a video, but the recipe says fill={fill}")
    return found


def twins(layout: Layout, recipe: Recipe) -> list[str]:
    """Other recipes whose weights have the same names and shapes, so that a file cannot tell which one it is for."""
    shape = _shape(recipe)
    others = {name: preset(name) for name in RECIPES if name != recipe.name}
    return [name for name, other in others.items() if _shape(other) == shape and not contradictions(layout, other)]


def advice(layout: Layout, tensors: Mapping[str, Tensor], recipe: Recipe, *, only_missing: Sequence[str]) -> str:
    """What a file that does not fit `recipe` holds and what to do with it; `` where the message says enough.

    Args:
        layout: Of the file.
        tensors: Its tensors.
        recipe: What it does not fit.
        only_missing: Official names of what is missing, where nothing else is wrong.
    """
    own = _lacking(tensors, recipe)
    if own == []:  # names and shapes are right, values are not
        return ""
    encoder = _encoder(tensors) or "an encoder"
    fits = {name: _lacking(tensors, preset(name)) for name in RECIPES if _may_fit(preset(name), tensors)}
    whole = [name for name, lacking in fits.items() if lacking == []]
    if whole:
        return f"the file holds {_article(layout.title)} with {encoder}; it fits --recipe {' or '.join(whole)}"
    if not layout.backbone_only:
        if not _may_fit(recipe, tensors):
            return f"the file holds {_article(layout.title)} with {encoder}, which fits no recipe"
        is_encoder_whole = only_missing and not any(name.startswith("backbone.") for name in only_missing)
        return "name what may be missing with --allow-missing" if is_encoder_whole else ""
    return _encoder_advice(encoder, fits, recipe, own, only_missing)


def _encoder_advice(
    encoder: str,
    fits: Mapping[str, list[str] | None],
    recipe: Recipe,
    own: list[str] | None,
    only_missing: Sequence[str],
) -> str:
    alone = f"the file holds {encoder} and no detector"
    if own is not None:
        words = sorted({name.partition(".")[0] for name in only_missing})
        allowed = " ".join(f"--allow-missing '{word}.*'" for word in words)
        return f"{alone}; to start training from it, add {allowed}" if allowed else ""
    encoders = [name for name, lacking in fits.items() if lacking is not None]
    if encoders:
        return f"{alone}; training can start from it with --recipe {' or '.join(encoders)}"
    return "" if fits or recipe.name not in RECIPES else f"{alone}; no recipe has that encoder"


def _encoder(tensors: Mapping[str, Tensor]) -> str:
    """What the file's encoder is called, or `` where that is not known."""
    if any(name.startswith((I3D_STEM, f"backbone.{I3D_STEM}")) for name in tensors):
        return "I3D"
    sizes = _swin_sizes(tensors)
    if sizes is None:
        return ""
    return _SWINS.get(sizes, f"a Video Swin of {sizes[0]} channels and {list(sizes[1])} blocks")


def _swin_sizes(tensors: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...]] | None:
    """Channels, and blocks per stage, of the file's Video Swin; None where it has none."""
    stem = next((tensor for name, tensor in tensors.items() if name.endswith("patch_embed.proj.weight")), None)
    blocks: dict[int, int] = {}
    for name in tensors:
        found = re.search(r"(?:^|\.)layers\.(\d+)\.blocks\.(\d+)\.", name)
        if found:
            stage = int(found[1])
        else:
            found = re.match(r"features\.(\d+)\.(\d+)\.(?=norm1|attn|mlp)", name)  # torchvision
            stage = int(found[1]) // 2 if found else 0
        if found:
            blocks[stage] = max(blocks.get(stage, 0), int(found[2]) + 1)
    if stem is None or not blocks:
        return None
    return stem.shape[0], tuple(blocks.get(stage, 0) for stage in range(max(blocks) + 1))


def _may_fit(recipe: Recipe, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the encoders are of the same kind and size: cheap, where building a detector is not."""
    backbone = recipe.model.backbone
    if isinstance(backbone, BackboneConfig):
        return _swin_sizes(tensors) == (backbone.embed_channels, backbone.depths)
    return _encoder(tensors) == "I3D"


def _lacking(tensors: Mapping[str, Tensor], recipe: Recipe) -> list[str] | None:
    """Parameters of a recipe's model that the file lacks; None where the encoder is not whole, or something clashes."""
    try:
        layout = detect_layout(tensors, recipe.model)
    except CheckpointError:
        return None
    if contradictions(layout, recipe):
        return None
    with torch.device("meta"):
        wanted = Detector(recipe).state_dict()
    found = {layout.official(name): tensor.shape for name, tensor in tensors.items()}
    official = official_names(recipe.model, wanted)
    lacking = [
        name
        for name, tensor in wanted.items()
        if found.get(official[name]) != tensor.shape and not name.endswith("num_batches_tracked")
    ]
    clashing = any(official[name] in found or name.startswith("backbone.") for name in lacking)
    return None if clashing else lacking


def _shape(recipe: Recipe) -> Any:
    def stripped(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: stripped(item) for key, item in value.items() if key not in _SHAPELESS}
        return value

    return stripped(to_json(recipe.model)), len(recipe.classes)


def _article(title: str) -> str:
    return f"{'an' if title[0] in 'AEIO' else 'a'} {title}"
