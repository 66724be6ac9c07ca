"""`tallformer features`, and `Detector.features` behind it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tallformer_infer import Detector, cli
from tallformer_infer.media import open_video
from tallformer_infer.timeline import cut_clips

EXAMPLE = Path("docs/example/example.mp4")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("demo", device="cpu")


def test_features_are_those_of_the_clips(detector: Detector, root: Path) -> None:
    recipe = detector.bundle.recipe
    with open_video(root / EXAMPLE, recipe.sampling) as stream:
        clips = list(cut_clips(stream, recipe.window, "shared"))
    last = detector.runtime.encode(clips[-1].frames[None], np.array([clips[-1].real_frames]))[0]

    found = detector.features(root / EXAMPLE)

    # 675 frames at 15 fps, 2 per step: 337.5 steps, the last one of a single frame.
    assert found.features.shape == (338, recipe.model.backbone.out_channels)
    assert found.features.dtype == np.float32
    assert found.times_s[:2] == pytest.approx([1 / 15, 3 / 15])
    steps = -(-clips[-1].real_frames // 2)
    np.testing.assert_allclose(found.features[-steps:], last[:, :steps].T, atol=1e-5)


@pytest.mark.parametrize("form", ["npy", "npz", "safetensors"])
def test_every_format_holds_the_same(detector: Detector, root: Path, tmp_path: Path, form: str) -> None:
    expected = detector.features(root / EXAMPLE).features

    assert cli.run(["features", str(root / EXAMPLE), "-o", str(tmp_path), "-f", form, "-m", "demo", "-q"]) == 0

    path = tmp_path / f"example.{form}"
    if form == "safetensors":
        found = load_file(path)["features"]
    else:
        loaded = np.load(path)
        found = loaded if form == "npy" else loaded["features"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    about = json.loads((tmp_path / "example.json").read_text())
    assert about["shape"] == list(expected.shape)
    assert about["step_s"] == pytest.approx(2 / 15)


def test_settings_give_the_times_that_actionformer_computes(detector: Detector, root: Path, tmp_path: Path) -> None:
    cli.run(["features", str(root / EXAMPLE), "-o", str(tmp_path), "-m", "demo", "-q"])

    settings = json.loads((tmp_path / "features.json").read_text())["actionformer"]["dataset"]

    # ActionFormer (libs/modeling/meta_archs.py): seconds = (step * feat_stride + 0.5 * num_frames) / fps.
    steps = np.arange(338)
    seconds = (steps * settings["feat_stride"] + 0.5 * settings["num_frames"]) / settings["default_fps"]
    np.testing.assert_allclose(detector.features(root / EXAMPLE).times_s, seconds)


def test_done_videos_are_skipped_until_they_change(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = tmp_path / "a.mp4"
    shutil.copy(root / EXAMPLE, video)
    command = ["features", str(video), "-o", str(tmp_path / "out"), "-m", "demo"]

    assert cli.run(command) == 0
    assert "1 of 1" in capsys.readouterr().err
    assert cli.run(command) == 0
    assert capsys.readouterr().err == ""
    video.touch()
    assert cli.run(command) == 0
    assert "1 of 1" in capsys.readouterr().err


def test_a_video_that_fails_costs_only_itself(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.mp4"
    bad.write_bytes(b"no video")
    command = ["features", "nosuch.mp4", str(bad), str(root / EXAMPLE), "-o", str(tmp_path / "out"), "-m", "demo"]

    assert cli.run(command) == 1

    said = capsys.readouterr().err
    assert "nosuch.mp4: no such file" in said
    assert "bad.mp4" in said
    assert (tmp_path / "out" / "example.npy").is_file()
