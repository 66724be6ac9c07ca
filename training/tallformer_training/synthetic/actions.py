"""The actions: which motion each one is, and how its numbers are drawn."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, assert_never, get_args

import numpy as np

from tallformer_training.synthetic.motions import Circle, Flash, Hop, Motion, Pose, Resize, Turn, Zigzag

ActionName = Literal["bounce", "spin left", "spin right", "grow", "shrink", "orbit", "blink", "zigzag"]
CLASSES: tuple[ActionName, ...] = get_args(ActionName)

SIZES = (0.26, 0.5)
"""Diameters of resting sprites, in picture heights."""
SMALLEST, LARGEST = 0.22, 0.58
"""Limits of `grow` and `shrink`, in picture heights."""
SHORTEST_S, LONGEST_S = 0.5, 30.0
"""Lengths of actions."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Where sprites may be, in picture heights."""

    aspect: float
    """Width of the picture."""

    def holds(self, x: float, y: float) -> bool:
        """Whether the centre of an acting sprite may be there."""
        return self.left <= x <= self.right and 0.12 <= y <= 0.88

    def rests(self, x: float, y: float) -> bool:
        """Whether a sprite may rest there: low enough to have room for a hop."""
        return self.left <= x <= self.right and REST_Y[0] <= y <= REST_Y[1]

    @property
    def left(self) -> float:
        """Smallest x of a sprite's centre."""
        return min(0.14, self.aspect / 3)

    @property
    def right(self) -> float:
        """Largest x of a sprite's centre."""
        return self.aspect - self.left


REST_Y = (0.26, 0.82)


def draw_duration_s(rng: np.random.Generator) -> float:
    """Length of an action: mostly 1 to 8 s, some down to 0.5 s, some up to 30 s; log-uniform in each part."""
    part = rng.random()
    low, high = (SHORTEST_S, 1.0) if part < 0.08 else (1.0, 8.0) if part < 0.94 else (8.0, LONGEST_S)
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def draw_action(name: ActionName, start: Pose, duration_s: float, stage: Stage, rng: np.random.Generator) -> Motion:
    """Draw the motion of one action.

    Args:
        name: Which action.
        start: Pose from which it starts.
        duration_s: Its length; motions that come back to where they started do so a whole number of times.
        stage: Where sprites may be.
        rng: Source of its numbers.

    Returns:
        A motion that goes on from 0 s to `duration_s`.
    """
    match name:
        case "bounce":
            height = rng.uniform(0.17, 0.32)
            return Hop(height=min(height, start.y - 0.06), period_s=_whole(duration_s, rng.uniform(0.4, 1.1)))
        case "spin left" | "spin right":
            period_s = rng.uniform(0.6, min(1.5, max(0.7, 2 * duration_s)))
            return Turn(rad_per_s=math.tau / period_s * (1 if name == "spin right" else -1))
        case "grow" | "shrink":
            return _draw_resize(start, duration_s, rng, grows=name == "grow")
        case "orbit":
            return _draw_orbit(start, duration_s, stage, rng)
        case "blink":
            wanted_s = min(rng.uniform(0.4, 1.1), duration_s / 1.5)
            periods = round(duration_s / wanted_s - 0.5) + 0.5  # ends when the sprite comes back
            return Flash(period_s=duration_s / periods, opacity=rng.uniform(0, 0.1))
        case "zigzag":
            return _draw_zigzag(start, duration_s, stage, rng)
        case _:
            assert_never(name)


def _whole(duration_s: float, period_s: float) -> float:
    return duration_s / max(round(duration_s / period_s), 1)


def _draw_resize(start: Pose, duration_s: float, rng: np.random.Generator, *, grows: bool) -> Resize:
    """Bounds that enclose the present size, and a pace that shows even in a short action."""
    cycle_s = rng.uniform(0.8, max(1.0, min(2.4, 1.6 * duration_s)))
    return Resize(
        smallest=rng.uniform(min(SMALLEST, start.size), min(0.28, start.size)),
        largest=rng.uniform(max(0.46, start.size), max(LARGEST, start.size)),
        cycles_per_s=(1 if grows else -1) / cycle_s,
    )


def _draw_orbit(start: Pose, duration_s: float, stage: Stage, rng: np.random.Generator) -> Circle:
    period_s = _whole(duration_s, rng.uniform(0.6, 1.5))
    sign = rng.choice((-1, 1))
    radius = rng.uniform(0.13, 0.26)
    for _ in range(64):
        from_rad = rng.uniform(0, math.tau)
        x, y = start.x - radius * math.cos(from_rad), start.y - radius * math.sin(from_rad)
        if stage.holds(x - radius, y - radius) and stage.holds(x + radius, y + radius):
            break
        radius = max(0.99 * radius, 0.1)
    return Circle(radius=float(radius), from_rad=float(from_rad), rad_per_s=float(sign * math.tau / period_s))


def _draw_zigzag(start: Pose, duration_s: float, stage: Stage, rng: np.random.Generator) -> Zigzag:
    """The direction with the longest way of some that are tried, so that it does not turn back at once."""
    width = rng.uniform(0.16, 0.3)
    tries = []
    for _ in range(12):
        along_rad, signed = rng.uniform(0, math.tau), width * rng.choice((-1, 1))
        back, ahead = (_reach(start, along_rad, signed, stage, sign) for sign in (-1, 1))
        tries.append((ahead - back, along_rad, signed, back, ahead))
    long = [entry for entry in tries if entry[0] >= 0.45]
    span, along_rad, signed, back, ahead = long[0] if long else max(tries)
    if span < 0.2:  # a corner: it leaves the stage rather than stand still
        back, ahead = back - 0.1, ahead + 0.1
    return Zigzag(
        along_rad=float(along_rad),
        speed=float(rng.uniform(0.25, 0.55)),
        back=back,
        ahead=ahead,
        width=float(signed),
        period_s=_whole(duration_s, rng.uniform(0.4, 0.9)),
    )


def _reach(start: Pose, along_rad: float, width: float, stage: Stage, sign: int) -> float:
    """How far both edges of a zigzag stay on the stage in one direction (signed, in picture heights)."""
    cos, sin = math.cos(along_rad), math.sin(along_rad)
    reach = 0.0
    while abs(reach) < 2:
        x, y = start.x + (reach + sign * 0.05) * cos, start.y + (reach + sign * 0.05) * sin
        if not (stage.rests(x, y) and stage.holds(x - width * sin, y + width * cos)):
            break
        reach += sign * 0.05
    return reach
