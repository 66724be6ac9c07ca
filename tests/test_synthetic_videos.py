"""Generated videos as pixels and as files."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
import pytest

from tallformer_infer.errors import ConfigError, OutputError
from tallformer_training.synthetic import (
    SetSpec,
    VideoSpec,
    make_dataset,
    render_frames,
    truth_of,
    write_script,
    write_video,
)
from tallformer_training.synthetic.actions import Pose
from tallformer_training.synthetic.looks import draw_background, draw_look
from tallformer_training.synthetic.render import _draw_sprite

SHORT = VideoSpec(subset="training", seed=5, index=0, minutes=0.2)
SMALL_SET = SetSpec(subset="testing", videos=3, seed=9, minutes=0.1)


def decode(path: Path) -> tuple[np.ndarray, list[float]]:
    """RGB frames (N, H, W, 3) and their times in seconds."""
    with av.open(path) as container:
        frames = list(container.decode(video=0))
    return np.stack([frame.to_ndarray(format="rgb24") for frame in frames]), [float(frame.time) for frame in frames]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_same_spec_gives_the_same_frames():
    one, other = (np.stack(list(render_frames(write_script(SHORT)))) for _ in range(2))
    np.testing.assert_array_equal(one, other)
    assert one.shape == (180, 96, 128, 3)
    assert one.dtype == np.uint8


def test_a_frame_is_the_same_whichever_frames_are_rendered_with_it():
    script = write_script(VideoSpec(subset="training", seed=5, index=1, minutes=1.5))
    everything = np.stack(list(render_frames(script)))
    cut = script.shots[0].end_frame
    np.testing.assert_array_equal(
        np.stack(list(render_frames(script, start_frame=cut - 7, end_frame=cut + 9))), everything[cut - 7 : cut + 9]
    )
    assert not list(render_frames(script, start_frame=30, end_frame=30))


def test_resolution_changes_the_size_of_the_picture_and_nothing_else():
    specs = [VideoSpec(subset="training", seed=5, index=0, minutes=0.1, width_px=w, height_px=w) for w in (64, 128)]
    small, large = (np.stack(list(render_frames(write_script(spec)))).astype(float) for spec in specs)
    halved = large.reshape(len(large), 64, 2, 64, 2, 3).mean(axis=(2, 4))
    assert np.abs(halved - small).mean() < 6


def test_a_sprite_is_drawn_at_its_place_in_its_size():
    for seed in range(30):
        picture = np.zeros((96, 128, 3), np.float32)
        _draw_sprite(picture, draw_look(seed), Pose(0.6, 0.5, 0.0, 0.5, 1.0))
        rows, columns = np.nonzero(picture.max(axis=2) > 2)
        assert 0.35 * 96 <= max(np.ptp(rows), np.ptp(columns)) <= 0.5 * 96
        assert np.hypot(rows + 0.5 - 48, columns + 0.5 - 57.6).max() <= 25


def test_a_clockwise_turn_of_the_pose_turns_the_picture_clockwise():
    upright, turned = (np.zeros((96, 96, 3), np.float32) for _ in range(2))
    _draw_sprite(upright, draw_look(4), Pose(0.5, 0.5, 0.0, 0.5, 1.0))
    _draw_sprite(turned, draw_look(4), Pose(0.5, 0.5, np.pi / 2, 0.5, 1.0))
    np.testing.assert_allclose(turned, np.rot90(upright, -1), atol=0.1)


def test_no_look_has_a_rotational_symmetry():
    for seed in range(100):
        texture = draw_look(seed)[0]
        for quarter_turns in (1, 2, 3):
            assert np.abs(texture - np.rot90(texture, quarter_turns)).mean() > 2.5


def test_a_sprite_outside_of_the_picture_or_off_leaves_it_alone():
    picture = np.full((96, 128, 3), 7, np.float32)
    for pose in (Pose(-1, 0.5, 0, 0.4, 1), Pose(0.5, 2, 0, 0.4, 1), Pose(0.5, 0.5, 0, 0.4, 0)):
        _draw_sprite(picture, draw_look(1), pose)
    assert (picture == 7).all()


def test_looks_and_backgrounds_of_subsets_differ_as_pixels():
    numbers = range(12)
    for draw in (lambda number: draw_look(number)[0], draw_background):
        drawn = [draw(number) for number in numbers]
        assert all(np.abs(one - other).mean() > 1 for one, other in pairwise(drawn))


def test_a_background_goes_on_over_its_edges():
    for seed in range(10):
        tile = draw_background(seed)
        inner = np.abs(np.diff(tile, axis=1)).mean(axis=(0, 2))
        assert np.abs(tile[:, 0] - tile[:, -1]).mean() <= inner.max() + 3


def test_a_file_holds_every_frame_at_its_time(tmp_path: Path):
    script = write_script(SHORT)
    write_video(script, tmp_path / "video.mp4")
    frames, times_s = decode(tmp_path / "video.mp4")
    rendered = np.stack(list(render_frames(script)))
    np.testing.assert_allclose(times_s, np.arange(180) / 15, atol=1e-6)
    assert np.abs(frames.astype(float) - rendered).mean() < 12
    assert [path.name for path in tmp_path.iterdir()] == ["video.mp4"]


def test_truth_is_in_activitynet_form_to_the_frame(tmp_path: Path):
    path = make_dataset(SMALL_SET, tmp_path)
    truth = json.loads(path.read_text())
    assert set(truth) == {"version", "taxonomy", "database"}
    assert list(truth["database"]) == [f"testing-s9-v000{index}" for index in range(3)]
    entry = truth["database"]["testing-s9-v0001"]
    script = write_script(SMALL_SET.video(1))
    assert entry == truth_of(script)
    assert (entry["duration"], entry["subset"], entry["resolution"], entry["fps"]) == (6.0, "testing", "128x96", 15.0)
    for annotation, event in zip(entry["annotations"], script.actions, strict=True):
        assert annotation["label"] == event.name
        assert [round(edge * 15, 3) for edge in annotation["segment"]] == [event.start_frame, event.end_frame]


def test_two_processes_write_the_same_bytes_as_one(tmp_path: Path):
    for jobs in (1, 2):
        make_dataset(SMALL_SET, tmp_path / str(jobs), jobs=jobs)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")


def test_only_what_is_missing_is_written_again(tmp_path: Path):
    make_dataset(SMALL_SET, tmp_path)
    whole = files_of(tmp_path)
    (tmp_path / "testing-s9-v0001.mp4").unlink()
    (tmp_path / "annotations.json").unlink()
    seen = []
    make_dataset(SMALL_SET, tmp_path, on_video=lambda video, is_new: seen.append((video.index, is_new)))
    assert sorted(seen) == [(0, False), (1, True), (2, False)]
    assert files_of(tmp_path) == whole


def test_sets_may_share_a_folder(tmp_path: Path):
    make_dataset(SMALL_SET, tmp_path)
    path = make_dataset(SetSpec(subset="training", videos=1, seed=9, minutes=0.1), tmp_path)
    subsets = [entry["subset"] for entry in json.loads(path.read_text())["database"].values()]
    assert subsets == ["testing"] * 3 + ["training"]


def test_a_video_made_with_other_settings_is_refused(tmp_path: Path):
    make_dataset(SMALL_SET, tmp_path)
    with pytest.raises(OutputError, match=r"v0000\.mp4: exists already, with other settings .* choose another"):
        make_dataset(SetSpec(subset="testing", videos=3, seed=9, minutes=0.2), tmp_path)


def test_a_damaged_video_is_refused(tmp_path: Path):
    (tmp_path / "testing-s9-v0000.mp4").write_bytes(b"no video")
    with pytest.raises(OutputError, match=r"v0000\.mp4: exists already and cannot be read: .*; delete it"):
        make_dataset(SMALL_SET, tmp_path)


@pytest.mark.parametrize("text", ["no json", "[]", '{"version": "tallformer-synthetic-0", "database": {}}'])
def test_a_truth_of_another_kind_is_refused(tmp_path: Path, text: str):
    (tmp_path / "annotations.json").write_text(text)
    with pytest.raises(OutputError, match=r"annotations\.json: .*; choose another folder"):
        make_dataset(SMALL_SET, tmp_path)
    assert (tmp_path / "annotations.json").read_text() == text


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="cannot make this folder"):
        make_dataset(SMALL_SET, tmp_path / "file" / "folder")


def test_no_videos_and_no_jobs_are_refused(tmp_path: Path):
    with pytest.raises(ConfigError, match="videos=0: expected at least 1"):
        SetSpec(subset="testing", videos=0, seed=9)
    with pytest.raises(ConfigError, match="jobs=0: expected at least 1"):
        make_dataset(SMALL_SET, tmp_path, jobs=0)


def command(folder: Path, *more: str) -> list[str]:
    options = ["--out", str(folder), "--videos", "6", "--seed", "2", "--minutes", "0.3", *more]
    return [sys.executable, "-m", "tallformer_training.synthetic", *options]


def test_a_killed_run_leaves_whole_videos_only_and_goes_on(tmp_path: Path):
    folder = tmp_path / "killed"
    run = subprocess.Popen(command(folder, "--jobs", "2"), start_new_session=True, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(folder.glob("[!.]*.mp4")) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    left = list(folder.glob("[!.]*.mp4"))
    assert 1 <= len(left) < 6
    assert all(len(decode(path)[0]) == 270 for path in left)
    again = subprocess.run(command(folder, "--jobs", "1"), capture_output=True, text=True, check=True)
    assert f"{6 - len(left)} written, {len(left)} existed already" in again.stderr
    make_dataset(SetSpec(subset="training", videos=6, seed=2, minutes=0.3), tmp_path / "whole")
    assert files_of(folder) == files_of(tmp_path / "whole")


def test_an_interrupt_ends_the_run_and_its_workers_at_once(tmp_path: Path):
    run = subprocess.Popen(
        command(tmp_path, "--jobs", "2", "--minutes", "60"), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob(".*.part.mp4")) and time.monotonic() < deadline:
        time.sleep(0.01)
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=10)  # returns when the workers, who share this pipe, are gone too
    assert run.returncode == 130
    assert "repeat the command to continue" in said
    assert "Traceback" not in said
    assert not list(tmp_path.glob("[!.]*"))


@pytest.mark.parametrize(
    ("option", "message"),
    [
        (("--subset", "train"), "subset=train: expected one of training, validation, testing"),
        (("--size", "big"), "size=big: expected WIDTHxHEIGHT in pixels, such as 128x96"),
        (("--fps", "2"), "fps=2.0: expected 10 to 120"),
    ],
)
def test_the_command_refuses_in_one_line(tmp_path: Path, option: tuple[str, str], message: str):
    run = subprocess.run(command(tmp_path, *option), capture_output=True, text=True, check=False)
    assert run.returncode == 1
    assert run.stderr == f"error: {message}\n"
    assert not list(tmp_path.iterdir())


def test_torch_is_not_needed():
    code = "import sys, tallformer_training.synthetic.__main__; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
