"""Write scripts: which sprites are in each shot, and what each does when.

# Note [separate random streams]
Looks, positions, times, labels and motions come from separate streams of the same seed, so they are independent: the
same seed with other labels has the same sprites, acting at the same times. Looks do not predict actions.

# Note [subsets share nothing]
The look of a sprite or a background is determined by one integer. Its remainder modulo three is the number of the
subset, so training, validation and testing never share a look or background, whatever the seeds.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import assert_never

import numpy as np

from tallformer_infer.errors import ConfigError
from tallformer_training.synthetic.actions import (
    CLASSES,
    LONGEST_S,
    NEAR_MISSES,
    REST_Y,
    SHORTEST_S,
    SIZES,
    ActionName,
    Motion,
    NearMissName,
    Pose,
    Stage,
    draw_action,
    draw_crossing,
    draw_duration_s,
    draw_near_miss,
    draw_near_miss_s,
    pose_after,
)
from tallformer_training.synthetic.script import SUBSETS, Event, Script, Shot, Sprite, VideoSpec, draw_scene

_CROSSINGS_PER_MINUTE = 1.5
_WHOLE_VIDEO = 2**32 - 1
"""Separates the random streams of this style: no video of the other has this many shots."""
SHOT_S = (8.0, 40.0)
"""Length after which a shot ends at the end of the current action."""
_OVERLAP = 0.22
"""Share of actions during which another sprite acts, too."""
_BETWEEN_NEAR_MISSES_S = 11.0
"""Mean time between near-misses of a sprite that does not act."""
_LEAD_S, _REST_S = 0.5, 0.4
"""Least time between a cut and an action, and between two motions of one sprite."""

LENGTH_S = (25.0, 50.0)
"""Lengths of videos."""
LEAST_ACTION_S = 3.0
"""Shortest action; the longest is `LONGEST_S`."""
_COUNTS, _CHANCES = (1, 2, 3), (0.4, 0.35, 0.25)
_COVERED = (0.4, 0.85)
"""Share of a video covered by actions."""
_LEAST_GAP_S = 1.0
"""Shortest gap before, between and after actions."""
_CUT_CHANCE, _WHOLE_LEAD_S = 0.5, 0.5
"""Chance of a cut in a gap of 2 s or more, and least time between a cut and an action."""


@dataclass(frozen=True, kw_only=True)
class Slot:
    """Time in which one sprite moves, from `start_frame` to `end_frame` (exclusive)."""

    sprite: int
    """Index of the sprite in the shot."""
    start_frame: int
    end_frame: int
    near_miss: NearMissName | None = None
    """None for an action, whose name is drawn later."""


@dataclass(frozen=True, kw_only=True)
class ShotPlan:
    """One shot, from `start_frame` to `end_frame` (exclusive)."""

    start_frame: int
    end_frame: int
    actions: tuple[tuple[int, int], ...]
    """First frame and end (exclusive) of each action."""


ShotPlanner = Callable[..., tuple[list[Slot], int]]
"""Takes a random generator and the number of `sprites`, returns slots of actions and the end; see `plan_actions`."""


def write_script(spec: VideoSpec, *, labels: Sequence[ActionName] = CLASSES) -> Script:
    """Decide everything that happens in a video; the same `spec` gives the same script.

    Args:
        spec: The video.
        labels: Actions to choose from, all equally likely; looks, initial positions and times do not depend on them.
            With `style` `activitynet` one is chosen for the whole video.

    Raises:
        ConfigError: `labels` is empty or contains an unknown action.
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
    """One to four sprites at rest, each at the position with the most room among some random ones."""
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
    """Gap to the nearest other sprite, in picture heights; an overlap of up to a fifth is allowed."""
    return min(
        (math.hypot(pose.x - other.x, pose.y - other.y) - 0.4 * (pose.size + other.size) for other in others),
        default=math.inf,
    )


def _draw_labels(rng: np.random.Generator, slots: list[Slot], labels: tuple[ActionName, ...]) -> dict[Slot, ActionName]:
    """A label for every slot, different from those of overlapping slots if possible."""
    names: dict[Slot, ActionName] = {}
    for slot in slots:
        taken = {name for other, name in names.items() if other.end_frame > slot.start_frame}
        free = [label for label in labels if label not in taken] or list(labels)
        names[slot] = free[int(rng.integers(len(free)))]
    return names


def _direct(
    spec: VideoSpec, rng: np.random.Generator, rests: list[Pose], slots: list[Slot], names: dict[Slot, ActionName]
) -> list[list[Event]]:
    """Draw a motion for every slot, from the current pose of its sprite; returns the events of every sprite."""
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
    """A motion that does not end on another sprite, if one of a few tries succeeds, and its final pose."""
    tries = []
    for _ in range(6):
        motion = draw()
        end_pose = pose_after(motion, start, duration_s)
        tries.append((motion, end_pose))
        if _room(end_pose, others) >= min(_room(start, others), 0):
            return tries[-1]
    return max(tries, key=lambda entry: _room(entry[1], others))


def _draw_crossings(spec: VideoSpec, rng: np.random.Generator, shot: tuple[int, int]) -> list[Sprite]:
    """Passers-by that cross the picture at any height; a cut may interrupt them."""
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


def plan_actions(
    rng: np.random.Generator, *, sprites: int, start_frame: int, limit_frame: int, fps: float
) -> tuple[list[Slot], int]:
    """Decide when the sprites of one shot act.

    Args:
        rng: Random generator.
        sprites: Number of sprites, at least 1.
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
    """Place near-misses in the time in which sprites do not act, with a rest before and after each.

    Args:
        rng: Random generator.
        actions: Slots of the shot's actions.
        sprites: Number of sprites.
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
    """A slot of an action from `start`, shortened to end before the video; None if there is no room."""
    shortest = math.ceil(SHORTEST_S * fps)
    room = limit_frame - start - math.ceil(_LEAD_S * fps)
    if room < shortest:
        return None
    frames = min(max(int(draw_duration_s(rng) * fps), shortest), room)
    return Slot(sprite=sprite, start_frame=start, end_frame=start + frames)


def _draw_pause_s(rng: np.random.Generator) -> float:
    """Pause between the end of all actions and the start of the next: 0.8 to 20 s."""
    return float(min(0.8 + rng.exponential(7.3), 20.0))


def draw_frames(rng: np.random.Generator, fps: float) -> int:
    """Length of a video, in frames."""
    return round(rng.uniform(*LENGTH_S) * fps)


def plan_shots(rng: np.random.Generator, *, frames: int, fps: float) -> list[ShotPlan]:
    """Decide when the actions of a video happen, and where it is cut.

    Args:
        rng: Random generator.
        frames: Length of the video.
        fps: Its frame rate.

    Returns:
        Shots that fill the video, with up to three actions together; none if the video is too short for one.
    """
    actions = _plan_whole_video(rng, frames / fps, fps)
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
    """Decide which sprites of a shot act; as `plan_actions`, for given times."""
    slots = [Slot(sprite=int(rng.integers(sprites)), start_frame=start, end_frame=end) for start, end in shot.actions]
    return slots, shot.end_frame


def _plan_whole_video(rng: np.random.Generator, length_s: float, fps: float) -> list[tuple[int, int]]:
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
