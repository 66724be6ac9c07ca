"""A detector with the contrast head on its way: imported with its classifier, exported, detecting, labelling."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tallformer_infer import Detector as Pipeline
from tallformer_infer.cli import run
from tallformer_infer.config import to_json
from tallformer_infer.structures import Action
from tallformer_training.checkpoint import load_detector
from tests.contrast_recipe import CONTRAST
from tests.jax_i3d import make_tree, save_tree, step_logits
from tests.videos import write_video

pytestmark = pytest.mark.usefixtures("one_thread")

FPS = 8
CLIPS = 40
"""Of the film: 80 s, in windows of 24 s that step by 8."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of JAX, imported and exported by the command line, and a film whose scenes differ."""
    folder = tmp_path_factory.mktemp("contrast")
    (folder / "recipe.json").write_text(json.dumps(to_json(CONTRAST)))
    checkpoint, model = save_tree(folder / "i3d.ckpt", make_tree(classes=7)), folder / "model.safetensors"
    assert run(["import", str(checkpoint), "--recipe", str(folder / "recipe.json"), "--out", str(model)]) == 0
    assert run(["export", str(model), "--out", str(folder / "bundle")]) == 0
    write_film(folder / "film.mkv", scenes(CLIPS))
    return folder


def scenes(clips: int, *, seed: int = 0) -> np.ndarray:
    """Frames of clips that each show another noise, some of them for several clips."""
    random = np.random.default_rng(seed)
    kept = [random.integers(0, 255, (16, 8, 8, 3), np.uint8)]
    for _ in range(clips - 1):
        kept.append(kept[-1] if random.random() < 0.5 else random.integers(0, 255, (16, 8, 8, 3), np.uint8))
    return np.kron(np.concatenate(kept), np.ones((1, 4, 4, 1), np.uint8))


def write_film(path: Path, frames: np.ndarray) -> None:
    write_video(path, frames, fps=FPS, codec="ffv1")


def sorted_actions(actions: object) -> list[Action]:
    return sorted(actions, key=lambda action: (action.label, action.start_s, action.end_s))  # type: ignore[call-overload]


def test_the_classifier_of_the_file_is_the_heads(folder: Path) -> None:
    detector, checkpoint = load_detector(folder / "model.safetensors")
    tree = make_tree(classes=7)
    clips = torch.rand(2, 3, 16, 32, 32, generator=torch.Generator().manual_seed(1)) * 2 - 1

    with torch.no_grad():
        steps = detector.encode(clips)  # (N, C, 2)
        logits = detector.head.classifier(steps.mean(dim=-1))

    assert checkpoint.provenance["trained"] is True
    assert torch.allclose(logits, step_logits(tree, clips)[..., 0], atol=1e-4)


def test_a_conversion_to_pytorch_keeps_its_classifier_too(folder: Path, tmp_path: Path) -> None:
    state = load_detector(folder / "model.safetensors")[0].state_dict()
    converted = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    converted["logits.conv3d.weight"] = state["head.classifier.weight"][..., None, None, None]
    converted["logits.conv3d.bias"] = state["head.classifier.bias"]
    torch.save(converted, tmp_path / "rgb_imagenet.pt")
    arguments = ["--recipe", str(folder / "recipe.json"), "--out", str(tmp_path / "model.safetensors")]

    assert run(["import", str(tmp_path / "rgb_imagenet.pt"), *arguments]) == 0

    again = load_detector(tmp_path / "model.safetensors")[0].state_dict()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_classes_of_another_number_are_refused(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "recipe.json").write_text(json.dumps(to_json(replace(CONTRAST, classes=("a", "b")))))
    arguments = ["--recipe", str(tmp_path / "recipe.json"), "--out", str(tmp_path / "model.safetensors")]

    assert run(["import", str(folder / "i3d.ckpt"), *arguments]) == 1

    assert "logits.conv3d.weight is [7, 128], the model's is [2, 128]" in capsys.readouterr().err


def test_a_stream_gives_the_actions_that_detect_gives(folder: Path) -> None:
    pipeline = Pipeline.load(folder / "bundle", device="cpu")

    found = pipeline.detect(folder / "film.mkv").actions
    streamed = list(pipeline.stream(folder / "film.mkv"))

    assert len(found) > 20
    assert sorted_actions(streamed) == sorted_actions(found)


def test_a_film_that_begins_a_clip_later_has_its_actions_later(folder: Path, tmp_path: Path) -> None:
    write_film(tmp_path / "later.mkv", np.concatenate([scenes(1, seed=9), scenes(CLIPS)]))
    pipeline = Pipeline.load(folder / "bundle", device="cpu")

    found = pipeline.detect(folder / "film.mkv").actions
    later = pipeline.detect(tmp_path / "later.mkv").actions

    clip_s = CONTRAST.window.clip_frames / FPS
    known = {(action.label, round(action.start_s, 3), round(action.end_s, 3)): action.score for action in later}
    inner = [action for action in found if action.start_s > 10]  # not suppressed along with what is at the film's start
    assert len(inner) > 20
    for action in inner:
        key = action.label, round(action.start_s + clip_s, 3), round(action.end_s + clip_s, 3)
        assert known[key] == pytest.approx(action.score, abs=1e-4)


def test_lower_rates_find_longer_actions(folder: Path) -> None:
    pipeline = Pipeline.load(folder / "bundle", device="cpu")

    plain = pipeline.detect(folder / "film.mkv").actions
    found = pipeline.detect(folder / "film.mkv", rates=[8, 2]).actions

    longest = max(action.end_s - action.start_s for action in plain)
    assert longest <= 4.01  # the longest of the grid
    assert max(action.end_s - action.start_s for action in found) > 12


def test_a_folder_is_labelled_with_the_same_actions(folder: Path, tmp_path: Path) -> None:
    options = ["--model", str(folder / "bundle"), "--device", "cpu"]
    film = str(folder / "film.mkv")

    assert run(["detect", film, *options, "--out", str(tmp_path / "actions.json")]) == 0
    assert run(["label", film, *options, "--out", str(tmp_path / "labels")]) == 0

    found = json.loads((tmp_path / "actions.json").read_text())["videos"][0]["actions"]
    (file,) = (tmp_path / "labels").rglob("film*.json")
    labelled = json.loads(file.read_text())["videos"][0]["actions"]
    assert len(labelled) == len(found) > 20
    for one, other in zip(labelled, found, strict=True):  # features are kept with fewer digits
        assert one["label"] == other["label"]
        assert one["segment"] == pytest.approx(other["segment"], abs=0.01)
        assert one["score"] == pytest.approx(other["score"], abs=5e-3)


def test_such_a_recipe_is_shown_and_not_trained(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["models", "show", "kinetics400-i3d"]) == 0
    assert "contrast: segments of 1.9 to 60 s" in " ".join(capsys.readouterr().out.split())

    truth = {"database": {"film": {"subset": "training", "annotations": [{"segment": [1, 3], "label": "a"}]}}}
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    arguments = ["--annotations", str(tmp_path / "truth.json"), "--videos", str(folder)]
    recipe = ["--recipe", str(folder / "recipe.json"), "--out", str(tmp_path / "run")]
    assert run(["train", *arguments, *recipe, "--device", "cpu"]) != 0
    assert "head.kind=contrast cannot be trained" in capsys.readouterr().err
