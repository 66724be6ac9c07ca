"""Actions, their motions, and near-misses, which start like an action and are never labelled.

Motions are pure functions of the initial pose and the time since the start. Lengths are in picture heights, so a motion
does not depend on the resolution: x runs from 0 to the picture's aspect ratio, y from 0 (top) to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol, assert_never, get_args

import numpy as np
from numpy.typing import NDArray

ActionName = Literal["bounce", "spin left", "spin right", "grow", "shrink", "orbit", "blink", "zigzag"]
CLASSES: tuple[ActionName, ...] = get_args(ActionName)

SIZES = (0.26, 0.5)
"""Diameters of resting sprites, in picture heights."""
SMALLEST, LARGEST = 0.22, 0.58
"""Limits of `grow` and `shrink`, in picture heights."""
SHORTEST_S, LONGEST_S = 0.5, 30.0
"""Lengths of actions."""

REST_Y = (0.26, 0.82)

FloatArray = NDArray[np.float64]

NearMissName = Literal["half bounce", "drift", "tilt", "vanish", "swerve"]
NEAR_MISSES: tuple[NearMissName, ...] = get_args(NearMissName)

_LENGTHS_S: dict[NearMissName, tuple[float, float]] = {
    "half bounce": (0.2, 0.5),
    "drift": (0.8, 4.0),
    "tilt": (0.2, 0.6),
    "vanish": (1.2, 3.0),
    "swerve": (0.4, 1.0),
}


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Area in which sprites may be, in picture heights."""

    aspect: float
    """Width of the picture."""

    def holds(self, x: float, y: float) -> bool:
        """Whether the centre of an acting sprite may be there."""
        return self.left <= x <= self.right and 0.12 <= y <= 0.88

    def rests(self, x: float, y: float) -> bool:
        """Whether a sprite may rest there: low enough for a hop."""
        return self.left <= x <= self.right and REST_Y[0] <= y <= REST_Y[1]

    @property
    def left(self) -> float:
        """Smallest x of a sprite's centre."""
        return min(0.14, self.aspect / 3)

    @property
    def right(self) -> float:
        """Largest x of a sprite's centre."""
        return self.aspect - self.left


def draw_duration_s(rng: np.random.Generator) -> float:
    """Length of an action: mostly 1 to 8 s, some down to 0.5 s, some up to 30 s; log-uniform in each part."""
    part = rng.random()
    low, high = (SHORTEST_S, 1.0) if part < 0.08 else (1.0, 8.0) if part < 0.94 else (8.0, LONGEST_S)
    return float(np.exp(rng.uniform(math.log(low), math.log(high))))


def draw_action(name: ActionName, start: Pose, duration_s: float, stage: Stage, rng: np.random.Generator) -> Motion:
    """Draw the motion of one action.

    Args:
        name: The action.
        start: Initial pose.
        duration_s: Length of the action; periodic motions have a whole number of periods.
        stage: Area in which sprites may be.
        rng: Random generator.

    Returns:
        A motion from 0 s to `duration_s`.
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
            periods = round(duration_s / wanted_s - 0.5) + 0.5  # ends when the sprite returns
            return Flash(period_s=duration_s / periods, opacity=rng.uniform(0, 0.1))
        case "zigzag":
            return _draw_zigzag(start, duration_s, stage, rng)
        case _:
            assert_never(name)


def _whole(duration_s: float, period_s: float) -> float:
    return duration_s / max(round(duration_s / period_s), 1)


def _draw_resize(start: Pose, duration_s: float, rng: np.random.Generator, *, grows: bool) -> Resize:
    """Bounds around the current size, and a rate that is visible even in a short action."""
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
    """The direction with the longest path among some random ones, so that it does not turn back at once."""
    width = rng.uniform(0.16, 0.3)
    tries = []
    for _ in range(12):
        along_rad, signed = rng.uniform(0, math.tau), width * rng.choice((-1, 1))
        back, ahead = (_reach(start, along_rad, signed, stage, sign) for sign in (-1, 1))
        tries.append((ahead - back, along_rad, signed, back, ahead))
    long = [entry for entry in tries if entry[0] >= 0.45]
    span, along_rad, signed, back, ahead = long[0] if long else max(tries)
    if span < 0.2:  # in a corner: leave the stage rather than stand still
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


class Pose(NamedTuple):
    """Position, angle, size and opacity of a sprite; the columns of pose arrays, in this order."""

    x: float
    """Centre, in picture heights from the left edge."""
    y: float
    """Centre, in picture heights from the top edge."""
    angle_rad: float
    """Rotation, clockwise as seen."""
    size: float
    """Diameter, in picture heights."""
    opacity: float
    """0 (invisible) to 1."""


class Motion(Protocol):
    """Motion of a sprite."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """Poses at times `t_s` (N,) since the start, shape (N, 5)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hop:
    """Parabolic hops straight up and down again, as under gravity."""

    height: float
    """Height of a hop, in picture heights."""
    period_s: float
    """Duration of a hop, in seconds."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        phase = _phase(t_s, self.period_s)
        return _moved(start, t_s, y=-4 * self.height * phase * (1 - phase))


@dataclass(frozen=True, kw_only=True)
class Turn:
    """Rotation about the centre at a constant rate."""

    rad_per_s: float
    """Above 0 clockwise as seen, below 0 counter-clockwise."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        return _moved(start, t_s, angle_rad=self.rad_per_s * t_s)


@dataclass(frozen=True, kw_only=True)
class Resize:
    """Growth (or shrinking) at a constant relative rate; after the largest size it restarts from the smallest.

    Growth reversed in time is shrinking with the same sizes, so a single picture does not tell them apart.
    """

    smallest: float
    """Smallest size in picture heights, at most the initial one."""
    largest: float
    """Largest size in picture heights, at least the initial one."""
    cycles_per_s: float
    """Passes from the smallest to the largest size per second; negative for shrinking."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        span = math.log(self.largest / self.smallest)
        position = math.log(start.size / self.smallest) / span + self.cycles_per_s * t_s
        sizes = self.smallest * np.exp(span * (position - np.floor(position)))
        return _moved(start, t_s, size=np.where(t_s > 0, sizes - start.size, 0.0))


@dataclass(frozen=True, kw_only=True)
class Circle:
    """Motion on a circle; the sprite itself does not rotate."""

    radius: float
    """Radius, in picture heights."""
    from_rad: float
    """Initial angle on the circle, clockwise from the right."""
    rad_per_s: float
    """Above 0 clockwise as seen, below 0 counter-clockwise."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        angle = self.from_rad + self.rad_per_s * t_s
        x = self.radius * (np.cos(angle) - math.cos(self.from_rad))
        y = self.radius * (np.sin(angle) - math.sin(self.from_rad))
        return _moved(start, t_s, x=x, y=y)


@dataclass(frozen=True, kw_only=True)
class Flash:
    """Invisible for the first half of every period."""

    period_s: float
    """From one disappearance to the next."""
    opacity: float
    """Opacity while off, in [0, 1)."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        off = _phase(t_s, self.period_s) < 0.5
        return _moved(start, t_s, opacity=np.where(off, self.opacity - start.opacity, 0.0))


@dataclass(frozen=True, kw_only=True)
class Zigzag:
    """Straight legs with sharp turns: a triangle wave across a path that is reflected at its two ends."""

    along_rad: float
    """Direction of the path."""
    speed: float
    """Speed along the path, in picture heights per second."""
    back: float
    """End of the path behind the start, in picture heights, at most 0."""
    ahead: float
    """End of the path before the start, in picture heights, above `back`."""
    width: float
    """Amplitude of the wave across the path, in picture heights; the sign gives the side."""
    period_s: float
    """Period of the wave, in seconds."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        span = self.ahead - self.back
        along = self.back + span * _triangle(((self.speed * t_s - self.back) / span) / 2)
        across = self.width * _triangle(t_s / self.period_s)
        cos, sin = math.cos(self.along_rad), math.sin(self.along_rad)
        return _moved(start, t_s, x=along * cos - across * sin, y=along * sin + across * cos)


@dataclass(frozen=True, kw_only=True)
class Glide:
    """Straight motion at constant speed, or slowing to rest at its end."""

    x: float
    """Distance to the right, in picture heights."""
    y: float
    """Distance down, in picture heights."""
    duration_s: float
    """Duration of the motion, in seconds."""
    settles: bool = False
    """Slow down to rest, like the first half of a hop."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        part = np.clip(t_s / self.duration_s, 0.0, 1.0)
        if self.settles:
            part = part * (2 - part)
        return _moved(start, t_s, x=self.x * part, y=self.y * part)


def pose_after(motion: Motion, start: Pose, duration_s: float) -> Pose:
    """Final pose of a sprite after `motion`; the angle is reduced by whole turns."""
    x, y, angle_rad, size, opacity = (float(value) for value in motion.poses(start, np.array([duration_s]))[0])
    return Pose(x, y, math.remainder(angle_rad, math.tau), size, opacity)


def _moved(start: Pose, t_s: FloatArray, **changes: FloatArray) -> FloatArray:
    poses = np.tile(np.asarray(start), (len(t_s), 1))  # (N, 5)
    for field, change in changes.items():
        poses[:, Pose._fields.index(field)] += change
    return poses


def _phase(t_s: FloatArray, period_s: float) -> FloatArray:
    phase = t_s / period_s % 1
    return np.where(phase > 1 - 1e-9, 0.0, phase)  # a whole number of periods must not be rounded down


def _triangle(turns: FloatArray) -> FloatArray:
    """0 at whole turns, 1 half-way between them, linear in between."""
    return np.asarray(1 - np.abs(2 * (turns - np.floor(turns)) - 1))


def draw_near_miss_s(name: NearMissName, rng: np.random.Generator) -> float:
    """Length of a near-miss."""
    return float(rng.uniform(*_LENGTHS_S[name]))


def draw_near_miss(
    name: NearMissName, start: Pose, duration_s: float, stage: Stage, rng: np.random.Generator
) -> Motion:
    """Draw the motion of one near-miss; arguments as for `draw_action`.

    Returns:
        A motion that ends where the sprite may rest: half a hop, a straight path without zigzag, at most a sixth of a
        turn, one long absence instead of a blink, at most a third of an orbit.
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
    """Draw the straight path of a passer-by through the whole picture, in picture heights."""
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
