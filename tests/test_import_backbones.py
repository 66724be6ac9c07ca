"""Reading Video Swin backbones as four projects save them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tallformer_infer.config import preset
from tallformer_infer.errors import CheckpointError
from tallformer_training.importing import import_checkpoint
from tallformer_training.importing.naming import detect_layout, official_names
from tallformer_training.model import Detector
from tallformer_training.model.windows import window_index
from tests.small_detector import SMALL, build

START_TRAINING = ("neck.*", "head.*")


def bare() -> dict[str, Tensor]:
    """The small backbone as the official tool for features saves it, without prefix."""
    state = build().backbone.state_dict()
    for name in [name for name in state if name.endswith("attn.qkv.weight")]:
        state[name.replace("qkv.weight", "relative_position_index")] = window_index((4, 3, 3))
        state[name.replace("attn.qkv.weight", "attn_mask")] = torch.zeros(8, 36, 36)
    return state


def prefixed() -> dict[str, Tensor]:
    """Official Video Swin: `backbone.` and the classifier of a recogniser."""
    state = {f"backbone.{name}": tensor for name, tensor in bare().items()}
    return {**state, "cls_head.fc_cls.weight": torch.zeros(400, 32), "cls_head.fc_cls.bias": torch.zeros(400)}


def converted() -> dict[str, Tensor]:
    """TALLFormer's own extraction from it, with its dummy tensors."""
    return {**prefixed(), "backbone.layers.0.blocks.0.dummy_tensor": torch.ones(1)}


def mmaction2() -> dict[str, Tensor]:
    """mmaction2 from 1.0 on: the last norm has the number of its stage."""
    state = {name.replace("backbone.norm.", "backbone.norm1."): tensor for name, tensor in prefixed().items()}
    state["data_preprocessor.mean"] = torch.tensor(SMALL.sampling.mean).reshape(3, 1, 1, 1)
    state["data_preprocessor.std"] = torch.tensor(SMALL.sampling.std).reshape(3, 1, 1, 1)
    return state


def torchvision() -> dict[str, Tensor]:
    """torchvision: stages and mergings are numbered through, and the classifier is called `head`."""
    state = {}
    for name, tensor in bare().items():
        if "attn_mask" in name:
            continue
        name = re.sub(r"^layers\.(\d)\.blocks\.", lambda m: f"features.{2 * int(m[1])}.", name)  # noqa: PLW2901
        name = re.sub(r"^layers\.(\d)\.downsample\.", lambda m: f"features.{2 * int(m[1]) + 1}.", name)  # noqa: PLW2901
        state[name.replace("mlp.fc1", "mlp.0").replace("mlp.fc2", "mlp.3")] = tensor
    return {**state, "head.weight": torch.zeros(400, 32), "head.bias": torch.zeros(400)}


FILES: dict[str, Callable[[], dict[str, Tensor]]] = {
    "Video Swin without prefix": bare,
    "Video Swin": prefixed,
    "mmaction2 Video Swin": mmaction2,
    "torchvision Video Swin": torchvision,
}


def saved(tmp_path: Path, state: dict[str, Tensor], *, inside: bool = False) -> Path:
    torch.save({"state_dict": state, "meta": {"epoch": 30}} if inside else state, tmp_path / "swin.pth")
    return tmp_path / "swin.pth"


@pytest.mark.parametrize("layout", FILES)
@pytest.mark.parametrize("inside", [True, False])
def test_a_backbone_of_each_project_loads_whole(tmp_path: Path, layout: str, inside: bool) -> None:
    path = saved(tmp_path, FILES[layout](), inside=inside)

    state, report = import_checkpoint(path, SMALL, allow_missing=START_TRAINING)

    expected = {f"backbone.{name}": tensor for name, tensor in build().backbone.state_dict().items()}
    assert set(report.loaded) == set(expected)
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items())
    assert report.layout == layout
    assert not [name for name in report.initialised if name.startswith("backbone.")]


def test_tallformers_own_conversion_loads(tmp_path: Path) -> None:
    _, report = import_checkpoint(saved(tmp_path, converted()), SMALL, allow_missing=START_TRAINING)

    assert ("cls_head.fc_cls.weight", "a classifier of whole videos") in report.ignored


@pytest.mark.parametrize("layout", FILES)
def test_a_backbone_alone_is_no_detector(tmp_path: Path, layout: str) -> None:
    path = saved(tmp_path, FILES[layout]())

    with pytest.raises(CheckpointError, match=r"missing \(reduction\.conv1\.weight, .*--allow-missing"):
        import_checkpoint(path, SMALL, allow_missing=["head.*"])


def test_the_classifier_of_torchvision_is_not_taken_for_the_detectors_head(tmp_path: Path) -> None:
    _, report = import_checkpoint(saved(tmp_path, torchvision()), SMALL, allow_missing=START_TRAINING)

    assert ("head.weight", "a classifier of whole videos") in report.ignored


def test_pixels_normalised_otherwise_are_a_contradiction(tmp_path: Path) -> None:
    state = {**mmaction2(), "data_preprocessor.mean": torch.full((3, 1, 1), 127.5)}

    with pytest.raises(CheckpointError, match=r"data_preprocessor\.mean is \[127\.5.*the recipe says \[123\.6"):
        import_checkpoint(saved(tmp_path, state), SMALL, allow_missing=START_TRAINING)


@pytest.mark.parametrize("layout", FILES)
def test_one_backbone_weight_missing_is_refused(tmp_path: Path, layout: str) -> None:
    state = FILES[layout]()
    lost = next(name for name in state if name.endswith("attn.proj.bias"))
    del state[lost]

    with pytest.raises(CheckpointError, match=r"1 missing \(backbone\.layers\.0\.blocks\.0\.attn\.proj\.bias\)"):
        import_checkpoint(saved(tmp_path, state), SMALL, allow_missing=START_TRAINING)


def test_one_weight_under_two_names_is_a_contradiction(tmp_path: Path) -> None:
    state = {**mmaction2(), "backbone.norm.weight": torch.zeros(32)}

    with pytest.raises(CheckpointError, match="are the same parameter"):
        import_checkpoint(saved(tmp_path, state), SMALL, allow_missing=START_TRAINING)


def test_every_name_of_the_official_feature_backbone_is_known(golden: Path) -> None:
    shapes = json.loads((golden / "thumos_full_shapes.json").read_text())["extract_features_swin_t"]["state_dict"]
    model = preset("thumos14-swin-t").model
    with torch.device("meta"):
        detector = Detector(preset("thumos14-swin-t"))
    known = official_names(
        model, {**detector.state_dict(), **dict(detector.named_buffers(remove_duplicate=False))}
    ).values()

    layout = detect_layout(shapes, model)

    assert layout.backbone_only
    names = {layout.official(name) for name in shapes if not name.endswith("dummy_tensor")}
    assert names <= set(known)
