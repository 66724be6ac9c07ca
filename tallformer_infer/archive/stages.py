"""Hashes of everything that affects features, candidates and actions, so that unchanged stages are not repeated.

Note [never twice]
    Each stage has a hash of everything besides the video that affects its results, including earlier stages. A row has
    the three hashes of its result; stored features and candidates are named by their hash and the video's content. A
    changed threshold therefore keeps two hashes, and a changed localizer one. The device is not included: it only
    changes the last digits, and an archive may be started on one machine and finished on another.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from tallformer_infer.archive.tasks import LabelSettings, ScoreFile
from tallformer_infer.bundle import Bundle
from tallformer_infer.config import Recipe, to_json
from tallformer_infer.devices import RunPrecision
from tallformer_infer.errors import BundleError
from tallformer_infer.evaluation import ClassScores
from tallformer_infer.pipeline import Choices, check_takes_scores, scores_by_class

_FORM = 1
"""Version, increased when the same model gives different frames, features or candidates."""


@dataclass(frozen=True, kw_only=True)
class StageHashes:
    """Hashes of the three stages, see Note [never twice]."""

    encoder: str
    """Hash of everything that affects features."""
    localizer: str
    """The same and everything that affects candidates, except for their minimum score, which is stored with them."""
    actions: str
    """The same and everything that affects actions."""


def hash_stages(bundle: Bundle, settings: LabelSettings) -> StageHashes:
    """The hashes of a model with these settings.

    With class scores of whole videos, candidates are proposals without a class.
    """
    layout, selection, scores, precision = settings.layout, settings.selection, settings.scores, settings.precision
    recipe = bundle.recipe
    windows = layout.windows
    grid = [windows, to_json(recipe.window) if windows == "reference" else recipe.window.clip_frames]
    encoding = [_FORM, _graph_sha256(bundle, "encoder"), to_json(recipe.sampling), *grid, settings.static_tolerance]
    encoder = _hash(encoding if precision != "bf16" else [*encoding, precision])
    localizing = [encoder, _graph_sha256(bundle, "localizer"), to_json(recipe.window), to_json(recipe.candidates)]
    if layout.factors != (1,):  # keeps the hashes of archives from before rates and scores existed
        localizing.append(list(layout.factors))
    if scores is not None:
        localizing.append("proposals")
    localizer = _hash(localizing)
    calibration = None if selection.operating_point is None else to_json(bundle.calibration)
    concluding = [localizer, to_json(recipe.suppress), list(recipe.classes), calibration, to_json(selection)]
    actions = _hash(concluding if scores is None else [*concluding, scores.sha256])
    return StageHashes(encoder=encoder, localizer=localizer, actions=actions)


def encoder_precision(bundle: Bundle, asked: RunPrecision | None) -> RunPrecision | None:
    """Precision of the encoders of a run: the same on every machine, since features are stored and shared.

    Args:
        bundle: The model.
        asked: Precision requested by the user; None uses float32 for a float32 model.
    """
    return asked or ("fp32" if bundle.graphs["encoder"].precision == "fp32" else None)


def describe_scores(scores: ClassScores, recipe: Recipe) -> ScoreFile:
    """Check class scores against the model, and describe them for a run.

    Raises:
        ConfigError: The model scores every segment itself, or does not have one of the classes.
    """
    check_takes_scores(recipe)
    scores_by_class({name: 1.0 for video in scores.videos.values() for name in video}, recipe.classes)
    content = json.dumps({video: dict(row) for video, row in scores.videos.items()}, sort_keys=True)
    return ScoreFile(scores.source, hashlib.sha256(content.encode()).hexdigest())


def hash_recipe(bundle: Bundle) -> str:
    """Hash of the recipe."""
    return _hash(to_json(bundle.recipe))


def storage_key(content: str, stage_hash: str) -> str:
    """Storage name for the output of a stage on a video: 64 hexadecimal digits."""
    return _hash([content, stage_hash])


def sha256_of(content: str | None) -> str | None:
    """SHA-256 of a file whose content is known; None for a URL."""
    return content.removeprefix("sha256:") if content is not None and content.startswith("sha256:") else None


def choices_of(settings: LabelSettings) -> Choices:
    """The choices of a run that affect its results, besides the model."""
    source = None if settings.scores is None else settings.scores.source
    return Choices(layout=settings.layout, selection=settings.selection, class_source=source)


def _graph_sha256(bundle: Bundle, name: str) -> str:
    if name not in bundle.graphs:
        raise BundleError(f"{bundle.path}: bundle has no graph {name!r}; it has {', '.join(bundle.graphs)}")
    return bundle.graphs[name].sha256


def _hash(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
