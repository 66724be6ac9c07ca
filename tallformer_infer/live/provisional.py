"""Ids of actions that are told before they are final.

Note [states of an id]
    An id begins as provisional, is provisional again whenever its action changes enough to be told, and ends once: as
    a final action, or withdrawn. A final action that nobody told before gets an id of its own. What is found after a
    clip continues the id of an action of the same class that it overlaps, the largest tIoU first, one each; final
    actions choose before provisional ones. What is left without a successor is withdrawn. So an id may move or grow,
    and it never changes its class.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from tallformer_infer.pipeline import StreamStep
from tallformer_infer.structures import Action

_LEAST_MOVE_S = 0.2
_LEAST_SCORE = 0.05
"""Smaller changes of a boundary or score are not told before the action is final."""


@dataclass(frozen=True)
class Told:
    """Something to say about an id."""

    kind: Literal["provisional", "final", "withdrawn"]
    """What it is now."""
    id: int
    """Counted from 1."""
    action: Action
    """As it is now; of a withdrawn one, as it was told last."""
    revision: int
    """Provisional lines of this id so far."""


class Tracker:
    """Gives actions ids that last from one clip to the next, see Note [states of an id]."""

    def __init__(self) -> None:
        self._open: dict[int, Told] = {}
        self._latest_id = 0

    def told(self, step: StreamStep) -> Iterator[Told]:
        """What is to say after a clip: final actions, then changes, then what is withdrawn."""
        before, self._open = self._open, {}
        for number, action in self._numbered(step.final, before):
            known = before.pop(number, None)
            yield Told("final", number, action, 0 if known is None else known.revision)
        for number, action in self._numbered(step.provisional, before):
            known = before.pop(number, None)
            if known is None or _differ(known.action, action):
                known = Told("provisional", number, action, 1 if known is None else known.revision + 1)
                yield known
            self._open[number] = known
        for known in before.values():
            yield Told("withdrawn", known.id, known.action, known.revision)

    def _numbered(self, actions: Sequence[Action], before: dict[int, Told]) -> list[tuple[int, Action]]:
        """Every action with the id that it continues, or a new one."""
        pairs = sorted(
            (-overlap, number, row)
            for number, known in before.items()
            for row, action in enumerate(actions)
            if known.action.label == action.label and (overlap := _tiou(known.action, action)) > 0
        )
        ids: dict[int, int] = {}
        for _, number, row in pairs:
            if row not in ids and number not in ids.values():
                ids[row] = number
        return [(ids.get(row) or self._new_id(), action) for row, action in enumerate(actions)]

    def _new_id(self) -> int:
        self._latest_id += 1
        return self._latest_id


def _differ(told: Action, action: Action) -> bool:
    moved_s = max(abs(told.start_s - action.start_s), abs(told.end_s - action.end_s))
    return moved_s >= _LEAST_MOVE_S or abs(told.score - action.score) >= _LEAST_SCORE


def _tiou(first: Action, second: Action) -> float:
    shared_s = min(first.end_s, second.end_s) - max(first.start_s, second.start_s)
    return max(shared_s, 0.0) / (first.end_s - first.start_s + second.end_s - second.start_s - shared_s)
