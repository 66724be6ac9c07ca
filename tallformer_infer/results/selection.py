"""Which of a video's actions a user wants to see."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

from tallformer_infer.errors import ConfigError
from tallformer_infer.structures import Action


def select_actions(
    actions: Iterable[Action],
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
) -> tuple[Action, ...]:
    """The actions that pass every filter, sorted by start, then end, then falling score.

    Args:
        actions: Actions of one video, in any order.
        threshold: Lowest score to keep, in [0, 1]; None keeps all.
        top_k: Most actions to keep, those of the highest scores after the other filters; of equal scores the earlier
            ones. None keeps all.
        classes: Names of the actions to keep; None keeps all.
        known: Names that the model can give; where given, other names in `classes` are refused.

    Raises:
        ConfigError: As `check_selection`.
    """
    check_selection(threshold=threshold, top_k=top_k, classes=classes, known=known)
    kept = [
        action
        for action in actions
        if (classes is None or action.label in classes) and (threshold is None or action.score >= threshold)
    ]
    if top_k is not None:
        kept = sorted(kept, key=lambda action: (-action.score, action.start_s, action.end_s, action.label))[:top_k]
    return in_order(kept)


def check_selection(
    *,
    threshold: float | None = None,
    top_k: int | None = None,
    classes: Sequence[str] | None = None,
    known: Sequence[str] | None = None,
    see: str = "tallformer info MODEL",
) -> None:
    """Refuse what `select_actions` cannot do, before a video is opened.

    Args:
        threshold: Lowest score to keep, in [0, 1].
        top_k: Most actions to keep per video, at least 1.
        classes: Names of the actions to keep.
        known: Names that the model can give; None: not known here.
        see: Command that lists `known`, for the message.

    Raises:
        ConfigError: One of them is out of range, or a class is not one of `known`; the message names near matches.
    """
    if threshold is not None and not 0 <= threshold <= 1:
        raise ConfigError(f"threshold={threshold} must be in [0, 1]")
    if top_k is not None and top_k < 1:
        raise ConfigError(f"top_k={top_k} must be at least 1")
    if isinstance(classes, str):
        raise TypeError(f"classes={classes!r}: expected a list of names")
    if classes is not None and not classes:
        raise ConfigError("classes: expected at least one name, or None for all")
    for name in classes or ():
        if known is not None and name not in known:
            raise ConfigError(f"class {name!r}: no such class; {_near(name, known)}`{see}` lists all {len(known)}")


def in_order(actions: Iterable[Action]) -> tuple[Action, ...]:
    """Actions sorted by start, then end, then falling score."""
    return tuple(sorted(actions, key=lambda action: (action.start_s, action.end_s, -action.score, action.label)))


def _near(name: str, known: Sequence[str]) -> str:
    folded = {other.casefold(): other for other in known}
    near = [folded[match] for match in difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)]
    return f"did you mean {' or '.join(repr(match) for match in near)}? " if near else ""
