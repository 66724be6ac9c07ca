"""When sprites act, rest and mislead, in frames of a video; also for videos that show one class, as in ActivityNet."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass

import numpy as np

from tallformer_training.synthetic.actions import (
    LONGEST_S,
    NEAR_MISSES,
    SHORTEST_S,
    NearMissName,
    draw_duration_s,
    draw_near_miss_s,
)

SHOT_S = (8.0, 40.0)
"""Length after which a shot ends with the next action that ends."""
_OVERLAP = 0.22
"""Part of actions that another sprite joins."""
_BETWEEN_NEAR_MISSES_S = 11.0
"""Mean rest of a sprite that is free to mislead."""
_LEAD_S, _REST_S = 0.5, 0.4
"""Least time between a cut and an action, and between two motions of one sprite."""

LENGTH_S = (25.0, 50.0)
"""Of videos."""
LEAST_ACTION_S = 3.0
"""Of an action; the longest is `LONGEST_S`."""
_COUNTS, _CHANCES = (1, 2, 3), (0.4, 0.35, 0.25)
_COVERED = (0.4, 0.85)
"""Part of a video in which the action goes on."""
_LEAST_GAP_S = 1.0
"""Before, between and after actions."""
_CUT_CHANCE, _WHOLE_LEAD_S = 0.5, 0.5
"""Of a cut in a gap of 2 s or more, and least time between it and an action."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Time in which one sprite moves, from `start_frame` to `end_frame` (exclusive)."""

    sprite: int
    """Which of the shot's sprites."""
    start_frame: int
    end_frame: int
    near_miss: NearMissName | None = None
    """None for an action, whose name is drawn later."""


def plan_actions(
    rng: np.random.Generator, *, sprites: int, start_frame: int, limit_frame: int, fps: float
) -> tuple[list[Slot], int]:
    """Decide when the sprites of one shot act.

    Args:
        rng: Source of all times.
        sprites: How many there are, at least 1.
        start_frame: First frame of the shot.
        limit_frame: End of the video.
        fps: Frame rate.

    Returns:
        Slots by start, and the end of the shot, at most `limit_frame`. Overlapping slots are of different sprites.
    """
    wanted_frame = start_frame + rng.uniform(*SHOT_S) * fps
    slots: list[Slot] = []
    end = now = start_frame + round(rng.uniform(_LEAD_S, 2.5) * fps)
    while now < wanted_frame or not slots:
        first = _fit(rng, int(rng.integers(sprites)), now, limit_frame, fps)
        if first is None:
            return slots, limit_frame
        slots.append(first)
        end = first.end_frame
        if sprites > 1 and rng.random() < _OVERLAP:
            other = int((first.sprite + 1 + rng.integers(sprites - 1)) % sprites)
            start = now + round(rng.uniform(0.1, 0.85) * (end - now))
            second = _fit(rng, other, start, limit_frame, fps)
            slots += [second] if second else []
            end = max(end, second.end_frame) if second else end
        now = end + round(_draw_pause_s(rng) * fps)
    end += round(rng.uniform(_LEAD_S, 2.5) * fps)
    return slots, end if limit_frame - end > 3 * fps else limit_frame


def plan_near_misses(
    rng: np.random.Generator, actions: list[Slot], *, sprites: int, shot: tuple[int, int], fps: float
) -> list[Slot]:
    """Put near-misses into the time in which sprites do not act, at rest before and after each.

    Args:
        rng: Source of all times.
        actions: Slots of the shot's actions.
        sprites: How many there are.
        shot: First frame of the shot, and its end.
        fps: Frame rate.

    Returns:
        Slots of near-misses only.
    """
    slots = []
    rest = math.ceil(_REST_S * fps)
    for sprite in range(sprites):
        own = sorted((slot.start_frame, slot.end_frame) for slot in actions if slot.sprite == sprite)
        starts = [shot[0], *(end for _, end in own)]
        ends = [*(start for start, _ in own), shot[1]]
        for free_start, free_end in zip(starts, ends, strict=True):
            now = free_start
            while True:
                now += rest + round(rng.exponential(_BETWEEN_NEAR_MISSES_S) * fps)
                name = NEAR_MISSES[rng.integers(len(NEAR_MISSES))]
                end = now + max(round(draw_near_miss_s(name, rng) * fps), 2)
                if end + rest > free_end:
                    break
                slots.append(Slot(sprite=sprite, start_frame=now, end_frame=end, near_miss=name))
                now = end
    return slots


def _fit(rng: np.random.Generator, sprite: int, start: int, limit_frame: int, fps: float) -> Slot | None:
    """A slot of an action from `start`, shortened to end before the video does; None where there is no room."""
    shortest = math.ceil(SHORTEST_S * fps)
    room = limit_frame - start - math.ceil(_LEAD_S * fps)
    if room < shortest:
        return None
    frames = min(max(int(draw_duration_s(rng) * fps), shortest), room)
    return Slot(sprite=sprite, start_frame=start, end_frame=start + frames)


def _draw_pause_s(rng: np.random.Generator) -> float:
    """Between the end of all actions and the start of the next: 0.8 s up to a long quiet."""
    return float(min(0.8 + rng.exponential(7.3), 20.0))


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
    lead = round(_WHOLE_LEAD_S * fps)
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
