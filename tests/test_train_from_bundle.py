"""Training that starts from the encoder of a bundle, without a checkpoint and without a network."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tallformer_export.exporting import ExportOptions, export_checkpoint
from tallformer_infer.bundle import load_bundle
from tallformer_infer.bundle.writing import zip_folder
from tallformer_infer.config import I3dConfig, preset
from tallformer_infer.console import make_speaker
from tallformer_infer.errors import CheckpointError
from tallformer_training.checkpoint import load_detector, save_checkpoint
from tallformer_training.datasets import DatasetRequest
from tallformer_training.datasets.suggestion import suggest_recipe
from tallformer_training.importing import import_checkpoint
from tallformer_training.loop.beginning import make_detector
from tallformer_training.loop.checkpoints import bundle_to_start_from, encoder_of_bundle
from tallformer_training.loop.config import TrainingConfig
from tallformer_training.loop.job import TrainingJob
from tallformer_training.loop.processes import join_processes
from tests.contrast_recipe import CONTRAST
from tests.i3d_recipe import I3D
from tests.jax_i3d import make_tree, save_tree
from tests.small_detector import SMALL, build, numbers

pytestmark = pytest.mark.usefixtures("one_thread")
QUIET = make_speaker(quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`model.safetensors`, whose batch norms do something, and a bundle of it with weights in float16."""
    folder = tmp_path_factory.mktemp("start")
    state, _ = import_checkpoint(save_tree(folder / "i3d.ckpt", make_tree(classes=7)), CONTRAST)
    save_checkpoint(folder / "model.safetensors", state, CONTRAST, provenance={"trained": True})
    options = ExportOptions(weights="fp16", any_size=True)
    export_checkpoint(folder / "model.safetensors", folder / "bundle", options=options, on_step=lambda _: None)
    return folder


@pytest.fixture
def bundle(folder: Path) -> Path:
    return folder / "bundle"


def job(folder: Path, start: Path, recipe: object = I3D) -> TrainingJob:
    request = DatasetRequest(annotations=folder / "a.json", videos=folder)
    return TrainingJob(recipe=recipe, config=TrainingConfig(), training=request, out=folder, start=start)  # type: ignore[arg-type]


def test_an_encoder_from_a_bundle_computes_what_the_exported_one_did(folder: Path, bundle: Path) -> None:
    state = encoder_of_bundle(load_bundle(bundle))
    detector = build(CONTRAST, seed=7).eval()
    detector.load_state_dict({**detector.state_dict(), **state})
    clips = numbers(2, 3, 16, 32, 32)

    with torch.no_grad():
        found = detector.encode(clips)
        expected = load_detector(folder / "model.safetensors")[0].encode(clips)

    assert set(state) == {name for name in detector.state_dict() if name.startswith("backbone.")}
    assert 0 < float((found - expected).abs().max() / expected.abs().max()) < 5e-3  # of float16


def test_training_starts_with_it_and_with_fresh_weights_for_the_rest(bundle: Path, tmp_path: Path) -> None:
    zip_folder(bundle, tmp_path / "model.zip")
    expected = encoder_of_bundle(load_bundle(bundle))

    with join_processes("cpu") as processes:
        for start in (bundle, tmp_path / "model.zip"):
            own = make_detector(job(tmp_path, start), processes, QUIET).state_dict()
            assert all(torch.equal(own[name], value) for name, value in expected.items())
            assert {name.partition(".")[0] for name in own} > {"backbone", "head", "tcm"}


def test_a_recipe_with_another_encoder_is_refused(bundle: Path, tmp_path: Path) -> None:
    wider = replace(I3D, model=replace(I3D.model, backbone=I3dConfig(kind="i3d", narrowing=4)))
    with join_processes("cpu") as processes:
        for recipe in (SMALL, wider):
            with pytest.raises(CheckpointError, match=r"its encoder \(I3D to Mixed_5c, 128 channels\) is not that of"):
                make_detector(job(tmp_path, bundle, recipe), processes, QUIET)


def test_bundles_are_told_from_checkpoints(bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"")

    assert bundle_to_start_from(bundle) is not None
    assert bundle_to_start_from(Path("demo")) is not None
    assert bundle_to_start_from(tmp_path / "model.safetensors") is None
    assert bundle_to_start_from(tmp_path / "none.safetensors") is None
    with pytest.raises(
        CheckpointError, match=r"demo: training starts only from bundles with I3D in fp32; this one has"
    ):
        encoder_of_bundle(load_bundle("demo"))


def test_a_suggestion_for_real_video_has_the_encoder_of_the_installed_model(tmp_path: Path) -> None:
    annotations = [{"segment": [2.0 * index, 2.0 * index + 1.5], "label": "wave"} for index in range(9)]
    truth = {"database": {"film": {"subset": "training", "annotations": annotations}}}
    (tmp_path / "a.json").write_text(json.dumps(truth))

    suggestion = suggest_recipe(tmp_path / "a.json", subset=None, base=preset("kinetics400-i3d"))

    assert suggestion.recipe.model.backbone == preset("kinetics400-i3d").model.backbone
    assert suggestion.recipe.sampling.crop_px == preset("kinetics400-i3d").sampling.crop_px
    assert suggestion.recipe.model.head.kind == "points"
    assert suggestion.recipe.model.tcm is None
    assert suggestion.recipe.classes == ("wave",)
    assert any("--init kinetics400" in line for line in suggestion.explanation)
