"""How a sprite's pose changes over time: pure functions of the pose it starts from and the time since then.

Lengths are in picture heights, so a motion does not know the resolution: x runs from 0 to the picture's aspect ratio,
y from 0 (top) to 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


class Pose(NamedTuple):
    """Where a sprite is and how it stands; the columns of every pose array, in this order."""

    x: float
    """Centre, in picture heights from the left edge."""
    y: float
    """Centre, in picture heights from the top edge."""
    angle_rad: float
    """Rotation, clockwise as seen."""
    size: float
    """Diameter, in picture heights."""
    opacity: float
    """0 (not to be seen) to 1."""


class Motion(Protocol):
    """A way to move."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """Poses at times `t_s` (N,) since the start, shape (N, 5)."""
        ...


@dataclass(frozen=True, kw_only=True)
class Hop:
    """Parabolic hops straight up and down again, as under gravity."""

    height: float
    """Of one hop, in picture heights."""
    period_s: float
    """From the ground to the ground."""

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
    """Growth (or shrinking) at a constant relative rate; past the largest size it starts again from the smallest.

    The mirror image in time of a growth is a shrinking with the same sizes, so that no still picture tells which it is.
    """

    smallest: float
    """In picture heights, at most the size at the start."""
    largest: float
    """In picture heights, at least the size at the start."""
    cycles_per_s: float
    """Ways from the smallest to the largest per second; below 0 shrinks."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        span = math.log(self.largest / self.smallest)
        position = math.log(start.size / self.smallest) / span + self.cycles_per_s * t_s
        sizes = self.smallest * np.exp(span * (position - np.floor(position)))
        return _moved(start, t_s, size=np.where(t_s > 0, sizes - start.size, 0.0))


@dataclass(frozen=True, kw_only=True)
class Circle:
    """A way on a circle; the sprite itself does not turn."""

    radius: float
    """In picture heights."""
    from_rad: float
    """Where on the circle the sprite starts, clockwise from the right."""
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
    """Not to be seen for the first half of every period."""

    period_s: float
    """From one disappearance to the next."""
    opacity: float
    """While off, in [0, 1)."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        off = _phase(t_s, self.period_s) < 0.5
        return _moved(start, t_s, opacity=np.where(off, self.opacity - start.opacity, 0.0))


@dataclass(frozen=True, kw_only=True)
class Zigzag:
    """Straight legs with sharp turns: a triangle wave across a way that is reflected at its two ends."""

    along_rad: float
    """Direction of the way."""
    speed: float
    """Along the way, in picture heights per second."""
    back: float
    """How far the way reaches behind the start, in picture heights, at most 0."""
    ahead: float
    """How far the way reaches before the start, in picture heights, above `back`."""
    width: float
    """Of the wave, across the way, in picture heights; the sign says to which side."""
    period_s: float
    """Of the wave."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        span = self.ahead - self.back
        along = self.back + span * _triangle(((self.speed * t_s - self.back) / span) / 2)
        across = self.width * _triangle(t_s / self.period_s)
        cos, sin = math.cos(self.along_rad), math.sin(self.along_rad)
        return _moved(start, t_s, x=along * cos - across * sin, y=along * sin + across * cos)


@dataclass(frozen=True, kw_only=True)
class Glide:
    """A straight way at constant speed, or one that comes to rest at its end."""

    x: float
    """To the right, in picture heights."""
    y: float
    """Down, in picture heights."""
    duration_s: float
    """For the whole way."""
    settles: bool = False
    """Slows down to rest, like the first half of a hop."""

    def poses(self, start: Pose, t_s: FloatArray) -> FloatArray:
        """See `Motion`."""
        part = np.clip(t_s / self.duration_s, 0.0, 1.0)
        if self.settles:
            part = part * (2 - part)
        return _moved(start, t_s, x=self.x * part, y=self.y * part)


def pose_after(motion: Motion, start: Pose, duration_s: float) -> Pose:
    """The pose in which `motion` leaves a sprite; whole turns are taken off the angle."""
    x, y, angle_rad, size, opacity = (float(value) for value in motion.poses(start, np.array([duration_s]))[0])
    return Pose(x, y, math.remainder(angle_rad, math.tau), size, opacity)


def _moved(start: Pose, t_s: FloatArray, **changes: FloatArray) -> FloatArray:
    poses = np.tile(np.asarray(start), (len(t_s), 1))  # (N, 5)
    for field, change in changes.items():
        poses[:, Pose._fields.index(field)] += change
    return poses


def _phase(t_s: FloatArray, period_s: float) -> FloatArray:
    phase = t_s / period_s % 1
    return np.where(phase > 1 - 1e-9, 0.0, phase)  # a whole number of periods must not fall just short of it


def _triangle(turns: FloatArray) -> FloatArray:
    """0 at whole turns, 1 half-way between them, straight in between."""
    return np.asarray(1 - np.abs(2 * (turns - np.floor(turns)) - 1))
