"""Operating points: which actions are worth showing, with scores that say how sure they are."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable

from tallformer_infer.bundle import Bundle
from tallformer_infer.config import ALL_ACTIONS, RAW_SCORES
from tallformer_infer.errors import ConfigError
from tallformer_infer.structures import Action


def choose_point(bundle: Bundle, wanted: str | None, *, threshold: float | None = None) -> str | None:
    """What is done with a model's actions.

    Args:
        bundle: The model.
        wanted: An operating point of it; `all` for every action, with calibrated scores; `none` for every action, with
            the model's own scores. None leaves it to the model: its default, or, where a threshold is given, `all`.
        threshold: Least score that is asked for, which takes the place of a default point's own thresholds.

    Returns:
        A point or `all`; None where scores stay as they are.

    Raises:
        ConfigError: The model has no such point; the message names those there are.
    """
    calibration = bundle.calibration
    if wanted == RAW_SCORES:
        return None
    if calibration is None:
        if wanted is None:
            return None
        raise ConfigError(
            f"operating point {wanted!r}: the model {bundle.name} has none; "
            "`tallformer calibrate` makes them from labelled videos"
        )
    if wanted is None:
        wanted = calibration.default
        if wanted == RAW_SCORES:
            return None
        return wanted if threshold is None else ALL_ACTIONS
    if wanted not in calibration.names:
        near = difflib.get_close_matches(wanted, calibration.names, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        names = ", ".join(calibration.names)
        raise ConfigError(f"operating point {wanted!r}: no such point; {hint}the model {bundle.name} has {names}")
    return wanted


def at_point(actions: Iterable[Action], bundle: Bundle, point: str | None) -> tuple[Action, ...]:
    """The actions that a point keeps, with calibrated scores.

    Args:
        actions: With the scores of the model.
        bundle: The model.
        point: As `choose_point` returns it; None leaves the actions as they are.
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
