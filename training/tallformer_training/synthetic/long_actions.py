"""Generated videos with actions of half a minute to minutes: extend the last action of every shot.

A script of `planning` is converted to a longer one. Nothing else changes in a shot: the acting sprite does nothing
afterwards, the events of others are unchanged, and later shots are delayed.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from tallformer_training.synthetic.actions import Flash, Hop, Motion, Zigzag, pose_after
from tallformer_training.synthetic.script import SUBSETS, Event, Script, Shot, Sprite

LONG_S = (30.0, 150.0)
"""Lengths of long actions."""
_OWN = 2**32 - 2
"""Separates these random numbers from those of shots."""


def lengthen(script: Script, *, long_s: tuple[float, float] = LONG_S) -> Script:
    """Extend the last action of every shot to a log-uniform length within `long_s`; deterministic.

    Periodic motions are extended by whole periods, so that they end as before. The spec's `minutes` are those of the
    longer video.
    """
    spec = script.spec
    rng = np.random.default_rng((SUBSETS.index(spec.subset), spec.seed, spec.index, _OWN))
    shots: list[Shot] = []
    shift_frames = 0
    for shot in script.shots:
        wanted_s = math.exp(rng.uniform(math.log(long_s[0]), math.log(long_s[1])))
        longer = _lengthen_shot(shot, wanted_s, spec.fps)
        shots.append(_moved(longer, shift_frames))
        shift_frames += longer.end_frame - shot.end_frame
    minutes = (spec.frames + shift_frames) / spec.fps / 60
    return Script(spec=replace(spec, minutes=minutes), shots=tuple(shots))


def _lengthen_shot(shot: Shot, wanted_s: float, fps: float) -> Shot:
    """The shot with its last action extended; unchanged if it has none, or a longer one."""
    last = max(
        (event for sprite in shot.sprites for event in sprite.events if event.is_action),
        key=lambda event: event.end_frame,
        default=None,
    )
    if last is None:
        return shot
    added = round(_whole(last.motion, wanted_s - (last.end_frame - last.start_frame) / fps) * fps)
    if added <= 0:
        return shot
    sprites = tuple(
        _acting_longer(sprite, last, added, fps) if last in sprite.events else sprite for sprite in shot.sprites
    )
    return replace(shot, end_frame=shot.end_frame + added, sprites=sprites)


def _whole(motion: Motion, duration_s: float) -> float:
    """The duration, rounded to whole periods of a periodic motion."""
    if isinstance(motion, Hop | Flash | Zigzag):
        return round(duration_s / motion.period_s) * motion.period_s
    return duration_s


def _acting_longer(sprite: Sprite, action: Event, added_frames: int, fps: float) -> Sprite:
    end_frame = action.end_frame + added_frames
    end_pose = pose_after(action.motion, action.start_pose, (end_frame - action.start_frame) / fps)
    before = [event for event in sprite.events if event.end_frame <= action.start_frame]
    return replace(sprite, events=(*before, replace(action, end_frame=end_frame, end_pose=end_pose)))


def _moved(shot: Shot, shift_frames: int) -> Shot:
    sprites = tuple(
        replace(
            sprite,
            events=tuple(
                replace(event, start_frame=event.start_frame + shift_frames, end_frame=event.end_frame + shift_frames)
                for event in sprite.events
            ),
        )
        for sprite in shot.sprites
    )
    return replace(
        shot, start_frame=shot.start_frame + shift_frames, end_frame=shot.end_frame + shift_frames, sprites=sprites
    )
