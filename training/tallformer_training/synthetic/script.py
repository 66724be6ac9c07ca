"""Description of a video: shots, camera and light, the sprites in each shot, and their events."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import ConfigError
from tallformer_training.synthetic.actions import CLASSES, FloatArray, Motion, Pose

Subset = Literal["training", "validation", "testing"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)
Style = Literal["thumos14", "activitynet"]
STYLES: tuple[Style, ...] = get_args(Style)


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """Everything that determines the content of a video."""

    subset: Subset
    """Subset, which determines the looks and backgrounds; subsets share none."""
    seed: int
    """Seed of its set, 0 to 2³² - 1."""
    index: int
    """Number in the set, from 0."""
    minutes: float = 2.0
    """Length."""
    fps: float = 15.0
    """Frame rate, at least 10, to show the fastest motions."""
    width_px: int = 128
    """Even, at least 32."""
    height_px: int = 96
    """Even, at least 32."""
    style: Style = "thumos14"
    """`thumos14`: many actions of all classes, mostly short; `activitynet`: up to three long ones, all of one class."""

    def __post_init__(self) -> None:
        if self.subset not in SUBSETS:
            raise ConfigError(f"subset={self.subset}: expected one of {', '.join(SUBSETS)}")
        if self.style not in STYLES:
            raise ConfigError(f"style={self.style}: expected one of {', '.join(STYLES)}")
        for name, number in (("seed", self.seed), ("index", self.index)):
            if not 0 <= number < 2**32:
                raise ConfigError(f"{name}={number}: expected 0 to {2**32 - 1}")
        if not 10 <= self.fps <= 120:
            raise ConfigError(f"fps={self.fps}: expected 10 to 120")
        if not 0.01 <= self.minutes <= 24 * 60:
            raise ConfigError(f"minutes={self.minutes}: expected 0.01 to 1440")
        for name, value in (("width", self.width_px), ("height", self.height_px)):
            if value < 32 or value % 2:
                raise ConfigError(f"{name}_px={value}: expected an even number of pixels, at least 32")

    @property
    def video_id(self) -> str:
        """Name in the ground truth, and of the file without `.mp4`."""
        return f"{self.subset}-s{self.seed}-v{self.index:04d}"

    @property
    def frames(self) -> int:
        """Length in frames."""
        return max(round(self.minutes * 60 * self.fps), 1)

    @property
    def aspect(self) -> float:
        """Width in picture heights."""
        return self.width_px / self.height_px


@dataclass(frozen=True, kw_only=True)
class Event:
    """One motion of a sprite, from `start_frame` to `end_frame` (exclusive), frames of the whole video."""

    start_frame: int
    """The motion starts at the time of this frame."""
    end_frame: int
    """The first frame in the new pose, at rest again."""
    name: str
    """An action, a near-miss or `crossing`."""
    motion: Motion
    """How the pose changes."""
    start_pose: Pose
    """Pose before."""
    end_pose: Pose
    """Pose afterwards."""

    @property
    def is_action(self) -> bool:
        """Whether it is part of the ground truth."""
        return self.name in CLASSES


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One sprite in one shot."""

    look_seed: int
    """Seed of its look."""
    rest: Pose
    """Pose until its first event."""
    events: tuple[Event, ...]
    """Events in the order of time, without overlaps."""

    def poses(self, frames: NDArray[np.int64], fps: float) -> FloatArray:
        """Poses at `frames` (N,) of the whole video, shape (N, 5), columns as in `Pose`."""
        poses = np.tile(np.asarray(self.rest), (len(frames), 1))
        for event in self.events:
            poses[frames >= event.end_frame] = event.end_pose
            rows = (frames >= event.start_frame) & (frames < event.end_frame)
            if rows.any():
                poses[rows] = event.motion.poses(event.start_pose, (frames[rows] - event.start_frame) / fps)
        return poses


@dataclass(frozen=True, kw_only=True)
class Shot:
    """The part between two cuts, from `start_frame` to `end_frame` (exclusive)."""

    start_frame: int
    end_frame: int
    scene: Scene
    """Background, camera and light."""
    sprites: tuple[Sprite, ...]
    """Sprites from back to front."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """Description of a whole video."""

    spec: VideoSpec
    shots: tuple[Shot, ...]

    @property
    def actions(self) -> tuple[Event, ...]:
        """The ground truth: all actions, by start, then end, then name."""
        events = [event for shot in self.shots for sprite in shot.sprites for event in sprite.events if event.is_action]
        return tuple(sorted(events, key=lambda event: (event.start_frame, event.end_frame, event.name)))


@dataclass(frozen=True, kw_only=True)
class Wave:
    """One sine component of a movement."""

    amplitude: float
    """Amplitude, in the unit of the moved quantity."""
    hz: float
    """Frequency."""
    phase_rad: float
    """Phase at 0 s."""


@dataclass(frozen=True, kw_only=True)
class Zoom:
    """The background, but no sprite, is magnified or reduced and back: near-miss of `grow` and `shrink`."""

    start_s: float
    """Start, since that of the shot."""
    duration_s: float
    """Duration, there and back."""
    factor: float
    """Largest magnification of the background; below 1 it is reduced."""


@dataclass(frozen=True, kw_only=True)
class Flicker:
    """The light goes off and on for the whole picture: near-miss of `blink`."""

    start_s: float
    """Start, since that of the shot."""
    duration_s: float
    """Duration of all flickers."""
    period_s: float
    """Period of the flickers."""
    gain: float
    """Brightness while dark, in (0, 1)."""


@dataclass(frozen=True, kw_only=True)
class Jolt:
    """The camera hops: near-miss of `bounce`."""

    start_s: float
    """Start, since that of the shot."""
    duration_s: float
    """Duration of all hops."""
    period_s: float
    """Duration of one hop."""
    height: float
    """In picture heights."""


@dataclass(frozen=True, kw_only=True)
class Speck:
    """A small disc that floats through the picture."""

    x: float
    """At 0 s, in picture heights."""
    y: float
    """At 0 s, in picture heights."""
    x_per_s: float
    """In picture heights per second."""
    y_per_s: float
    """In picture heights per second."""
    size: float
    """Diameter, in picture heights."""
    rgb: tuple[float, float, float]
    """Colour, 0-255."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Background, camera, light and specks of a shot."""

    background_seed: int
    """Seed of the background."""
    noise_seed: int
    """Seed of the grain."""
    pan: tuple[float, float]
    """Drift of the background to the left and up, in picture heights per second."""
    shake_x: tuple[Wave, ...]
    """Of the camera, in picture heights."""
    shake_y: tuple[Wave, ...]
    """Of the camera, in picture heights."""
    light: tuple[Wave, ...]
    """Slow relative change of brightness."""
    tint: tuple[float, float, float]
    """Factors of red, green and blue."""
    grain: float
    """Standard deviation of the noise, in pixel values."""
    zooms: tuple[Zoom, ...]
    flickers: tuple[Flicker, ...]
    jolts: tuple[Jolt, ...]
    specks: tuple[Speck, ...]


def draw_scene(rng: np.random.Generator, *, background_seed: int, duration_s: float, aspect: float) -> Scene:
    """Draw the scene of a shot of this length; `aspect` is the picture's width in picture heights."""
    shake = rng.choice((0.0, 0.004, 0.012)) * rng.uniform(0.5, 1.5)
    speed, heading = rng.choice((0.0, 1.0), p=(0.3, 0.7)) * rng.uniform(0.01, 0.15), rng.uniform(0, math.tau)
    return Scene(
        background_seed=background_seed,
        noise_seed=int(rng.integers(2**31)),
        pan=(float(speed * math.cos(heading)), float(speed * math.sin(heading))),
        shake_x=_draw_waves(rng, shake, (0.2, 3.5)),
        shake_y=_draw_waves(rng, shake, (0.2, 3.5)),
        light=_draw_waves(rng, rng.uniform(0, 0.08), (0.03, 0.5)),
        tint=(float(rng.uniform(0.8, 1.15)), float(rng.uniform(0.85, 1.1)), float(rng.uniform(0.8, 1.15))),
        grain=float(rng.choice((0.0, 1.0, 1.0, 2.5)) * rng.uniform(0.6, 1.4)),
        zooms=tuple(_draw_zoom(rng, at) for at in _times(rng, duration_s, 1.2)),
        flickers=tuple(_draw_flicker(rng, at) for at in _times(rng, duration_s, 0.7)),
        jolts=tuple(_draw_jolt(rng, at) for at in _times(rng, duration_s, 0.5)),
        specks=tuple(_draw_speck(rng, aspect) for _ in range(max(0, int(rng.integers(-3, 7))))),
    )


def shake_at(scene: Scene, t_s: FloatArray) -> FloatArray:
    """Offset of the picture due to camera shake at times `t_s` (N,), in picture heights, shape (N, 2)."""
    shake = np.stack([_sum(scene.shake_x, t_s), _sum(scene.shake_y, t_s)], axis=1)  # (N, 2)
    for jolt in scene.jolts:
        phase = ((t_s - jolt.start_s) / jolt.period_s) % 1
        shake[:, 1] += np.where(_during(jolt, t_s), 4 * jolt.height * phase * (1 - phase), 0.0)
    return shake


def zoom_at(scene: Scene, t_s: FloatArray) -> FloatArray:
    """Magnification of the background at times `t_s`, shape (N,)."""
    zoom = np.ones_like(t_s)
    for event in scene.zooms:
        swell = 0.5 - 0.5 * np.cos(math.tau * (t_s - event.start_s) / event.duration_s)
        zoom *= np.where(_during(event, t_s), np.exp(swell * math.log(event.factor)), 1.0)
    return zoom


def light_at(scene: Scene, t_s: FloatArray) -> FloatArray:
    """Gain of red, green and blue at times `t_s`, shape (N, 3)."""
    gain = 1 + _sum(scene.light, t_s)
    for event in scene.flickers:
        dark = _during(event, t_s) & (((t_s - event.start_s) / event.period_s) % 1 < 0.5)
        gain = np.where(dark, gain * event.gain, gain)
    return np.asarray(gain[:, None] * np.array(scene.tint))


def _sum(waves: tuple[Wave, ...], t_s: FloatArray) -> FloatArray:
    total = np.zeros_like(t_s)
    for wave in waves:
        total += wave.amplitude * np.sin(math.tau * wave.hz * t_s + wave.phase_rad)
    return total


def _during(event: Zoom | Flicker | Jolt, t_s: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return (t_s >= event.start_s) & (t_s < event.start_s + event.duration_s)


def _times(rng: np.random.Generator, duration_s: float, per_minute: float) -> list[float]:
    """Random times, at least 6 s apart so that two of a kind never overlap."""
    moments, now_s = [], 0.0
    while (now_s := now_s + rng.exponential(60 / per_minute)) < duration_s:
        moments.append(float(now_s))
        now_s += 6
    return moments


def _draw_waves(rng: np.random.Generator, amplitude: float, hz: tuple[float, float]) -> tuple[Wave, ...]:
    return tuple(
        Wave(
            amplitude=float(amplitude * rng.uniform(0.3, 1)),
            hz=float(np.exp(rng.uniform(math.log(hz[0]), math.log(hz[1])))),
            phase_rad=float(rng.uniform(0, math.tau)),
        )
        for _ in range(3)
    )


def _draw_zoom(rng: np.random.Generator, start_s: float) -> Zoom:
    factor = np.exp(rng.choice((-1, 1)) * rng.uniform(0.15, 0.5))
    return Zoom(start_s=start_s, duration_s=float(rng.uniform(1.5, 6)), factor=float(factor))


def _draw_flicker(rng: np.random.Generator, start_s: float) -> Flicker:
    duration_s, period_s = rng.uniform(0.6, 3), rng.uniform(0.3, 0.9)
    return Flicker(
        start_s=start_s, duration_s=float(duration_s), period_s=float(period_s), gain=float(rng.uniform(0.5, 0.85))
    )


def _draw_jolt(rng: np.random.Generator, start_s: float) -> Jolt:
    period_s, hops, height = rng.uniform(0.4, 0.9), rng.integers(1, 4), rng.uniform(0.03, 0.1)
    return Jolt(start_s=start_s, duration_s=float(hops * period_s), period_s=float(period_s), height=float(height))


def _draw_speck(rng: np.random.Generator, aspect: float) -> Speck:
    speed, heading = rng.uniform(0.03, 0.35), rng.uniform(0, math.tau)
    red, green, blue = (float(value) for value in rng.uniform(20, 235, 3))
    return Speck(
        x=float(rng.uniform(0, aspect)),
        y=float(rng.uniform(0, 1)),
        x_per_s=float(speed * math.cos(heading)),
        y_per_s=float(speed * math.sin(heading)),
        size=float(rng.uniform(0.03, 0.08)),
        rgb=(red, green, blue),
    )
