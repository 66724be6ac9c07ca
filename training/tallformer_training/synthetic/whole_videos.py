"""When things happen in a video that shows one class, a few times and for long, as those of ActivityNet do."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from tallformer_training.synthetic.actions import LONGEST_S
from tallformer_training.synthetic.timing import Slot

LENGTH_S = (25.0, 50.0)
"""Of videos."""
LEAST_ACTION_S = 3.0
"""Of an action; the longest is `LONGEST_S`."""
_COUNTS, _CHANCES = (1, 2, 3), (0.4, 0.35, 0.25)
_COVERED = (0.4, 0.85)
"""Part of a video in which the action goes on."""
_LEAST_GAP_S = 1.0
"""Before, between and after actions."""
_CUT_CHANCE, _LEAD_S = 0.5, 0.5
"""Of a cut in a gap of 2 s or more, and least time between it and an action."""


@dataclass(frozen=True, kw_only=True)
class ShotPlan:
    """One shot, from `start_frame` to `end_frame` (exclusive)."""

    start_frame: int
    end_frame: int
    actions: tuple[tuple[int, int], ...]
    """First frame and end (exclusive) of each action."""


def draw_frames(rng: np.random.Generator, fps: float) -> int:
    """Length of a video, in frames."""
    return round(rng.uniform(*LENGTH_S) * fps)


def plan_shots(rng: np.random.Generator, *, frames: int, fps: float) -> list[ShotPlan]:
    """Decide when the action of a video goes on, and where it is cut.

    Args:
        rng: Source of all times.
        frames: Length of the video.
        fps: Its frame rate.

    Returns:
        Shots that fill the video, with up to three actions together; none where the video is too short for one.
    """
    actions = _plan_actions(rng, frames / fps, fps)
    edges = [0, *itertools.chain(*actions), frames]
    lead = round(_LEAD_S * fps)
    cuts = [
        int(rng.integers(start + lead, end - lead))
        for start, end in zip(edges[::2], edges[1::2], strict=True)
        if end - start >= 2 * fps and rng.random() < _CUT_CHANCE
    ]
    bounds = [0, *cuts, frames]
    return [
        ShotPlan(
            start_frame=start,
            end_frame=end,
            actions=tuple(action for action in actions if start <= action[0] < end),
        )
        for start, end in itertools.pairwise(bounds)
    ]


def cast_actions(rng: np.random.Generator, *, sprites: int, shot: ShotPlan) -> tuple[list[Slot], int]:
    """Decide which of the sprites of a shot acts; as `timing.plan_actions`, for times that are known."""
    slots = [Slot(sprite=int(rng.integers(sprites)), start_frame=start, end_frame=end) for start, end in shot.actions]
    return slots, shot.end_frame


def _plan_actions(rng: np.random.Generator, length_s: float, fps: float) -> list[tuple[int, int]]:
    """First frame and end of each action, by time."""
    most = int((length_s - _LEAST_GAP_S) / (LEAST_ACTION_S + _LEAST_GAP_S))
    count = min(int(rng.choice(_COUNTS, p=_CHANCES)), most)
    if count < 1:
        return []
    room_s = length_s - (count + 1) * _LEAST_GAP_S
    covered_s = min(max(rng.uniform(*_COVERED) * length_s, count * LEAST_ACTION_S), room_s)
    parts = rng.dirichlet(np.full(count, 2.0))
    lengths_s = np.minimum(LEAST_ACTION_S + parts * (covered_s - count * LEAST_ACTION_S), LONGEST_S)
    gaps_s = _LEAST_GAP_S + rng.dirichlet(np.ones(count + 1)) * (room_s - lengths_s.sum())
    starts_s = np.cumsum(gaps_s[:-1] + np.concatenate([[0.0], lengths_s[:-1]]))
    return [
        (round(start_s * fps), round((start_s + long_s) * fps))
        for start_s, long_s in zip(starts_s.tolist(), lengths_s.tolist(), strict=True)
    ]
