"""Generated videos before any pixel: what happens when, and what may tell it."""

from __future__ import annotations

import itertools
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallformer_infer.errors import ConfigError
from tallformer_training.synthetic import CLASSES, Script, VideoSpec, truth_of, write_script
from tallformer_training.synthetic.actions import Pose
from tallformer_training.synthetic.script import SUBSETS, Event, Sprite

FPS = 15.0


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    """Two hours of video."""
    return [write_script(VideoSpec(subset="testing", seed=3, index=index, minutes=4)) for index in range(30)]


def trace(script: Script, sprite: Sprite, start_frame: int, end_frame: int) -> np.ndarray:
    """Poses of a sprite at frames `start_frame` to `end_frame` (exclusive), shape (N, 5)."""
    return sprite.poses(np.arange(start_frame, end_frame), script.spec.fps)


def acting(scripts: list[Script]) -> list[tuple[Script, Sprite, Event]]:
    return [
        (script, sprite, event)
        for script in scripts
        for shot in script.shots
        for sprite in shot.sprites
        for event in sprite.events
        if event.is_action
    ]


def test_the_same_spec_gives_the_same_script():
    spec = VideoSpec(subset="training", seed=7, index=2)
    assert write_script(spec) == write_script(spec)


@pytest.mark.parametrize("change", [{"seed": 8}, {"index": 3}, {"subset": "testing"}])
def test_another_seed_index_or_subset_gives_other_actions(change: dict[str, object]):
    spec = {"subset": "training", "seed": 7, "index": 2}
    one, other = (truth_of(write_script(VideoSpec(**values))) for values in (spec, spec | change))
    assert one["annotations"] != other["annotations"]


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    minutes=st.floats(0.01, 5),
    fps=st.sampled_from([10.0, 15.0, 24.0, 29.97, 60.0]),
    size=st.sampled_from([(128, 96), (96, 96), (64, 128), (320, 180)]),
)
def test_any_video_is_filled_with_shots_and_its_truth_lies_inside(
    seed: int, minutes: float, fps: float, size: tuple[int, int]
):
    spec = VideoSpec(
        subset="validation", seed=seed, index=0, minutes=minutes, fps=fps, width_px=size[0], height_px=size[1]
    )
    script = write_script(spec)
    cuts = [shot.start_frame for shot in script.shots] + [script.shots[-1].end_frame]
    assert cuts[0] == 0
    assert cuts[-1] == spec.frames
    assert all(after > before for before, after in itertools.pairwise(cuts))
    for shot in script.shots:
        for event in (event for sprite in shot.sprites for event in sprite.events if event.is_action):
            assert shot.start_frame < event.start_frame < event.end_frame < shot.end_frame
            assert 0.5 <= (event.end_frame - event.start_frame) / fps <= 30


def test_every_class_occurs_about_as_often(scripts: list[Script]):
    counts = Counter(event.name for script in scripts for event in script.actions)
    assert set(counts) == set(CLASSES)
    assert max(counts.values()) < 1.5 * min(counts.values())


def test_actions_cover_35_to_50_percent_at_6_to_10_a_minute(scripts: list[Script]):
    covered = [np.zeros(script.spec.frames, bool) for script in scripts]
    for script, mask in zip(scripts, covered, strict=True):
        for event in script.actions:
            mask[event.start_frame : event.end_frame] = True
    assert 0.35 <= np.concatenate(covered).mean() <= 0.5
    assert 6 <= sum(len(script.actions) for script in scripts) / 120 <= 10


def test_lengths_reach_from_half_a_second_to_20_and_most_are_1_to_8(scripts: list[Script]):
    lengths_s = np.array([(event.end_frame - event.start_frame) / FPS for s in scripts for event in s.actions])
    assert lengths_s.min() < 0.7
    assert lengths_s.max() > 20
    assert 0.75 < ((lengths_s >= 1) & (lengths_s <= 8)).mean() < 0.95


def test_some_actions_overlap_but_never_two_of_the_same_class(scripts: list[Script]):
    pairs = [
        (one.name, other.name)
        for script in scripts
        for one, other in itertools.combinations(script.actions, 2)
        if other.start_frame < one.end_frame
    ]
    assert len(pairs) > 50
    assert all(one != other for one, other in pairs)


def test_near_misses_are_as_common_as_actions_and_never_in_the_truth(scripts: list[Script]):
    names = Counter(e.name for s in scripts for shot in s.shots for sprite in shot.sprites for e in sprite.events)
    near = {"half bounce", "drift", "tilt", "vanish", "swerve", "crossing"}
    assert set(names) - set(CLASSES) == near
    assert sum(names[name] for name in near) > 0.7 * sum(names[name] for name in CLASSES)
    labels = {entry["label"] for script in scripts for entry in truth_of(script)["annotations"]}
    assert labels <= set(CLASSES)


def test_a_sprite_is_at_rest_outside_of_its_events(scripts: list[Script]):
    for script in scripts[:8]:
        for shot in script.shots:
            for sprite in shot.sprites:
                poses = trace(script, sprite, shot.start_frame, shot.end_frame)
                resting = np.ones(len(poses), bool)
                for event in sprite.events:
                    resting[event.start_frame - shot.start_frame : event.end_frame - shot.start_frame] = False
                both = resting[1:] & resting[:-1]
                np.testing.assert_array_equal(poses[1:][both], poses[:-1][both])


def test_an_action_moves_from_its_first_frame_to_its_last(scripts: list[Script]):
    for script, sprite, event in acting(scripts):
        poses = trace(script, sprite, event.start_frame - 1, event.end_frame + 1)
        moved = np.flatnonzero(np.abs(np.diff(poses, axis=0)).max(axis=1) > 1e-4)
        pause = 0.6 if event.name == "blink" else 0.15
        gaps_s = np.diff(np.concatenate([[0], moved, [len(poses) - 2]])) / FPS
        assert gaps_s.max() <= pause + 1.01 / FPS, (event, gaps_s.max())


def label_from_trace(poses: np.ndarray) -> str:
    """Tell the action from what changes in the pose, and in which direction."""
    change = np.diff(poses, axis=0)
    x, y, angle, size, opacity = (np.abs(change) > 1e-6).any(axis=0)
    if opacity:
        return "blink"
    if size:
        return "grow" if np.median(change[:, 3]) > 0 else "shrink"
    if angle:
        return "spin right" if np.median(change[:, 2]) > 0 else "spin left"
    if y and not x:
        return "bounce"
    speed = np.hypot(change[:, 0], change[:, 1])
    turn = np.abs(np.diff(np.unwrap(np.arctan2(change[:, 1], change[:, 0]))))
    return "orbit" if turn.std() < 1e-3 and speed.std() < 1e-3 else "zigzag"


def test_motion_over_time_tells_every_action(scripts: list[Script]):
    for script, sprite, event in acting(scripts):
        assert label_from_trace(trace(script, sprite, event.start_frame, event.end_frame)) == event.name


def test_one_pose_does_not_tell_the_action(scripts: list[Script]):
    rng = np.random.default_rng(0)
    poses, labels = [], []
    for script, sprite, event in acting(scripts):
        frame = int(rng.integers(event.start_frame, event.end_frame))
        pose = Pose(*trace(script, sprite, frame, frame + 1)[0])
        if pose.opacity == 1:  # a sprite that is off cannot be seen at all
            poses.append([pose.x, pose.y, 4 * pose.size, 0.3 * np.cos(pose.angle_rad), 0.3 * np.sin(pose.angle_rad)])
            labels.append(CLASSES.index(event.name))
    points, truth = np.array(poses), np.array(labels)
    distance = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(len(points), np.inf))
    nearest = truth[np.argsort(distance, axis=1)[:, :15]]
    votes = np.stack([(nearest == label).sum(axis=1) for label in range(len(CLASSES))], axis=1)
    assert (votes.argmax(axis=1) == truth).mean() < 0.3  # chance: 0.125


def test_sizes_do_not_tell_grow_from_shrink(scripts: list[Script]):
    sizes = {
        name: np.concatenate(
            [trace(s, sprite, e.start_frame, e.end_frame)[:, 3] for s, sprite, e in acting(scripts) if e.name == name]
        )
        for name in ("grow", "shrink")
    }
    deciles = [np.percentile(sizes[name], np.arange(10, 100, 10)) for name in ("grow", "shrink")]
    np.testing.assert_allclose(deciles[0], deciles[1], atol=0.03)


@pytest.mark.parametrize("label", CLASSES)
def test_looks_places_times_and_scenes_do_not_depend_on_the_class(label: str):
    spec = VideoSpec(subset="training", seed=11, index=0, minutes=3)
    one, other = write_script(spec, labels=[label]), write_script(spec)
    assert {event.name for event in one.actions} == {label}
    for own, theirs in zip(one.shots, other.shots, strict=True):
        assert own.scene == theirs.scene
        for sprite, twin in zip(own.sprites, theirs.sprites, strict=True):
            assert (sprite.look_seed, sprite.rest) == (twin.look_seed, twin.rest)
            times, twins = ([(e.start_frame, e.end_frame) for e in s.events] for s in (sprite, twin))
            assert times == twins


def test_subsets_share_no_look_and_no_background():
    seen = {
        subset: {
            number
            for seed, index in itertools.product(range(5), range(10))
            for shot in write_script(VideoSpec(subset=subset, seed=seed, index=index)).shots
            for number in (shot.scene.background_seed, *(sprite.look_seed for sprite in shot.sprites))
        }
        for subset in SUBSETS
    }
    for number, subset in enumerate(SUBSETS):
        assert len(seen[subset]) > 500
        assert {value % 3 for value in seen[subset]} == {number}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"subset": "train"}, "subset=train: expected one of training, validation, testing"),
        ({"seed": -1}, "seed=-1: expected 0 to 4294967295"),
        ({"index": 2**32}, "index=4294967296: expected 0 to 4294967295"),
        ({"fps": 5.0}, "fps=5.0: expected 10 to 120"),
        ({"minutes": 0.0}, "minutes=0.0: expected 0.01 to 1440"),
        ({"minutes": float("nan")}, "minutes=nan: expected 0.01 to 1440"),
        ({"width_px": 127}, "width_px=127: expected an even number of pixels, at least 32"),
        ({"height_px": 30}, "height_px=30: expected an even number of pixels, at least 32"),
    ],
)
def test_what_cannot_be_made_is_refused(change: dict[str, object], message: str):
    with pytest.raises(ConfigError, match=message):
        VideoSpec(**({"subset": "training", "seed": 0, "index": 0} | change))


@pytest.mark.parametrize("labels", [[], ["jump"], ["bounce", "jump"]])
def test_labels_that_are_no_actions_are_refused(labels: list[str]):
    with pytest.raises(ConfigError, match="expected some of bounce, spin left"):
        write_script(VideoSpec(subset="training", seed=0, index=0), labels=labels)
