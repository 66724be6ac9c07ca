"""Suggest a recipe for a data set: frame rate, window, levels and classes from the lengths of annotated segments.

# Note [real films]
A recipe with a contrast head has an encoder that knows real actions, and a head that cannot be trained. It gets the
head that learned most from 10 to 16 examples per class (docs/real.md): points, without a TCM.

# Note [points]
Points need no anchors that fit, so the encoder keeps its frame rate as long as a window holds the longest segments.

# Note [what a recipe must reach]
A segment can only be learned well if an anchor overlaps it by the assignment's upper threshold. Anchors are
`stride * scale_base * 2 ** (i / scales)` frames long and placed every `stride` frames; `stride` doubles from level to
level. So the frame rate limits how short, and the number of levels how long a segment may be. The cheapest of some
frame rates and numbers of levels that reaches `ENOUGH` of the segments is chosen, then a window for the longest
segments.

# Note [places]
Whether an anchor fits also depends on the position of a segment. Equidistant positions would have only a few distinct
offsets from the anchors of each level, as strides are powers of two. The golden ratio spreads any number of positions
evenly for all levels: with `PLACES` of them the reached share is accurate to about 0.01.

Source: the additive recurrence of the golden ratio, a low-discrepancy sequence (Kuipers and Niederreiter, 1974).
"""

from __future__ import annotations

import math
import shlex
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import (
    CandidateConfig,
    ContrastHeadConfig,
    HeadConfig,
    ModelConfig,
    PointHeadConfig,
    PyramidConfig,
    Recipe,
    SamplingConfig,
    SuppressConfig,
    WindowConfig,
)
from tallformer_infer.devices import processor_features
from tallformer_infer.errors import AnnotationError
from tallformer_infer.labels import Annotations, Problems, Segment, read_annotations
from tallformer_infer.text import counted
from tallformer_training.datasets.labelled import DatasetRequest

ENOUGH = 0.97
"""Share of the segments that must be reached."""
RATES_FPS = (2.0, 3.0, 4.0, 5.0, 6.0, 7.5, 10.0, 12.0, 15.0, 20.0, 25.0, 30.0)
LEVELS = (3, 4, 5, 6, 7)
REACHED_TIOU = 0.6
PLACES = 256
"""Positions within the coarsest stride at which each segment is tried. See Note [places]."""
_LATE_S, _LATE_PART = 1.0, 0.05
"""An end this long after the video, in seconds and as a share of its length, is not due to rounding."""
_ALIKE = 0.85
"""Similarity of two names (`difflib`, 0 to 1) from which the rarer one may be a typo: about one letter in seven."""
_SIDES = (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT"))
_POINT_CHANNELS, _POINT_LEVELS = 128, (5, 7)
_POINT_WINDOW_FRAMES, _MOST_POINT_WINDOW_FRAMES = 480, 1536
_GOLDEN = (math.sqrt(5) - 1) / 2
_LEAST_WINDOW_CLIPS, _MOST_WINDOW_CLIPS = 7, 48
"""The official ratio r = 0.15 of 7 clips is one clip; it could not be used with fewer clips."""


@dataclass(frozen=True)
class Suggestion:
    """A recipe, and why."""

    recipe: Recipe
    """The suggested recipe."""
    explanation: tuple[str, ...]
    """Reasons, line by line."""


@dataclass(frozen=True)
class _Choice:
    sample_fps: float
    levels: int
    reached: float

    @property
    def cost(self) -> tuple[float, int]:
        return self.sample_fps, self.levels


def suggest_recipe(annotations: Path, *, subset: str | None, base: Recipe, repair: bool = False) -> Suggestion:
    """Propose a recipe for the segments of a file.

    Args:
        annotations: ActivityNet-form JSON, or a THUMOS14 text folder.
        subset: Subset to use; None for the default of the file.
        base: Recipe of everything else: encoder, picture size, clip length.
        repair: Skip segments without length, as training with `repair` does, and count them.

    Raises:
        AnnotationError: The annotations cannot be read, are wrong, or have no segment.
    """
    problems = Problems(str(annotations), most=None)
    read = read_annotations(
        annotations, subset=subset, defaults=("training", "validation"), problems=problems, check_durations=True
    )
    segments, without_length = _usable(read, problems, repair=repair)
    problems.raise_if_any()
    if not segments:
        raise AnnotationError(f"{annotations}: no annotated segment in subset {read.subset}; there is nothing to fit")
    lengths_s = np.array([segment.end_s - segment.start_s for segment in segments])
    counts = Counter(segment.label for segment in segments)
    is_real = isinstance(base.model.head, ContrastHeadConfig)
    base = _with_points(base, lengths_s) if is_real else base
    has_points = isinstance(base.model.head, PointHeadConfig)
    choice = _choose_for_points(lengths_s, base) if has_points else _choose(lengths_s, base.model)
    recipe = _recipe(base, choice, lengths_s, tuple(sorted(counts)), name=annotations.stem)
    notes = [f"segments without length, skipped: {without_length}"] if without_length else []
    notes += [f"warning: {typo}" for typo in (*late_ends(read), *similar_names(counts))]
    if is_real:
        notes.append("start from the encoder of the installed model with --init kinetics400; --ratio 0 freezes it")
        if "AMX bf16" in processor_features():
            notes.append("this CPU has AMX: --precision bf16 encodes films about three times as fast")
    return Suggestion(recipe, (*_explain(recipe, choice, lengths_s, counts, len(read.videos)), *notes))


def _with_points(base: Recipe, lengths_s: NDArray[np.float64]) -> Recipe:
    """The recipe with a point head, see Note [real films]."""
    window = WindowConfig()
    steps = _long(lengths_s) * _rate_for_points(lengths_s, base.sampling, window) / base.model.encoder_stride
    pyramid = PyramidConfig(
        kind="transformer",
        levels=int(np.clip(math.ceil(math.log2(max(steps, 1))), *_POINT_LEVELS)),
        heads=4,
        attention_steps=(),
        fpn_channels=_POINT_CHANNELS,
        stem_layers=1,
    )
    return Recipe(
        name=base.name,
        classes=base.classes,
        model=ModelConfig(
            backbone=base.model.backbone,
            channels=_POINT_CHANNELS,
            tcm=None,
            pyramid=pyramid,
            head=PointHeadConfig(kind="points"),
        ),
        sampling=base.sampling,
        window=window,
        candidates=CandidateConfig(per_window=1000),
        suppress=SuppressConfig(method="soft_gaussian", sigma=0.5, score_threshold=0.001, min_score=0.001),
    )


def _choose_for_points(lengths_s: NDArray[np.float64], base: Recipe) -> _Choice:
    """See Note [points]."""
    fps = _rate_for_points(lengths_s, base.sampling, base.window)
    lengths = lengths_s * fps
    fits = (lengths >= base.model.level_strides[0]) & (lengths <= _most_point_frames(base.window))
    return _Choice(fps, base.model.pyramid.levels, float(fits.mean()))


def _rate_for_points(lengths_s: NDArray[np.float64], sampling: SamplingConfig, window: WindowConfig) -> float:
    """The highest frame rate, up to the encoder's own, at which the longest segments fit into a window."""
    own_fps = sampling.sample_fps
    rates = [own_fps, *(fps for fps in reversed(RATES_FPS) if fps < own_fps)]
    most_fps = _most_point_frames(window) * (1 - window.overlap) / _long(lengths_s)
    return next((fps for fps in rates if fps <= most_fps), rates[-1])


def _most_point_frames(window: WindowConfig) -> int:
    """Length of the longest window, in whole clips."""
    return max(_MOST_POINT_WINDOW_FRAMES // window.clip_frames, 1) * window.clip_frames


def _long(lengths_s: NDArray[np.float64]) -> float:
    """Length that 1 of 100 segments exceeds, in seconds."""
    return float(np.quantile(lengths_s, 0.99))


def _usable(annotations: Annotations, problems: Problems, *, repair: bool) -> tuple[list[Segment], int]:
    """Segments of actions, and the number of skipped ones without length; other faults are added to `problems`."""
    usable, without_length = [], 0
    every = (segment for video in annotations.videos for segment in video.segments)
    for segment in (segment for segment in every if segment.label not in DatasetRequest.ignored_labels):
        if segment.end_s > segment.start_s:
            usable.append(segment)
        elif segment.end_s == segment.start_s and repair:
            without_length += 1
        else:
            hint = "; --repair skips it" if segment.end_s == segment.start_s else ""
            problem = f"ends at {segment.end_s:g} s, starts at {segment.start_s:g} s{hint}"
            problems.add(segment.key, problem)
    return usable, without_length


def late_ends(annotations: Annotations) -> list[str]:
    """Segments that end long after their video, if its length is given: likely typos."""
    found = []
    for video in annotations.videos:
        if video.duration_s is None:
            continue
        allowed_s = video.duration_s + max(_LATE_S, _LATE_PART * video.duration_s)
        found += [
            f"{segment.key}: ends at {segment.end_s:g} s, the video at {video.duration_s:g} s; a typo?"
            for segment in video.segments
            if segment.end_s > allowed_s
        ]
    return found


def similar_names(counts: Counter[str]) -> list[str]:
    """Classes with one segment whose name is nearly that of a larger class: likely typos."""
    found = []
    for name in (name for name, count in counts.items() if count == 1):
        others = {_folded(other): other for other, count in counts.items() if count > 1}
        mirrored = {_folded(swapped) for swapped in (_swapped(name), _swapped_back(name)) if swapped != name}
        near = [other for other in get_close_matches(_folded(name), others, cutoff=_ALIKE) if other not in mirrored]
        if near:
            other = others[near[0]]
            found.append(f"class {name!r} has 1 segment, {other!r} has {counts[other]}; a typo?")
    return found


def _folded(name: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", name).casefold().replace("_", " ").replace("-", " ").split())


def reached_part(lengths_frames: NDArray[np.float64], model: ModelConfig) -> float:
    """Share of segments that an anchor overlaps by `REACHED_TIOU`, over `PLACES` positions of each, in [0, 1]."""
    centres = ((np.arange(PLACES) + 0.5) * _GOLDEN % 1) * model.level_strides[-1]  # (PLACES,)
    reached = np.zeros((len(lengths_frames), PLACES), bool)
    for stride in model.level_strides:
        distances = np.abs(centres - np.round(centres / stride) * stride)  # to the nearest anchor's centre
        farthest = np.max([_farthest(lengths_frames, anchor) for anchor in _anchors(model.anchor_head, stride)], axis=0)
        reached |= distances <= farthest[:, None]
    return float(reached.mean())


def _farthest(lengths: NDArray[np.float64], anchor: float) -> NDArray[np.float64]:
    """Largest distance of an anchor's centre at which it overlaps segments enough; below 0 if it never does."""
    wanted = REACHED_TIOU / (1 + REACHED_TIOU) * (lengths + anchor)  # shared frames
    return np.where(np.minimum(lengths, anchor) >= wanted, (lengths + anchor) / 2 - wanted, -1.0)


def _anchors(head: HeadConfig, stride: int) -> list[float]:
    """Lengths of the anchors of a level, in frames."""
    return [stride * head.scale_base * 2 ** (index / head.scales) for index in range(head.scales)]


def _with_levels(model: ModelConfig, levels: int) -> ModelConfig:
    steps = model.pyramid.attention_steps
    widths = tuple((steps[index] if index < len(steps) else 5) for index in range(levels - 1))
    return replace(model, pyramid=replace(model.pyramid, levels=levels, attention_steps=widths))


def _choose(lengths_s: NDArray[np.float64], model: ModelConfig) -> _Choice:
    choices = [
        _Choice(fps, levels, reached_part(lengths_s * fps, _with_levels(model, levels)))
        for fps in RATES_FPS
        for levels in LEVELS
    ]
    enough = [choice for choice in choices if choice.reached >= ENOUGH]
    return (
        min(enough, key=lambda choice: choice.cost)
        if enough
        else max(choices, key=lambda choice: (choice.reached, -choice.sample_fps, -choice.levels))
    )


def _recipe(
    base: Recipe, choice: _Choice, lengths_s: NDArray[np.float64], classes: tuple[str, ...], *, name: str
) -> Recipe:
    has_points = isinstance(base.model.head, PointHeadConfig)
    model = base.model if has_points else _with_levels(base.model, choice.levels)
    clip_frames = base.window.clip_frames
    long_frames = _long(lengths_s) * choice.sample_fps
    coarsest = model.level_strides[-1]
    # A window this much longer than the step between windows contains the whole segment, wherever it starts.
    wanted = max(long_frames / (1 - base.window.overlap), 2 * coarsest)
    least, most = _LEAST_WINDOW_CLIPS, _MOST_WINDOW_CLIPS
    if has_points:
        least = max(_POINT_WINDOW_FRAMES // clip_frames, 1)
        most = _most_point_frames(base.window) // clip_frames
    clips = min(max(math.ceil(wanted / clip_frames), least), most)
    window_frames = clips * clip_frames
    steps = -(-window_frames // (model.encoder_stride * model.reduction_stride))
    tcm = None if model.tcm is None else replace(model.tcm, max_steps=max(steps, 1))
    return replace(
        base,
        name=name,
        classes=classes,
        model=replace(model, tcm=tcm),
        sampling=replace(base.sampling, sample_fps=choice.sample_fps),
        window=replace(base.window, window_frames=window_frames),
    )


def _explain(
    recipe: Recipe, choice: _Choice, lengths_s: NDArray[np.float64], counts: Counter[str], videos: int
) -> Iterator[str]:
    low, middle, high = np.quantile(lengths_s, [0.01, 0.5, 0.99])
    fps, window = recipe.sampling.sample_fps, recipe.window.window_frames
    strides, head = recipe.model.level_strides, recipe.model.head
    yield f"{counted(len(lengths_s), 'segment')} of {len(counts)} classes in {counted(videos, 'video')}"
    yield f"lengths: {low:.2f} s (1 of 100 is shorter), {middle:.2f} s (half), {high:.2f} s (1 of 100 is longer)"
    yield f"frame rate: {fps:g} per second; window: {window} frames, {window / fps:.1f} s"
    yield f"strides of the {choice.levels} levels: {', '.join(f'{s / fps:.2f}' for s in strides)} s"
    if isinstance(head, HeadConfig):
        shortest, longest = _anchors(head, strides[0])[0] / fps, _anchors(head, strides[-1])[-1] / fps
        yield f"anchors: {shortest:.2f} to {longest:.1f} s; {100 * choice.reached:.1f} % of the segments match one"
    if choice.reached < ENOUGH:
        what = "match no anchor" if isinstance(head, HeadConfig) else "are shorter than a step or longer than a window"
        yield f"warning: {100 * (1 - choice.reached):.1f} % of the segments {what}, and will be learned badly"
    rare = [f"{label} ({count})" for label, count in counts.items() if count < 20]
    if rare:
        yield f"warning: fewer than 20 segments: {', '.join(rare)}"
    pairs = mirrored_names(recipe.classes)
    if pairs:
        named = "; ".join(f"{one} / {other}" for one, other in pairs)
        options = " ".join(shlex.join(["--mirrored", f"{one}={other}"]) for one, other in pairs)
        yield (
            f"warning: these classes look like mirror images ({named}), and training mirrors videos: "
            f"add {options} to the training command"
        )


def mirrored_names(classes: tuple[str, ...]) -> list[tuple[str, str]]:
    """Pairs of classes whose names differ only by left and right."""
    return [
        (name, other)
        for name in classes
        if "left" in name.lower() and (other := _swapped(name)) in classes and other != name
    ]


def _swapped(name: str) -> str:
    for left, right in _SIDES:
        if left in name:
            return name.replace(left, right)
    return name


def _swapped_back(name: str) -> str:
    for left, right in _SIDES:
        if right in name:
            return name.replace(right, left)
    return name
