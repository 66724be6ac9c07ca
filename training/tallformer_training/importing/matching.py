"""Match the tensors of a third-party file strictly to the detector of a recipe, and find recipes that fit."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tallformer_infer.config import RECIPES, BackboneConfig, I3dConfig, Recipe, preset, to_json
from tallformer_infer.errors import CheckpointError, ConfigError
from tallformer_infer.files import file_sha256
from tallformer_training.importing.naming import I3D_STEM, OPENTAD, Layout, detect_layout, official_names
from tallformer_training.importing.reading import as_pytorch_i3d, is_jax_i3d, read_tensors
from tallformer_training.importing.report import ImportReport
from tallformer_training.model import Detector
from tallformer_training.model.pyramid import sinusoids

_COUNTER = ".num_batches_tracked"
_FOLLOWED = ".loss_normaliser"
"""An integer in files saved before training, else a float."""
_CLASSIFIER = "head.classifier.weight"
_FLOW_CHANNELS = 2
_FRESH_SEED = 0
"""Seed of weights that may be missing from a file, so that imports are reproducible."""

_SWINS: dict[tuple[int, tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2)): "Video Swin-T",
    (96, (2, 2, 18, 2)): "Video Swin-S",
    (128, (2, 2, 18, 2)): "Video Swin-B",
    (192, (2, 2, 18, 2)): "Video Swin-L",
}
_SHAPELESS = {"frozen_stages", "drop_path", "classes_per_proposal"}
"""Settings of a model that do not affect the names and shapes of its weights."""


def import_checkpoint(
    path: Path, recipe: Recipe, *, allow_missing: Sequence[str] = ()
) -> tuple[dict[str, Tensor], ImportReport]:
    """Read a third-party checkpoint for a recipe.

    Args:
        path: A `.pth` (or any other file of `torch.save`), a `.safetensors` file, or a pickle of arrays (JAX).
        recipe: The model to load it into.
        allow_missing: Patterns (`fnmatch`) of parameters that may be missing from the file, by our name (`reduction.*`,
            `tcm.*`, `pyramid.*`, `fpn.*`, `head.*`) or the official one (`neck.*`). They get random weights of a fixed
            seed.

    Returns:
        State dict of `Detector(recipe)`, floating point values as float32, and a report on every name.

    Raises:
        CheckpointError: The file cannot be read, or not every parameter is accounted for.
        ConfigError: A pattern of `allow_missing` matches no parameter, or all.
    """
    state, report = match_checkpoint(path, recipe, allow_missing=allow_missing)
    report.require_complete()
    return state, report


def match_checkpoint(
    path: Path, recipe: Recipe, *, allow_missing: Sequence[str] = ()
) -> tuple[dict[str, Tensor], ImportReport]:
    """Like `import_checkpoint`, but a file that does not fit gives an incomplete report.

    Raises:
        CheckpointError: The file cannot be read, or is of an unknown kind.
        ConfigError: A pattern of `allow_missing` matches no parameter, or all.
    """
    container, tensors, has_checksums = read_tensors(path)
    is_jax = is_jax_i3d(tensors)
    if is_jax:
        tensors = as_pytorch_i3d(tensors)
    try:
        layout = detect_layout(tensors, recipe.model)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    matching = _Matching(recipe, layout)
    matching.require_sensible(allow_missing)
    matching.conflicts += contradictions(layout, recipe)
    for name, tensor in tensors.items():
        matching.add(name, tensor)
    missing, initialised = matching.missing(allow_missing)
    report = ImportReport(
        path=path,
        sha256=file_sha256(path),
        recipe_name=recipe.name,
        layout=f"{layout.title} of JAX" if is_jax else layout.title,
        container=container,
        has_checksums=has_checksums,
        loaded=tuple(matching.loaded),
        missing=missing,
        initialised=initialised,
        unexpected=tuple(matching.unexpected),
        reshaped=tuple(matching.reshaped),
        conflicts=tuple(matching.conflicts),
        ignored=tuple(matching.ignored),
        twins=() if layout.backbone_only else tuple(twins(layout, recipe)),
        advice=_advice(matching, tensors, missing),
    )
    return matching.state, report


def _advice(matching: _Matching, tensors: dict[str, Tensor], missing: Sequence[str]) -> str:
    others = matching.unexpected or matching.reshaped or matching.conflicts
    if not missing and not others:
        return ""
    only_missing = [] if others else [matching.official[name] for name in missing]
    return advice(matching.layout, tensors, matching.recipe, only_missing=only_missing)


@dataclass
class _Matching:
    """A state dict, filled name by name."""

    recipe: Recipe
    layout: Layout
    state: dict[str, Tensor] = field(init=False)
    sources: dict[str, str] = field(default_factory=dict)
    loaded: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_FRESH_SEED)
            detector = Detector(self.recipe)
        self.state = detector.state_dict()
        self.derived = dict(detector.named_buffers(remove_duplicate=False))  # all blocks share one index table
        self.official = official_names(self.recipe.model, {**self.state, **self.derived})
        self.ours = {official: ours for ours, official in self.official.items()}
        assert len(self.ours) == len(self.official), "two of our names have the same official name"

    def require_sensible(self, allowed: Sequence[str]) -> None:
        """Refuse patterns that match nothing, or everything.

        Raises:
            ConfigError: There is such a pattern.
        """
        for rule in allowed:
            matched = sum(self._is_allowed(name, [rule]) for name in self.state)
            if matched == 0:
                parts = sorted({f"{self.official[name].partition('.')[0]}.*" for name in self.state})
                raise ConfigError(
                    f"--allow-missing '{rule}': no parameter of recipe {self.recipe.name} has such a name; "
                    f"its parts are {', '.join(parts)}"
                )
            if matched == len(self.state):
                raise ConfigError(
                    f"--allow-missing '{rule}' matches all weights; name only the parts that may be missing"
                )

    def _is_allowed(self, name: str, rules: Sequence[str]) -> bool:
        return any(fnmatchcase(name, rule) or fnmatchcase(self.official[name], rule) for rule in rules)

    def add(self, name: str, tensor: Tensor) -> None:
        """Add one tensor of the file, by its name in the file."""
        official = self.layout.official(name)
        ours = self.ours.get(official)
        if ours is not None and ours in self.state:
            self._load(name, ours, tensor)
        else:
            self._set_aside(name, official, tensor)

    def missing(self, allowed: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Our names of missing parameters: those not allowed to be missing, and those allowed."""
        absent = [name for name in self.state if name not in self.sources]
        self.ignored += [(name, "absent: counts training steps; not used") for name in absent if _COUNTER in name]
        absent = [name for name in absent if _COUNTER not in name]
        fresh = [name for name in absent if self._is_allowed(name, allowed)]
        return tuple(name for name in absent if name not in fresh), tuple(fresh)

    def _load(self, name: str, ours: str, tensor: Tensor) -> None:
        wanted = self.state[ours]
        if ours == _CLASSIFIER and tensor.dim() == 5:
            tensor = tensor.flatten(1)  # a 1x1x1 convolution, (K, C, 1, 1, 1)
        if ours in self.sources:
            self.conflicts.append(f"{name} and {self.sources[ours]} are the same parameter")
        elif tensor.shape != wanted.shape:
            self.reshaped.append(_reshaped(name, tensor, wanted))
        elif tensor.dtype.is_floating_point != wanted.dtype.is_floating_point and not ours.endswith(_FOLLOWED):
            self.conflicts.append(f"{name} holds {tensor.dtype} where {wanted.dtype} belongs")
        elif not bool(torch.isfinite(tensor).all()):
            self.conflicts.append(f"{name} holds NaN or infinity")
        else:
            self.state[ours] = tensor.to(wanted.dtype)
            self.loaded.append(ours)
        self.sources[ours] = name

    def _set_aside(self, name: str, official: str, tensor: Tensor) -> None:
        """Ignore a known name that is not needed, after checking its values if they affect results."""
        reason = ""
        conflicts = len(self.conflicts)
        if re.fullmatch(r"backbone\.layers\.\d+\.blocks\.\d+\.dummy_tensor", official):
            reason = "only used by re-entrant checkpointing (dummy_tensor)"
        elif re.fullmatch(r"backbone\..*attn_mask", official):
            reason = "computed from the input size (attn_mask)"
        elif official in self.ours and official.endswith(".relative_position_index"):
            reason = self._check_index(name, official, tensor)
        elif official.endswith(".pe.pe") and self.recipe.model.pyramid.kind == "attention":
            reason = self._check_sinusoids(name, tensor)
        elif isinstance(self.recipe.model.backbone, I3dConfig) and official.startswith("backbone."):
            reason = _reason_in_i3d(self.recipe.model.backbone, official)
        elif self.layout.backbone_only and official.startswith("cls_head."):
            reason = "a classifier of whole videos"
        elif official.removeprefix("backbone.model.") in ("data_preprocessor.mean", "data_preprocessor.std"):
            reason = self._check_pixels(name, tensor)
        if not reason:
            self.unexpected.append(name)
        elif len(self.conflicts) == conflicts:
            self.ignored.append((name, reason))

    def _check_index(self, name: str, official: str, tensor: Tensor) -> str:
        ours = self.derived[self.ours[official]]
        if tensor.shape != ours.shape or not torch.equal(tensor.long(), ours):
            self.conflicts.append(
                f"{name} differs from this model's: trained with another attention window or max_steps"
            )
        return "derived from the recipe, which says the same (relative_position_index)"

    def _check_sinusoids(self, name: str, tensor: Tensor) -> str:
        channels = self.recipe.model.channels
        expected = sinusoids(tensor.shape[0], channels)[:, None] if tensor.dim() == 3 else tensor.new_zeros(0)
        if tensor.shape != expected.shape or not torch.allclose(tensor.float(), expected, atol=1e-3):
            self.conflicts.append(f"{name} is not the usual table of sinusoids for {channels} channels")
        return "derived from the recipe, which says the same (pe.pe)"

    def _check_pixels(self, name: str, tensor: Tensor) -> str:
        sampling = self.recipe.sampling
        expected = torch.tensor(sampling.mean if name.endswith("mean") else sampling.std)
        if tensor.numel() != 3 or not torch.allclose(tensor.flatten().float(), expected, atol=1e-2):
            self.conflicts.append(f"{name} is {tensor.flatten().tolist()}, but the recipe says {expected.tolist()}")
        return "the recipe says the same (data_preprocessor)"


def _reason_in_i3d(backbone: I3dConfig, official: str) -> str:
    """Why a name is not needed, or `` if unknown."""
    if official.endswith(_COUNTER):
        return "counts training steps; not used"
    if backbone.tap == "mixed_4f" and official.startswith(("backbone.Mixed_5b.", "backbone.Mixed_5c.")):
        return "after the last layer that the recipe uses"
    return ""


def _reshaped(name: str, tensor: Tensor, wanted: Tensor) -> str:
    line = f"{name} is {list(tensor.shape)}, the model's is {list(wanted.shape)}"
    if name.startswith("neck.") and name.endswith("relative_position_bias_table") and tensor.dim() == 2:
        line += f" (the file was trained with model.tcm.max_steps = {(tensor.shape[0] + 1) // 2})"
    if name.startswith(I3D_STEM) and tensor.dim() == wanted.dim() and tensor.shape[1] == _FLOW_CHANNELS:
        line += " (the file is for optical flow, recipes see RGB)"
    return line


def contradictions(layout: Layout, recipe: Recipe) -> list[str]:
    """Contradictions between the origin of a file and the recipe, one line each.

    OpenTAD's encoder sees a window as one clip, and frames after the end of a video repeat the last one. With other
    clips names and shapes are the same, but results differ.
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
            found.append(f"OpenTAD repeats the last frame after the end of a video, but the recipe says fill={fill}")
    return found


def twins(layout: Layout, recipe: Recipe) -> list[str]:
    """Other recipes whose weights have the same names and shapes, so that the file fits them, too."""
    shape = _shape(recipe)
    others = {name: preset(name) for name in RECIPES if name != recipe.name}
    return [name for name, other in others.items() if _shape(other) == shape and not contradictions(layout, other)]


def advice(layout: Layout, tensors: Mapping[str, Tensor], recipe: Recipe, *, only_missing: Sequence[str]) -> str:
    """What a file that does not fit `recipe` contains and what to do with it; `` if the message is sufficient.

    Args:
        layout: Layout of the file.
        tensors: Tensors of the file.
        recipe: The recipe that it does not fit.
        only_missing: Official names of missing weights, if nothing else is wrong.
    """
    own = _lacking(tensors, recipe)
    if own == []:  # names and shapes fit, values do not
        return ""
    encoder = _encoder(tensors) or "an encoder"
    fits = {name: _lacking(tensors, preset(name)) for name in RECIPES if _may_fit(preset(name), tensors)}
    whole = [name for name, lacking in fits.items() if lacking == []]
    if whole:
        return f"the file contains {_article(layout.title)} with {encoder}; it fits --recipe {' or '.join(whole)}"
    if not layout.backbone_only:
        if not _may_fit(recipe, tensors):
            return f"the file contains {_article(layout.title)} with {encoder}, which fits no recipe"
        is_encoder_whole = only_missing and not any(name.startswith("backbone.") for name in only_missing)
        return "allow missing parts with --allow-missing" if is_encoder_whole else ""
    return _encoder_advice(encoder, fits, recipe, own, only_missing)


def _encoder_advice(
    encoder: str,
    fits: Mapping[str, list[str] | None],
    recipe: Recipe,
    own: list[str] | None,
    only_missing: Sequence[str],
) -> str:
    alone = f"the file contains {encoder} and no detector"
    if own is not None:
        words = sorted({name.partition(".")[0] for name in only_missing})
        allowed = " ".join(f"--allow-missing '{word}.*'" for word in words)
        return f"{alone}; to start training from it, add {allowed}" if allowed else ""
    encoders = [name for name, lacking in fits.items() if lacking is not None]
    if encoders:
        return f"{alone}; training can start from it with --recipe {' or '.join(encoders)}"
    return "" if fits or recipe.name not in RECIPES else f"{alone}; no recipe has that encoder"


def _encoder(tensors: Mapping[str, Tensor]) -> str:
    """Name of the file's encoder, or `` if unknown."""
    if any(name.startswith((I3D_STEM, f"backbone.{I3D_STEM}")) for name in tensors):
        return "I3D"
    sizes = _swin_sizes(tensors)
    if sizes is None:
        return ""
    return _SWINS.get(sizes, f"a Video Swin of {sizes[0]} channels and {list(sizes[1])} blocks")


def _swin_sizes(tensors: Mapping[str, Tensor]) -> tuple[int, tuple[int, ...]] | None:
    """Channels, and blocks per stage, of the file's Video Swin; None if it has none."""
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
    """Whether the encoders are of the same kind and size: a cheap check before building a detector."""
    backbone = recipe.model.backbone
    if isinstance(backbone, BackboneConfig):
        return _swin_sizes(tensors) == (backbone.embed_channels, backbone.depths)
    return _encoder(tensors) == "I3D"


def _lacking(tensors: Mapping[str, Tensor], recipe: Recipe) -> list[str] | None:
    """Parameters of a recipe's model missing from the file; None if the encoder is incomplete or does not fit."""
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
