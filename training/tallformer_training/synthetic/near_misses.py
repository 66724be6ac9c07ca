"""What looks like the beginning of an action, or like half of one, and is none: never labelled."""

from __future__ import annotations

import math
from typing import Literal, assert_never, get_args

import numpy as np

from tallformer_training.synthetic.actions import REST_Y, Stage
from tallformer_training.synthetic.motions import Circle, Flash, Glide, Motion, Pose, Turn

NearMissName = Literal["half bounce", "drift", "tilt", "vanish", "swerve"]
NEAR_MISSES: tuple[NearMissName, ...] = get_args(NearMissName)

_LENGTHS_S: dict[NearMissName, tuple[float, float]] = {
    "half bounce": (0.2, 0.5),
    "drift": (0.8, 4.0),
    "tilt": (0.2, 0.6),
    "vanish": (1.2, 3.0),
    "swerve": (0.4, 1.0),
}


def draw_near_miss_s(name: NearMissName, rng: np.random.Generator) -> float:
    """Length of a near-miss."""
    return float(rng.uniform(*_LENGTHS_S[name]))


def draw_near_miss(
    name: NearMissName, start: Pose, duration_s: float, stage: Stage, rng: np.random.Generator
) -> Motion:
    """Draw the motion of one near-miss; arguments as for `draw_action`.

    Returns:
        A motion that leaves the sprite at rest where it may rest: up and no further, a straight way without zigzag, at
        most a sixth of a turn, one long absence instead of a blink, at most a third of an orbit.
    """
    match name:
        case "half bounce":
            return _draw_half_bounce(start, duration_s, rng)
        case "drift":
            target_x, target_y = rng.uniform(stage.left, stage.right), rng.uniform(*REST_Y)
            return Glide(x=target_x - start.x, y=target_y - start.y, duration_s=duration_s)
        case "tilt":
            return Turn(rad_per_s=float(rng.choice((-1, 1)) * rng.uniform(0.3, math.pi / 3) / duration_s))
        case "vanish":
            return Flash(period_s=2 * duration_s, opacity=0.0)
        case "swerve":
            return _draw_swerve(start, duration_s, stage, rng)
        case _:
            assert_never(name)


def draw_crossing(start_x: float, end_x: float, duration_s: float, rng: np.random.Generator) -> Motion:
    """Draw the straight way of a passer-by through the whole picture, in picture heights."""
    return Glide(x=end_x - start_x, y=rng.uniform(-0.2, 0.2), duration_s=duration_s)


def _draw_half_bounce(start: Pose, duration_s: float, rng: np.random.Generator) -> Glide:
    room_up, room_down = start.y - REST_Y[0], REST_Y[1] - start.y
    height = min(rng.uniform(0.14, 0.26), max(room_up, room_down))
    rises = room_up >= height and (room_down < height or rng.random() < 0.7)
    return Glide(x=0.0, y=-height if rises else height, duration_s=duration_s, settles=True)


def _draw_swerve(start: Pose, duration_s: float, stage: Stage, rng: np.random.Generator) -> Motion:
    for _ in range(32):
        radius, from_rad = rng.uniform(0.13, 0.26), rng.uniform(0, math.tau)
        turn_rad = rng.uniform(math.pi / 3, 2 * math.pi / 3) * rng.choice((-1, 1))
        x = start.x + radius * (math.cos(from_rad + turn_rad) - math.cos(from_rad))
        y = start.y + radius * (math.sin(from_rad + turn_rad) - math.sin(from_rad))
        if stage.rests(x, y):
            return Circle(radius=radius, from_rad=from_rad, rad_per_s=float(turn_rad / duration_s))
    return draw_near_miss("drift", start, duration_s, stage, rng)
