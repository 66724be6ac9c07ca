"""When sprites act, rest and mislead, in frames of the video; what they do is decided elsewhere."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from tallformer_training.synthetic.actions import SHORTEST_S, draw_duration_s
from tallformer_training.synthetic.near_misses import NEAR_MISSES, NearMissName, draw_near_miss_s

SHOT_S = (8.0, 40.0)
"""Length after which a shot ends with the next action that ends."""
_OVERLAP = 0.22
"""Part of actions that another sprite joins."""
_BETWEEN_NEAR_MISSES_S = 11.0
"""Mean rest of a sprite that is free to mislead."""
_LEAD_S, _REST_S = 0.5, 0.4
"""Least time between a cut and an action, and between two motions of one sprite."""


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
