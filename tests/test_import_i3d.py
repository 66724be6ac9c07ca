"""Reading I3D as PyTorch conversions of its Kinetics weights name it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tallformer_infer import cli
from tallformer_infer.config import I3dConfig, Recipe, preset
from tallformer_infer.errors import CheckpointError
from tallformer_training.checkpoint import load_detector
from tallformer_training.importing import import_checkpoint, match_checkpoint
from tallformer_training.model.i3d import InceptionI3d
from tests.i3d_recipe import FINE, I3D
from tests.small_detector import SMALL, build

CLASSIFIER = {"logits.conv3d.weight", "logits.conv3d.bias"}
START_TRAINING = ("neck.*", "head.*")
pytestmark = pytest.mark.usefixtures("one_thread")


def converted(recipe: Recipe = I3D, *, in_channels: int = 3) -> dict[str, Tensor]:
    """As the published files are: bare, with a classifier, without counters."""
    config = recipe.model.backbone
    assert isinstance(config, I3dConfig)
    with torch.random.fork_rng():
        torch.manual_seed(3)
        state = InceptionI3d(replace(config, tap="mixed_5c"), in_channels=in_channels).state_dict()
    return {**state, "logits.conv3d.weight": torch.zeros(400, 128, 1, 1, 1), "logits.conv3d.bias": torch.zeros(400)}


def saved(folder: Path, state: dict[str, Tensor], *, as_zip: bool = True) -> Path:
    torch.save(state, folder / "rgb_imagenet.pt", _use_new_zipfile_serialization=as_zip)
    return folder / "rgb_imagenet.pt"


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "first format of torch"])
def test_the_encoder_loads_whole_and_the_rest_is_fresh(tmp_path: Path, as_zip: bool) -> None:
    file = converted()

    state, report = import_checkpoint(saved(tmp_path, file, as_zip=as_zip), I3D, allow_missing=START_TRAINING)

    build(I3D).load_state_dict(state)
    encoder = {name.removeprefix("backbone."): value for name, value in state.items() if name.startswith("backbone.")}
    assert encoder.keys() == file.keys() - CLASSIFIER
    assert all(torch.equal(value, file[name]) for name, value in encoder.items())
    assert report.layout == "I3D"
    assert {name for name, reason in report.ignored if reason == "a classifier of whole videos"} == CLASSIFIER
    assert {name for name, reason in report.ignored if not reason.startswith("absent")} == CLASSIFIER


def test_layers_behind_the_tap_and_counters_are_not_needed(tmp_path: Path) -> None:
    file = converted(FINE) | {"Mixed_3b.b0.bn.num_batches_tracked": torch.tensor(0)}

    _, report = import_checkpoint(saved(tmp_path, file), FINE, allow_missing=START_TRAINING)

    behind = [name for name, reason in report.ignored if reason == "after the last layer that the recipe uses"]
    assert len(behind) == 2 * 6 * 5
    assert all(name.startswith("Mixed_5") for name in behind)
    counted = [name for name, reason in report.ignored if reason.startswith("counts training steps")]
    assert counted == ["Mixed_3b.b0.bn.num_batches_tracked"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"Mixed_5c.b0.conv3d.weight": None}, r"1 missing \(backbone\.Mixed_5c\.b0\.conv3d\.weight\)"),
        ({"Mixed_3b.b0.bn.running_var": None}, r"1 missing \(backbone\.Mixed_3b\.b0\.bn\.running_var\)"),
        ({"Mixed_6a.b0.conv3d.weight": torch.zeros(1)}, r"1 unexpected \(Mixed_6a\.b0\.conv3d\.weight\)"),
        ({"Mixed_3b.b0.bn.bias": torch.zeros(9)}, r"1 of another shape \(Mixed_3b\.b0\.bn\.bias is \[9\]"),
        ({"Mixed_3b.b0.bn.bias": torch.full((8,), torch.nan)}, r"contradictory \(Mixed_3b\.b0\.bn\.bias holds NaN"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(tmp_path: Path, change: dict[str, Tensor | None], message: str) -> None:
    file = {name: value for name, value in (converted() | change).items() if value is not None}

    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(saved(tmp_path, file), I3D, allow_missing=START_TRAINING)


def test_weights_for_optical_flow_are_named_as_such(tmp_path: Path) -> None:
    report = match_checkpoint(saved(tmp_path, converted(in_channels=2)), I3D, allow_missing=START_TRAINING)[1]

    assert report.reshaped == (
        "Conv3d_1a_7x7.conv3d.weight is [8, 2, 7, 7, 7], the model's is [8, 3, 7, 7, 7] "
        "(the file is for optical flow, recipes see RGB)",
    )
    assert not report.missing


def test_a_recipe_and_a_file_of_different_encoders_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"an I3D encoder, the recipe's is a Video Swin; use a recipe"):
        import_checkpoint(saved(tmp_path, converted()), SMALL, allow_missing=START_TRAINING)
    with pytest.raises(CheckpointError, match=r"no I3D weights: expected a PyTorch conversion .* with Conv3d_1a_7x7"):
        import_checkpoint(saved(tmp_path, build().state_dict()), I3D, allow_missing=START_TRAINING)


@pytest.mark.parametrize(
    ("name", "fresh"), [("thumos14-i3d", START_TRAINING), ("anet-i3d", ("coarse_pyramid_detection.*",))]
)
def test_the_documented_commands_read_a_file_of_full_size(tmp_path: Path, name: str, fresh: tuple[str, ...]) -> None:
    file = {**converted(preset(name)), "logits.conv3d.weight": torch.zeros(400, 1024, 1, 1, 1)}
    out = tmp_path / "start.safetensors"
    allowed = [part for pattern in fresh for part in ("--allow-missing", pattern)]

    assert cli.run(["import", str(saved(tmp_path, file)), "--recipe", name, *allowed, "--out", str(out)]) == 0

    detector, read = load_detector(out)
    assert read.recipe == preset(name)
    assert read.provenance["source"]["layout"] == "I3D"
    assert torch.equal(detector.backbone.state_dict()["Mixed_5c.b3b.bn.bias"], file["Mixed_5c.b3b.bn.bias"])
    assert torch.equal(detector.backbone.state_dict()["Mixed_4b.b2b.conv3d.weight"], file["Mixed_4b.b2b.conv3d.weight"])
