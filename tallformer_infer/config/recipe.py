"""Recipes: all settings that affect a model's results besides its weights; and strict parsing of settings from JSON."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import types
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from tallformer_infer.config.model import ContrastHeadConfig, ModelConfig
from tallformer_infer.errors import ConfigError

Resize = Literal["squash", "short_side", "none"]
ResizeFilter = Literal["bicubic", "bilinear"]
Fill = Literal["mean", "black", "edge"]
Suppression = Literal["nmw", "nms", "soft_linear", "soft_gaussian"]
LEFT_OUT_AS_DEFAULT = {"left_out_as_default": True}
"""Marks fields that were added later: JSON contains them only if they differ from the default, so that hashes of
recipes (feature stores, frame caches, memories) do not change."""

T = TypeVar("T")

_NAMES = {int: "a whole number", float: "a number", str: "a string", bool: "true or false"}


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How frames are sampled from a video file."""

    sample_fps: float = 15.0
    """Frame rate after resampling, in frames per second; with `most_frames`, used only for files without a rate."""
    most_frames: int | None = None
    """Maximum number of frames of a whole video: each video keeps its own rate, or gets the highest one that does not
    exceed this number. None samples every video at `sample_fps`."""
    resize: Resize = "squash"
    """`squash`: to a square of `resize_px`; `short_side`: shorter side to `resize_px`, aspect ratio kept; `none`."""
    resize_px: int = 256
    """Size after resizing, in pixels; not used for `none`."""
    resize_filter: ResizeFilter = field(default="bicubic", metadata=LEFT_OUT_AS_DEFAULT)
    """`bicubic`, ffmpeg's default, or `bilinear`, for weights trained on pictures resized with OpenCV."""
    crop_px: int = 224
    """Side of the centre crop for the encoder, in pixels."""
    mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    """Mean of the RGB channels, in pixel values 0-255."""
    std: tuple[float, float, float] = (58.395, 57.12, 57.375)
    """Standard deviation of the RGB channels, in pixel values 0-255."""
    fill: Fill = "mean"
    """Padding after the end of a video: the `mean` colour (0 after normalisation), `black`, or the last frame of the
    video in the clip (`edge`; `black` if there is none)."""

    def __post_init__(self) -> None:
        if not 0.01 <= self.sample_fps <= 1000:
            raise ConfigError(f"sample_fps={self.sample_fps} must be in [0.01, 1000]")
        if self.most_frames is not None and self.most_frames < 1:
            raise ConfigError(f"most_frames={self.most_frames} must be at least 1")
        if self.crop_px < 1:
            raise ConfigError(f"crop_px={self.crop_px} must be at least 1")
        if not all(math.isfinite(mean) for mean in self.mean) or not all(0 < std < math.inf for std in self.std):
            raise ConfigError(f"mean={list(self.mean)} must be finite and std={list(self.std)} above 0")
        if self.resize != "none" and self.crop_px > self.resize_px:
            raise ConfigError(f"crop_px={self.crop_px} must not exceed resize_px={self.resize_px}")


@dataclass(frozen=True, kw_only=True)
class WindowConfig:
    """How a video is cut into windows and clips."""

    window_frames: int = 480
    """Sampled frames the localizer sees at once."""
    clip_frames: int = 32
    """Sampled frames the encoder sees at once; must divide `window_frames`, or be equal to it."""
    overlap: float = 0.25
    """Fraction of a window that it shares with the next, in [0, 1)."""
    ends_partly: bool = False
    """Whether the last window always extends beyond the end of the video, which identifies it as the last. Otherwise a
    video may end exactly at the end of a window."""

    def __post_init__(self) -> None:
        if self.window_frames < 1 or self.clip_frames < 1 or self.window_frames % self.clip_frames:
            raise ConfigError(f"clip_frames={self.clip_frames} must divide window_frames={self.window_frames}")
        if not 0 <= self.overlap < 1:
            raise ConfigError(f"overlap={self.overlap} must be in [0, 1)")

    @property
    def clips(self) -> int:
        """Clips per window."""
        return self.window_frames // self.clip_frames

    @property
    def reference_step_frames(self) -> int:
        """Frames between window starts in the official code: 360 of 480, which splits clips."""
        return max(int(self.window_frames * (1 - self.overlap)), 1)

    @property
    def shared_step_frames(self) -> int:
        """Frames between window starts so that windows share clips: 352 of 480; windows of one clip share none."""
        if self.clips == 1:
            return self.reference_step_frames
        return max(self.reference_step_frames // self.clip_frames, 1) * self.clip_frames


@dataclass(frozen=True, kw_only=True)
class CandidateConfig:
    """Which of a window's anchors become candidates."""

    anchors_per_level: int = 1000
    """Anchors kept per pyramid level, by their best class (the official `nms_pre`)."""
    per_window: int | None = None
    """(anchor, class) pairs kept per window by score; None keeps all, as the official code does."""
    per_video: int | None = 200_000
    """Pairs kept per video by score, to bound memory; None keeps all. Six minutes with a THUMOS14 recipe cannot exceed
    the default, whatever the scores; with a trained model, even days do not."""

    def __post_init__(self) -> None:
        for name in ("anchors_per_level", "per_window", "per_video"):
            limit = getattr(self, name)
            if limit is not None and limit < 1:
                raise ConfigError(f"candidates: {name}={limit} must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SuppressConfig:
    """How overlapping candidates of a whole video become actions. Overlap is measured in frames."""

    method: Suppression = "nmw"
    """`nmw`: non-maximum weighting; `nms`: hard suppression; `soft_*`: score decay."""
    score_threshold: float = 0.005
    """Candidates at or below this score are dropped first."""
    tiou_threshold: float = 0.5
    """Overlap from which candidates of one class count as the same action, in (0, 1]."""
    sigma: float = 0.5
    """Width of the gaussian decay (`soft_gaussian` only)."""
    min_score: float = 0.001
    """Decayed score at which a candidate is dropped (`soft_*` only)."""
    max_per_video: int = 1200
    """Actions kept per video, over all classes."""

    def __post_init__(self) -> None:
        if not 0 < self.tiou_threshold <= 1:
            raise ConfigError(f"tiou_threshold={self.tiou_threshold} must be in (0, 1]")
        if self.max_per_video < 1:
            raise ConfigError(f"max_per_video={self.max_per_video} must be at least 1")
        if not self.score_threshold >= 0 or not self.min_score >= 0:
            raise ConfigError(
                f"score_threshold={self.score_threshold} and min_score={self.min_score} must be at least 0"
            )
        if not self.sigma > 0:
            raise ConfigError(f"sigma={self.sigma} must be above 0")

    @property
    def text(self) -> str:
        """Description, for display."""
        strength = f", sigma {self.sigma:g}" if self.method == "soft_gaussian" else f" at tIoU {self.tiou_threshold:g}"
        return f"{self.method}{strength}"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """All settings that affect a model's results, besides its weights."""

    name: str
    """Name of the recipe."""
    classes: tuple[str, ...]
    """Action names, in the order of the head's outputs."""
    model: ModelConfig
    """Architecture."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of frames."""
    window: WindowConfig = WindowConfig()
    """Windows and clips."""
    candidates: CandidateConfig = CandidateConfig()
    """Selection of candidates from a window."""
    suppress: SuppressConfig = SuppressConfig()
    """Suppression of candidates."""

    def __post_init__(self) -> None:
        if not self.classes or len(set(self.classes)) != len(self.classes):
            raise ConfigError(f"recipe {self.name}: classes must be given, each once")
        most_frames = self.sampling.most_frames
        if most_frames is not None and most_frames > self.window.window_frames:
            raise ConfigError(f"most_frames={most_frames} must not exceed window_frames={self.window.window_frames}")
        if self.window.clip_frames % self.model.encoder_stride:
            raise ConfigError(
                f"clip_frames={self.window.clip_frames} must be a multiple of the encoder's stride, "
                f"{self.model.encoder_stride} frames"
            )
        tcm, steps = self.model.tcm, self.window_steps // self.model.reduction_stride
        if tcm is not None and steps > tcm.max_steps:
            raise ConfigError(
                f"tcm.max_steps={tcm.max_steps} must be at least {steps} for window_frames={self.window.window_frames}"
            )
        if isinstance(self.model.head, ContrastHeadConfig):
            self._require_contrast(self.model.head)

    def _require_contrast(self, head: ContrastHeadConfig) -> None:
        """Check that exactly one window contains each segment with all steps that its score depends on."""
        window = self.window
        if not window.ends_partly or window.reference_step_frames != window.shared_step_frames:
            raise ConfigError(
                f"window: head.kind=contrast needs ends_partly=true and an overlap by whole clips; got "
                f"{window.window_frames} frames that step by {window.reference_step_frames}, in clips of "
                f"{window.clip_frames}"
            )
        needed = self.window_step_steps + head.lengths_steps[-1] + 2 * head.reach_steps
        if self.window_steps < needed:
            raise ConfigError(
                f"window_frames={window.window_frames} must be at least {needed * self.model.encoder_stride} for the "
                f"longest of lengths_steps, {head.lengths_steps[-1]}, and its margins; or take a larger overlap"
            )

    @property
    def rate_text(self) -> str:
        """Sampling rate, for display."""
        most_frames = self.sampling.most_frames
        return f"{self.sampling.sample_fps:g} fps" if most_frames is None else f"≤ {most_frames} frames"

    @property
    def window_text(self) -> str:
        """Window length, for display."""
        if self.sampling.most_frames is not None:
            return "whole video"
        return f"{self.window.window_frames / self.sampling.sample_fps:g} s"

    @property
    def clip_steps(self) -> int:
        """Feature steps per clip."""
        return self.window.clip_frames // self.model.encoder_stride

    @property
    def window_steps(self) -> int:
        """Feature steps per window."""
        return self.window.window_frames // self.model.encoder_stride

    @property
    def window_step_steps(self) -> int:
        """Feature steps between the starts of windows."""
        return self.window.shared_step_frames // self.model.encoder_stride

    @property
    def finest_steps(self) -> int:
        """Steps of the finest level of the pyramid per window."""
        return -(-self.window_steps // self.model.reduction_stride)


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from a JSON file.

    Raises:
        ConfigError: The file cannot be read, or its content is not a recipe.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error
    try:
        return recipe_from_json(value)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def recipe_from_json(value: object) -> Recipe:
    """Build a recipe from parsed JSON.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type; the message names it.
    """
    return from_json(Recipe, value, where="recipe")


def to_json(value: Any) -> Any:
    """Turn a (nested) frozen dataclass into plain JSON values; the inverse of `from_json`."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: to_json(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if not (field.metadata.get("left_out_as_default") and getattr(value, field.name) == field.default)
        }
    if isinstance(value, (tuple, list)):
        return [to_json(item) for item in value]
    if isinstance(value, dict):
        return {key: to_json(item) for key, item in value.items()}
    return value


def from_json(kind: type[T], value: object, *, where: str) -> T:
    """Build the dataclass `kind` from parsed JSON, refusing unknown keys and wrong types.

    Args:
        kind: A dataclass whose fields are numbers, strings, booleans, literals, tuples, unions or dataclasses.
        value: Parsed JSON.
        where: Path of `value` for messages.

    Raises:
        ConfigError: A key is unknown, missing or of the wrong type; the message names it.
    """
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {_shown(value)}")
    fields = {field.name: field for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    unknown = [key for key in value if key not in fields]
    if unknown:
        raise ConfigError(f"{where}.{unknown[0]}: no such key; there are {', '.join(fields)}")
    missing = [
        name
        for name, field in fields.items()
        if name not in value and field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
    ]
    if missing:
        raise ConfigError(f"{where}.{missing[0]}: missing")
    hints = get_type_hints(kind)
    return kind(**{key: _convert(hints[key], item, f"{where}.{key}") for key, item in value.items()})


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin = get_origin(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_json(hint, value, where=where)
    if origin in (Union, types.UnionType):
        return _convert_union(get_args(hint), value, where)
    if origin is Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where}: expected one of {', '.join(map(str, get_args(hint)))}, got {_shown(value)}")
        return value
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if origin is dict:
        return _convert_dict(get_args(hint)[1], value, where)
    return _convert_scalar(hint, value, where)


def _convert_union(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in choices:
        return None
    *others, last = (choice for choice in choices if choice is not type(None))
    if others and all(dataclasses.is_dataclass(choice) for choice in (*others, last)):
        return _convert_tagged((*others, last), value, where)
    for choice in others:
        with contextlib.suppress(ConfigError):
            return _convert(choice, value, where)
    return _convert(last, value, where)


def _convert_tagged(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """One of several dataclasses, identified by the field `kind`; without it, the first one."""
    tags = {get_args(get_type_hints(choice)["kind"])[0]: choice for choice in choices}
    tag = value.get("kind", next(iter(tags))) if isinstance(value, dict) else next(iter(tags))
    if not isinstance(tag, str) or tag not in tags:
        raise ConfigError(f"{where}.kind: expected one of {', '.join(tags)}, got {_shown(tag)}")
    return _convert(tags[tag], value, where)


def _convert_tuple(items: tuple[Any, ...], value: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(value, list):
        raise ConfigError(f"{where}: expected a list, got {_shown(value)}")
    if len(items) == 2 and items[1] is Ellipsis:
        return tuple(_convert(items[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if len(value) != len(items):
        raise ConfigError(f"{where}: expected {len(items)} values, got {len(value)}")
    return tuple(
        _convert(hint, item, f"{where}[{index}]") for index, (hint, item) in enumerate(zip(items, value, strict=True))
    )


def _convert_dict(hint: Any, value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ConfigError(f"{where}: expected an object, got {_shown(value)}")
    return {key: _convert(hint, item, f"{where}.{key}") for key, item in value.items()}


def _convert_scalar(hint: Any, value: Any, where: str) -> Any:
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (hint is not bool and isinstance(value, bool)):
        raise ConfigError(f"{where}: expected {_NAMES.get(hint, hint.__name__)}, got {_shown(value)}")
    return value


def _shown(value: object) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."
