"""Generated videos that show one class each, a few times and for long."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallformer_infer.errors import ConfigError
from tallformer_training.synthetic import CLASSES, Script, SetSpec, VideoSpec, make_dataset, truth_of, write_script

SET = SetSpec(subset="training", videos=300, seed=4, style="activitynet")


@pytest.fixture(scope="module")
def scripts() -> list[Script]:
    return [write_script(SET.video(index)) for index in range(SET.videos)]


def test_a_video_has_one_class_and_every_class_has_videos(scripts: list[Script]) -> None:
    labels = [{event.name for event in script.actions} for script in scripts]

    assert all(len(names) == 1 for names in labels)
    counts = Counter(name for names in labels for name in names)
    assert set(counts) == set(CLASSES)
    assert min(counts.values()) > 15


def test_videos_are_25_to_50_seconds_and_of_many_lengths(scripts: list[Script]) -> None:
    lengths_s = np.array([script.spec.frames / script.spec.fps for script in scripts])

    assert lengths_s.min() >= 25
    assert lengths_s.max() <= 50
    assert lengths_s.std() > 6


def test_up_to_three_long_actions_cover_a_good_part_and_never_touch(scripts: list[Script]) -> None:
    covered = []
    for script in scripts:
        spans = [(event.start_frame, event.end_frame) for event in script.actions]
        assert 1 <= len(spans) <= 3
        assert all(2.9 <= (end - start) / 15 <= 30.1 for start, end in spans)
        edges = [0, *itertools.chain(*spans), script.spec.frames]
        assert all(after - before >= 14 for before, after in zip(edges[::2], edges[1::2], strict=True))
        covered.append(sum(end - start for start, end in spans) / script.spec.frames)

    assert 0.55 < np.mean(covered) < 0.7
    assert min(covered) > 0.3


def test_near_misses_and_cuts_are_there(scripts: list[Script]) -> None:
    names = Counter(
        event.name
        for script in scripts
        for shot in script.shots
        for sprite in shot.sprites
        for event in sprite.events
        if not event.is_action
    )

    assert set(names) == {"half bounce", "drift", "tilt", "vanish", "swerve", "crossing"}
    assert sum(names.values()) > 2 * len(scripts)
    assert 1.5 < np.mean([len(script.shots) for script in scripts]) < 3


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    minutes=st.none() | st.floats(0.01, 5),
    fps=st.sampled_from([10.0, 15.0, 29.97, 60.0]),
)
def test_any_video_is_filled_with_shots_and_no_cut_is_in_an_action(
    seed: int, minutes: float | None, fps: float
) -> None:
    spec = SetSpec(subset="testing", videos=1, seed=seed, minutes=minutes, fps=fps, style="activitynet").video(0)
    script = write_script(spec)

    cuts = [shot.start_frame for shot in script.shots] + [script.shots[-1].end_frame]
    assert (cuts[0], cuts[-1]) == (0, spec.frames)
    assert all(after > before for before, after in itertools.pairwise(cuts))
    for shot in script.shots:
        for event in (event for sprite in shot.sprites for event in sprite.events if event.is_action):
            assert shot.start_frame < event.start_frame < event.end_frame < shot.end_frame


def test_looks_times_and_scenes_do_not_depend_on_the_class() -> None:
    spec = SET.video(5)
    one, other = write_script(spec, labels=["blink"]), write_script(spec, labels=["zigzag"])

    assert {event.name for event in one.actions} == {"blink"}
    for own, theirs in zip(one.shots, other.shots, strict=True):
        assert own.scene == theirs.scene
        for sprite, twin in zip(own.sprites, theirs.sprites, strict=True):
            assert (sprite.look_seed, sprite.rest) == (twin.look_seed, twin.rest)


def test_subsets_share_no_look_and_styles_no_video() -> None:
    looks = {
        (subset, style): {
            sprite.look_seed
            for index in range(20)
            for shot in write_script(VideoSpec(subset=subset, seed=4, index=index, style=style, minutes=0.6)).shots
            for sprite in shot.sprites
        }
        for subset in ("training", "validation", "testing")
        for style in ("thumos14", "activitynet")
    }

    assert all(not one & other for one, other in itertools.combinations(looks.values(), 2))


def test_the_same_seed_gives_the_same_bytes_in_each_style(tmp_path: Path) -> None:
    for style in ("thumos14", "activitynet"):
        spec = SetSpec(subset="validation", videos=1, seed=9, minutes=0.15, style=style)
        for copy in "ab":
            make_dataset(spec, tmp_path / style / copy)
    files = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*.*")}

    for style in ("thumos14", "activitynet"):
        for name in ("annotations.json", "validation-s9-v0000.mp4"):
            assert files[Path(style, "a", name)] == files[Path(style, "b", name)]
    name = "validation-s9-v0000.mp4"
    assert files[Path("thumos14", "a", name)] != files[Path("activitynet", "a", name)]


def test_videos_of_the_older_style_are_what_they_were_before_there_was_another(tmp_path: Path) -> None:
    spec = SetSpec(subset="training", videos=1, seed=7)
    found = truth_of(write_script(spec.video(0)))["annotations"]
    make_dataset(replace(spec, minutes=0.05), tmp_path)
    with av.open(tmp_path / "training-s7-v0000.mp4") as container:
        made = json.loads(container.metadata["comment"])

    assert spec.video(0) == VideoSpec(subset="training", seed=7, index=0, minutes=2.0)
    assert (len(found), found[0]) == (14, {"segment": [2.4, 10.0], "label": "blink"})
    assert list(made) == ["made by", "subset", "seed", "index", "minutes", "fps", "width_px", "height_px"]


def test_the_command_makes_the_style(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tallformer_training.synthetic", "--out", str(tmp_path), "--videos", "1"]
    subprocess.run([*command, "--seed", "3", "--style", "activitynet"], check=True, capture_output=True)

    entry = json.loads((tmp_path / "annotations.json").read_text())["database"]["training-s3-v0000"]
    assert 25 <= entry["duration"] <= 50
    assert len({annotation["label"] for annotation in entry["annotations"]}) == 1


def test_a_style_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="style=hacs: expected one of thumos14, activitynet"):
        VideoSpec(subset="training", seed=0, index=0, style="hacs")  # type: ignore[arg-type]
