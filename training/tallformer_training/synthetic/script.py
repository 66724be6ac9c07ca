"""What a video is before any pixel: shots, the sprites in them, and what each sprite does when."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.errors import ConfigError
from tallformer_training.synthetic.actions import CLASSES
from tallformer_training.synthetic.motions import FloatArray, Motion, Pose
from tallformer_training.synthetic.scene import Scene

Subset = Literal["training", "validation", "testing"]
SUBSETS: tuple[Subset, ...] = get_args(Subset)
Style = Literal["thumos14", "activitynet"]
STYLES: tuple[Style, ...] = get_args(Style)


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """One video: everything that decides its content."""

    subset: Subset
    """Which looks and backgrounds it may have; subsets share none."""
    seed: int
    """Of the set it belongs to, 0 to 2³² - 1."""
    index: int
    """In that set, from 0."""
    minutes: float = 2.0
    """Length."""
    fps: float = 15.0
    """Frame rate, at least 10: less cannot show the fastest motions."""
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
        """Name in the truth, and of the file without `.mp4`."""
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
        """Whether it belongs to the truth."""
        return self.name in CLASSES


@dataclass(frozen=True, kw_only=True)
class Sprite:
    """One sprite in one shot."""

    look_seed: int
    """What it looks like."""
    rest: Pose
    """Pose until its first event."""
    events: tuple[Event, ...]
    """In the order of time, none overlapping."""

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
    """What is seen between two cuts, from `start_frame` to `end_frame` (exclusive)."""

    start_frame: int
    end_frame: int
    scene: Scene
    """Background, camera and light."""
    sprites: tuple[Sprite, ...]
    """From the back to the front."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """A whole video, before any pixel."""

    spec: VideoSpec
    shots: tuple[Shot, ...]

    @property
    def actions(self) -> tuple[Event, ...]:
        """The truth: all actions, by start, then end, then name."""
        events = [event for shot in self.shots for sprite in shot.sprites for event in sprite.events if event.is_action]
        return tuple(sorted(events, key=lambda event: (event.start_frame, event.end_frame, event.name)))
