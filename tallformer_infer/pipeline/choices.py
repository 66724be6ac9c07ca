"""Resolve options of a run against the model: windows, rates, operating points, and which actions to keep."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable, Sequence

from tallformer_infer.bundle import Bundle
from tallformer_infer.config import ALL_ACTIONS, NAMED_CLASSES, RAW_SCORES, Recipe, expand_groups
from tallformer_infer.errors import ConfigError
from tallformer_infer.results import check_selection
from tallformer_infer.structures import Action, Layout, Selection, Windows

LARGEST_FACTOR = 100
"""Maximum number of feature steps averaged into one; that many clips are buffered."""
_ROUNDED = 0.005
"""Relative tolerance of a rounded rate: 1.67 for 15 / 9."""


def choose_windows(recipe: Recipe, windows: Windows | float) -> tuple[Windows, float | None]:
    """Split `windows` into the layout and, if given, the length of a window in seconds.

    Raises:
        ConfigError: The length is not above 0, or the model has a fixed window length.
    """
    if isinstance(windows, str):
        return windows, None
    if recipe.sampling.most_frames is None:
        seconds = recipe.window.window_frames / recipe.sampling.sample_fps
        raise ConfigError(
            f"windows={windows:g}: the recipe {recipe.name} always has windows of {seconds:g} s; expected shared or "
            "reference"
        )
    if not 0 < windows < float("inf"):
        raise ConfigError(f"windows={windows:g}: expected shared, reference, or seconds above 0")
    return "shared", float(windows)


def choose_layout(recipe: Recipe, windows: Windows, rates: Sequence[float] | None) -> Layout:
    """Choose the layout of windows and rates for the localizer.

    Args:
        recipe: Recipe of the model.
        windows: Placement of windows.
        rates: Frame rates at which the localizer runs: the recipe's own, divided by whole numbers. None: only the
            recipe's own.

    Raises:
        ConfigError: A rate is not one of those, or the recipe or `windows` support only the recipe's own.
    """
    if rates is None:
        return Layout(windows)
    sampling = recipe.sampling
    if sampling.most_frames is not None:
        raise ConfigError(f"rates: the recipe {recipe.name} processes whole videos at once; its localizer has one rate")
    factors = tuple(sorted({_factor(rate, sampling.sample_fps) for rate in rates}))
    if not factors:
        raise ConfigError("rates: expected at least one rate")
    if factors != (1,) and (windows == "reference" or recipe.window.clips == 1):
        why = f"windows of the recipe {recipe.name} share none" if windows == "shared" else "windows=reference does not"
        raise ConfigError(f"rates: other than {sampling.sample_fps:g} need windows that share their clips; {why}")
    return Layout(windows, factors)


def rates_of(layout: Layout, recipe: Recipe) -> tuple[float, ...] | None:
    """Rates in frames per second, decreasing; None if only the recipe's own."""
    if layout.factors == (1,):
        return None
    return tuple(recipe.sampling.sample_fps / factor for factor in layout.factors)


def choose_point(
    bundle: Bundle, wanted: str | None, *, threshold: float | None = None, classes: Sequence[str] | None = None
) -> str | None:
    """Choose the operating point.

    Args:
        bundle: The model.
        wanted: Name of an operating point; `all` for all actions, with calibrated scores; `none` for all actions, with
            the model's own scores. None uses the model's default, or `all` if a threshold is given.
        threshold: Minimum score requested, which replaces the thresholds of a default point.
        classes: Classes requested. With few classes there are few false positives, so a model may have a point with
            lower thresholds for that case (`named-classes`), which is then the default.

    Returns:
        An operating point or `all`; None if scores are left unchanged.

    Raises:
        ConfigError: The model has no such point; the message lists the available ones.
    """
    calibration = bundle.calibration
    if wanted == RAW_SCORES:
        return None
    if calibration is None:
        if wanted is None:
            return None
        raise ConfigError(
            f"operating point {wanted!r}: the model {bundle.name} has none; "
            "`tallformer calibrate` creates them from labelled videos"
        )
    if wanted is None:
        wanted = calibration.default
        if wanted == RAW_SCORES:
            return None
        if threshold is not None:
            return ALL_ACTIONS
        return NAMED_CLASSES if classes and NAMED_CLASSES in calibration.points else wanted
    if wanted not in calibration.names:
        near = difflib.get_close_matches(wanted, calibration.names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        names = ", ".join(calibration.names)
        raise ConfigError(f"operating point {wanted!r}: no such point; {hint}the model {bundle.name} has {names}")
    return wanted


def choose_selection(
    bundle: Bundle,
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    classes: Sequence[str] | None = None,
    operating_point: str | None = None,
    see: str = "tallformer info MODEL",
) -> Selection:
    """Which actions of a model to keep.

    Args:
        bundle: The model.
        threshold: Lowest score, in [0, 1].
        top_k: Most actions per video.
        classes: Names and `@groups`; None keeps all.
        operating_point: See `choose_point`.
        see: Command that lists the classes of the model, for messages.

    Raises:
        ConfigError: The model has no such class, group or operating point, or a number is out of range.
    """
    known = bundle.recipe.classes
    names = classes if classes is None or isinstance(classes, str) else expand_groups(classes, known)
    check_selection(threshold=threshold, top_k=top_k, classes=names, known=known, see=see)
    return Selection(
        threshold=threshold,
        top_k=top_k,
        classes=None if names is None else tuple(names),
        operating_point=choose_point(bundle, operating_point, threshold=threshold, classes=names),
    )


def at_point(actions: Iterable[Action], bundle: Bundle, point: str | None) -> tuple[Action, ...]:
    """Actions kept by an operating point, with calibrated scores.

    Args:
        actions: Actions with the scores of the model.
        bundle: The model.
        point: Return value of `choose_point`; None returns the actions unchanged.
    """
    calibration = bundle.calibration
    if point is None or calibration is None:
        return tuple(actions)
    classes = calibration.classes
    return tuple(
        dataclasses.replace(action, score=classes[action.label].curve.share_right(action.score))
        for action in actions
        if point == ALL_ACTIONS or classes[action.label].cuts[point].keeps(action.score)
    )


def _factor(rate: float, sample_fps: float) -> int:
    """Number of feature steps averaged into one at a rate."""
    if not 0 < rate < float("inf"):
        raise ConfigError(f"rates: {rate:g} must be above 0")
    factor = max(round(sample_fps / rate), 1)
    if factor > LARGEST_FACTOR:
        raise ConfigError(f"rates: {rate:g} must be at least {sample_fps / LARGEST_FACTOR:g} for this recipe")
    if abs(sample_fps / factor / rate - 1) <= _ROUNDED:
        return factor
    near = {max(int(sample_fps / rate), 1), int(sample_fps / rate) + 1}
    names = " and ".join(f"{sample_fps / part:.4g}" for part in sorted(near))
    raise ConfigError(
        f"rates: {rate:g} is not the recipe's {sample_fps:g} frames per second over a whole number; nearest: {names}"
    )
