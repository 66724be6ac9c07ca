"""Write scripts: which sprites are in each shot, and what each does.

# Note [separate random streams]
Looks, places, times, labels and motions come from separate streams of the same seed, so that none depends on another:
the same seed with other labels has the same sprites, acting at the same times. No look tells what a sprite will do.

# Note [subsets share nothing]
What a sprite or a background looks like is decided by one whole number. Its remainder by three is the number of the
subset, so that training, validation and testing never show the same look or background, whatever the seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

import numpy as np

from tallformer_infer.errors import ConfigError
from tallformer_training.synthetic.actions import (
    CLASSES,
    REST_Y,
    SIZES,
    ActionName,
    Motion,
    Pose,
    Stage,
    draw_action,
    draw_crossing,
    draw_near_miss,
    pose_after,
)
from tallformer_training.synthetic.script import SUBSETS, Event, Script, Shot, Sprite, VideoSpec, draw_scene
from tallformer_training.synthetic.timing import (
    Slot,
    cast_actions,
    draw_frames,
    plan_actions,
    plan_near_misses,
    plan_shots,
)

_CROSSINGS_PER_MINUTE = 1.5
_WHOLE_VIDEO = 2**32 - 1
"""Keeps the random streams of the style apart: no video of the other has so many shots."""

ShotPlanner = Callable[..., tuple[list[Slot], int]]
"""From random numbers and the number of `sprites` to slots of actions and the shot's end; see `plan_actions`."""


def write_script(spec: VideoSpec, *, labels: Sequence[ActionName] = CLASSES) -> Script:
    """Decide everything that happens in a video; the same `spec` gives the same script.

    Args:
        spec: The video.
        labels: Actions to choose from, all equally likely; looks, first places and times do not depend on them.
            With `style` `activitynet` one is chosen for the whole video.

    Raises:
        ConfigError: `labels` is empty or names what is no action.
    """
    if not labels or any(label not in CLASSES for label in labels):
        raise ConfigError(f"labels={', '.join(labels)}: expected some of {', '.join(CLASSES)}")
    match spec.style:
        case "thumos14":
            return Script(spec=spec, shots=tuple(_write_shots(spec, tuple(labels))))
        case "activitynet":
            return Script(spec=spec, shots=tuple(_write_whole_video(spec, tuple(labels))))
        case _:
            assert_never(spec.style)


def _write_shots(spec: VideoSpec, labels: tuple[ActionName, ...]) -> Iterator[Shot]:
    """Shots that end with one of their actions, until the video is full."""
    start_frame = number = 0
    while start_frame < spec.frames:
        plan = partial(plan_actions, start_frame=start_frame, limit_frame=spec.frames, fps=spec.fps)
        shot = _write_shot(spec, labels, (number,), start_frame=start_frame, plan=plan)
        yield shot
        start_frame, number = shot.end_frame, number + 1


def _write_whole_video(spec: VideoSpec, labels: tuple[ActionName, ...]) -> Iterator[Shot]:
    """Shots of a video that shows one class."""
    seeds = np.random.SeedSequence((*_entropy(spec), _WHOLE_VIDEO)).spawn(2)
    times, choice = (np.random.default_rng(seed) for seed in seeds)
    label = labels[int(choice.integers(len(labels)))]
    for number, shot in enumerate(plan_shots(times, frames=spec.frames, fps=spec.fps)):
        plan = partial(cast_actions, shot=shot)
        yield _write_shot(spec, (label,), (_WHOLE_VIDEO, number), start_frame=shot.start_frame, plan=plan)


def draw_minutes(spec: VideoSpec) -> float:
    """Length of a video of the style `activitynet`, a whole number of frames."""
    rng = np.random.default_rng((*_entropy(spec), _WHOLE_VIDEO, _WHOLE_VIDEO))
    return draw_frames(rng, spec.fps) / spec.fps / 60


@dataclass(frozen=True)
class _Streams:
    """See Note [separate random streams]."""

    times: np.random.Generator
    labels: np.random.Generator
    looks: np.random.Generator
    places: np.random.Generator
    motions: np.random.Generator
    near_misses: np.random.Generator
    crossings: np.random.Generator
    scene: np.random.Generator


def _entropy(spec: VideoSpec) -> tuple[int, int, int]:
    return SUBSETS.index(spec.subset), spec.seed, spec.index


def _write_shot(
    spec: VideoSpec, labels: tuple[ActionName, ...], number: tuple[int, ...], *, start_frame: int, plan: ShotPlanner
) -> Shot:
    seeds = np.random.SeedSequence((*_entropy(spec), *number)).spawn(len(dataclasses.fields(_Streams)))
    streams = _Streams(*(np.random.default_rng(seed) for seed in seeds))
    rests = _place_sprites(streams.places, Stage(aspect=spec.aspect))
    slots, end_frame = plan(streams.times, sprites=len(rests))
    shot = (start_frame, end_frame)
    near = plan_near_misses(streams.near_misses, slots, sprites=len(rests), shot=shot, fps=spec.fps)
    names = _draw_labels(streams.labels, slots, labels)
    events = _direct(spec, streams.motions, rests, [*slots, *near], names)
    sprites = [
        Sprite(look_seed=_subset_seed(streams.looks, spec), rest=rest, events=tuple(own))
        for rest, own in zip(rests, events, strict=True)
    ]
    for crossing in _draw_crossings(spec, streams.crossings, shot):
        sprites.insert(int(streams.crossings.integers(len(sprites) + 1)), crossing)
    scene = draw_scene(
        streams.scene,
        background_seed=_subset_seed(streams.scene, spec),
        duration_s=(end_frame - start_frame) / spec.fps,
        aspect=spec.aspect,
    )
    return Shot(start_frame=start_frame, end_frame=end_frame, scene=scene, sprites=tuple(sprites))


def _subset_seed(rng: np.random.Generator, spec: VideoSpec) -> int:
    """See Note [subsets share nothing]."""
    return int(rng.integers(2**50)) * len(SUBSETS) + SUBSETS.index(spec.subset)


def _place_sprites(rng: np.random.Generator, stage: Stage) -> list[Pose]:
    """One to four sprites at rest, each where it has the most room of some places tried."""
    rests: list[Pose] = []
    for _ in range(rng.choice((1, 2, 3, 4), p=(0.25, 0.4, 0.25, 0.1))):
        size = math.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[1])))
        angle_rad = rng.uniform(-math.pi, math.pi)
        tries = [
            Pose(rng.uniform(stage.left, stage.right), rng.uniform(*REST_Y), angle_rad, size, 1.0) for _ in range(12)
        ]
        free = [pose for pose in tries if _room(pose, rests) > 0]
        rests.append(free[0] if free else max(tries, key=lambda pose: _room(pose, rests)))
    return rests


def _room(pose: Pose, others: Sequence[Pose]) -> float:
    """Gap to the nearest other sprite, in picture heights; a fifth of overlap still counts as none."""
    return min(
        (math.hypot(pose.x - other.x, pose.y - other.y) - 0.4 * (pose.size + other.size) for other in others),
        default=math.inf,
    )


def _draw_labels(rng: np.random.Generator, slots: list[Slot], labels: tuple[ActionName, ...]) -> dict[Slot, ActionName]:
    """A label for every slot, not the one of a slot that it overlaps (unless there is no other)."""
    names: dict[Slot, ActionName] = {}
    for slot in slots:
        taken = {name for other, name in names.items() if other.end_frame > slot.start_frame}
        free = [label for label in labels if label not in taken] or list(labels)
        names[slot] = free[int(rng.integers(len(free)))]
    return names


def _direct(
    spec: VideoSpec, rng: np.random.Generator, rests: list[Pose], slots: list[Slot], names: dict[Slot, ActionName]
) -> list[list[Event]]:
    """Give every slot a motion that starts in the pose in which its sprite is then; events of every sprite."""
    stage = Stage(aspect=spec.aspect)
    now = list(rests)
    events: list[list[Event]] = [[] for _ in rests]
    for slot in sorted(slots, key=lambda slot: slot.start_frame):
        start, duration_s = now[slot.sprite], (slot.end_frame - slot.start_frame) / spec.fps
        if slot.near_miss is None:
            draw = partial(draw_action, names[slot], start, duration_s, stage, rng)
        else:
            draw = partial(draw_near_miss, slot.near_miss, start, duration_s, stage, rng)
        others = now[: slot.sprite] + now[slot.sprite + 1 :]
        motion, now[slot.sprite] = _settle(draw, start, duration_s, others)
        event = Event(
            start_frame=slot.start_frame,
            end_frame=slot.end_frame,
            name=slot.near_miss or names[slot],
            motion=motion,
            start_pose=start,
            end_pose=now[slot.sprite],
        )
        events[slot.sprite].append(event)
    return events


def _settle(draw: Callable[[], Motion], start: Pose, duration_s: float, others: Sequence[Pose]) -> tuple[Motion, Pose]:
    """A motion that does not come to rest upon another sprite, if one of some tries can be had, and where it ends."""
    tries = []
    for _ in range(6):
        motion = draw()
        end_pose = pose_after(motion, start, duration_s)
        tries.append((motion, end_pose))
        if _room(end_pose, others) >= min(_room(start, others), 0):
            return tries[-1]
    return max(tries, key=lambda entry: _room(entry[1], others))


def _draw_crossings(spec: VideoSpec, rng: np.random.Generator, shot: tuple[int, int]) -> list[Sprite]:
    """Passers-by that go straight through the picture, at any height; the cut may take them away half-way."""
    sprites = []
    for _ in range(rng.poisson(_CROSSINGS_PER_MINUTE * (shot[1] - shot[0]) / spec.fps / 60)):
        size = math.exp(rng.uniform(math.log(SIZES[0]), math.log(SIZES[1])))
        ends_x = [-size / 2 - 0.1, spec.aspect + size / 2 + 0.1]
        rng.shuffle(ends_x)
        rest = Pose(ends_x[0], rng.uniform(0.1, 0.85), rng.uniform(-math.pi, math.pi), size, 1.0)
        start_frame, frames = int(rng.integers(*shot)), round(rng.uniform(2.0, 7.0) * spec.fps)
        motion = draw_crossing(ends_x[0], ends_x[1], frames / spec.fps, rng)
        event = Event(
            start_frame=start_frame,
            end_frame=start_frame + frames,
            name="crossing",
            motion=motion,
            start_pose=rest,
            end_pose=pose_after(motion, rest, frames / spec.fps),
        )
        sprites.append(Sprite(look_seed=_subset_seed(rng, spec), rest=rest, events=(event,)))
    return sprites
