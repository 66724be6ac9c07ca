"""Names, shapes and counts of the full-size ActivityNet model, its import, and the specification's printed numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor

from tallformer_infer.config import RefinedHeadConfig, preset, recipe_from_json, to_json
from tallformer_infer.errors import CheckpointError, ConfigError
from tallformer_training.importing import import_checkpoint
from tallformer_training.importing.naming import official_names
from tallformer_training.model import Detector, RefinedOutputs
from tests import anet_golden as anet
from tests import model_golden as g
from tests.official_file import saved
from tests.whole_video_set import WHOLE

PRINTED = {"rtol": 1e-5, "atol": 2e-5}
STATISTIC = {"rtol": 1e-6, "atol": 2e-6}
"""The appendix prints five decimals, and six of means and standard deviations."""


@pytest.fixture(scope="module")
def official(golden: Path) -> dict[str, Any]:
    shapes: dict[str, Any] = json.loads((golden / "anet_full_shapes.json").read_text())["anet_swin_b"]
    return shapes


def test_the_preset_has_the_parameters_of_the_official_model(official: dict[str, Any]) -> None:
    recipe = preset("anet-swin-b")
    with torch.device("meta"):
        detector = Detector(recipe)
    state = detector.state_dict()
    names = official_names(recipe.model, state)

    ours = {names[name]: list(tensor.shape) for name, tensor in state.items()}
    theirs = {name: entry["shape"] for name, entry in official["state_dict"].items() if not name.endswith(g.DERIVED)}
    assert ours == theirs
    assert len(official["state_dict"]) == 550
    assert sum(p.numel() for p in detector.parameters()) == official["num_params"] == 119_123_568
    assert all(p.requires_grad for p in detector.parameters())


def test_the_variants_differ_in_what_they_are_named_for() -> None:
    base, small, hacs, tiny = (
        preset(name) for name in ("anet-swin-b", "anet-swin-b-12gb", "hacs-swin-b", "anet-swin-t")
    )

    assert small == replace(base, name="anet-swin-b-12gb")
    assert hacs.model.head == RefinedHeadConfig(kind="refined", classes_per_proposal=1)
    assert tiny.model.backbone.out_channels == 768
    assert base.model.level_strides == (8, 16, 32, 64, 128, 256)
    assert base.window.clips == 24
    assert base.classes[:5] == ("Applying sunscreen", "Arm wrestling", "Assembling bicycle", "BMX", "Baking cookies")
    assert len(set(base.classes)) == 200


def test_the_class_order_is_that_of_the_official_names(golden: Path) -> None:
    assert list(preset("anet-swin-b").classes) == anet.official_config(golden)["action_names"]


def test_all_310_golden_names_are_accounted_for(golden: Path, tmp_path: Path) -> None:
    path = saved(tmp_path, g.official_weights(golden, "anet_tiny_weights.npz"), "checkpoint-10.ckpt")

    state, report = import_checkpoint(path, anet.tiny_recipe(golden))

    assert report.layout == "TALLFormer detector (ActivityNet)"
    assert len(report.loaded) + len(report.ignored) == 310
    assert {reason.rpartition("(")[2] for _, reason in report.ignored} == {"dummy_tensor)", "relative_position_index)"}
    expected = anet.tiny_detector(golden).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in state.items())


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("coarse_pyramid_detection.loc_heads.2.scale", None, r"1 missing \(head\.scales\.2\)"),
        ("coarse_pyramid_detection.prior.weight", torch.zeros(2), r"1 unexpected \(coarse_pyramid_detection\.prior"),
        ("coarse_pyramid_detection.action_head.cls.bias", torch.zeros(7), r"action_head\.cls\.bias is \[7\]"),
    ],
)
def test_an_activitynet_file_that_does_not_fit_is_refused(
    golden: Path, tmp_path: Path, name: str, tensor: Tensor | None, message: str
) -> None:
    state = g.official_weights(golden, "anet_tiny_weights.npz")
    if tensor is None:
        del state[name]
    else:
        state[name] = tensor

    with pytest.raises(CheckpointError, match=message):
        import_checkpoint(saved(tmp_path, state), anet.tiny_recipe(golden))


def test_a_kinetics_backbone_starts_the_activitynet_model(golden: Path, tmp_path: Path) -> None:
    weights = g.official_weights(golden, "anet_tiny_weights.npz")
    backbone = {name: tensor for name, tensor in weights.items() if name.startswith("backbone.")}
    del backbone["backbone.norm.weight"]  # what is missing besides the detector is still refused
    short = saved(tmp_path, {"state_dict": backbone}, "short.pth")

    with pytest.raises(CheckpointError, match=r"1 missing \(backbone\.norm\.weight\)"):
        import_checkpoint(short, anet.tiny_recipe(golden), allow_missing=["coarse_pyramid_detection.*"])
    backbone["backbone.norm.weight"] = weights["backbone.norm.weight"]
    state, report = import_checkpoint(
        saved(tmp_path, backbone, "whole.pth"), anet.tiny_recipe(golden), allow_missing=["coarse_pyramid_detection.*"]
    )
    assert torch.equal(state["backbone.norm.weight"], weights["backbone.norm.weight"])
    assert {name.partition(".")[0] for name in report.initialised} == {"reduction", "tcm", "pyramid", "fpn", "head"}


def test_a_refined_head_survives_json_and_wrong_ones_are_refused() -> None:
    recipe = preset("hacs-swin-b")
    assert recipe_from_json(to_json(recipe)) == recipe
    value = to_json(recipe)
    value["model"]["head"]["kind"] = "corners"
    with pytest.raises(ConfigError, match=r'head\.kind: expected one of .*, got "corners"'):
        recipe_from_json(value)
    value["model"]["head"] = {"kind": "refined", "scales": 5}
    with pytest.raises(ConfigError, match=r"recipe\.model\.head\.scales: no such key"):
        recipe_from_json(value)
    value["model"]["head"] = {"scales": 3}
    assert recipe_from_json(value).model.anchor_head.scales == 3
    with pytest.raises(ConfigError, match=r"head\.kind=refined: has no anchors"):
        _ = recipe.model.anchor_head
    value = to_json(recipe)
    value["model"]["pyramid"]["fpn_channels"] = 48
    with pytest.raises(ConfigError, match=r"fpn_channels=48 must be a multiple of 32"):
        recipe_from_json(value)


PARTS = """
pyramid0          (1,512,96) 0.008950 1.007428 | -0.38840 0.06698 -0.30392 -0.05491 | 1.33347 0.77368 -0.19497
pyramid5          (1,512,3) -0.009959 1.022562 | 0.28850 0.83924 0.92566 -1.94425 | -0.57561 1.91842 2.68589
class_logits      (1,201) -0.009146 0.113309 | -0.12383 0.18303 -0.02534 0.07767 | -0.02989 -0.06025 0.05469
distances_frames  (1,189,2) 27.049738 47.096057 | 8.21312 7.46420 8.75934 3.60987 | 149.84764 291.95212 307.33395
logits            (1,189,2) 0.116750 0.673884 | -0.57881 -0.20908 -0.70705 0.19012 | 0.22163 0.79750 -0.31650
offsets           (1,189,2) 0.436187 0.403885 | -0.37321 0.57211 -0.14677 0.85877 | 0.52767 0.91239 0.65088
refined_logits    (1,189,2) -0.362965 0.269967 | -0.23541 -0.72043 0.13683 -0.43894 | -0.49503 -0.54907 -0.52145
quality_logits    (1,189) 0.233814 0.337453 | -0.16188 0.54216 0.52247 0.37159 | 0.17538 -0.10256 0.26080
start             (1,768,256) 0.395303 0.573011 | 0 0 0 0 | 0 2.15856 0
end               (1,768,256) 0.399389 0.553616 | 0 0.29257 0 0.84143 | 0 0 0
start_loc_prop    (1,96,512) 0.404988 0.598074 | 0.57510 0 0.20289 0 | 0.18226 0.04231 0.18706
end_conf_prop     (1,96,512) 0.403179 0.586609 | 0 0 0 0.77260 | 0.14754 0.29946 0.21655
"""
"""Specification, appendix A.4."""


def test_the_full_size_activitynet_head_gives_the_printed_values() -> None:
    recipe = g.wide_one_stage_recipe(preset("anet-swin-b"))
    detector = Detector(recipe).eval()
    state = detector.state_dict()
    detector.load_state_dict(g.fill(state, official_names(recipe.model, state)))

    with torch.no_grad():
        features = g.seeded("anetfeat", (1, 1024, 384))
        levels = detector.fpn(detector.pyramid(detector.tcm(detector.reduction(features))))
        outputs = detector.localize(features)
    assert isinstance(outputs, RefinedOutputs)
    start, end = outputs.frame_features.transpose(1, 2).chunk(2, dim=-1)
    parts = outputs._asdict() | {"pyramid0": levels[0], "pyramid5": levels[5], "start": start, "end": end}
    parts["start_loc_prop"] = outputs.segment_features.transpose(1, 2).chunk(2, dim=-1)[0]
    parts["end_conf_prop"] = outputs.confidence_features.transpose(1, 2).chunk(2, dim=-1)[1]

    for line in PARTS.strip().splitlines():
        name, expected = line.split(maxsplit=1)
        _check(name, parts[name], expected)


def _check(name: str, found: Tensor, expected: str) -> None:
    numbers, first, last = expected.split("|")
    shape, mean, std = numbers.split()
    assert tuple(found.shape) == tuple(map(int, shape.strip("()").split(","))), name
    assert_allclose(found.mean(), float(mean), **STATISTIC, err_msg=name)
    assert_allclose(found.std(unbiased=False), float(std), **STATISTIC, err_msg=name)
    values = found.flatten()
    assert_allclose(values[:4], [float(value) for value in first.split()], **PRINTED, err_msg=name)
    assert_allclose(values[-3:], [float(value) for value in last.split()], **PRINTED, err_msg=name)


def test_the_classifier_can_see_what_the_paper_writes() -> None:
    head = RefinedHeadConfig(kind="refined", classifier_input="tcm")
    with torch.device("meta"):
        paper = Detector(replace(WHOLE, model=replace(WHOLE.model, channels=64, head=head)))
        code = Detector(WHOLE)
        outputs = paper.to("meta").localize(torch.zeros(2, 32, 128, device="meta"))

    assert (paper.head.action_head.in_features, code.head.action_head.in_features) == (64, 32)
    assert outputs.class_logits.shape == (2, 3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stacked_convs": 0}, "head: stacked_convs=0 must be at least 1"),
        ({"classes_per_proposal": 0}, "head: classes_per_proposal=0 must be at least 1"),
        ({"longest_reach": 0.0}, r"head: longest_reach=0\.0 must be above 0"),
        ({"classifier_dropout": 1.0}, r"head: classifier_dropout=1\.0 must be in \[0, 1\)"),
    ],
)
def test_heads_that_cannot_work_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RefinedHeadConfig(kind="refined", **changes)


def test_a_window_must_hold_a_whole_video() -> None:
    recipe = preset("anet-swin-b")

    with pytest.raises(ConfigError, match="most_frames=800 must not exceed window_frames=768"):
        replace(recipe, sampling=replace(recipe.sampling, most_frames=800))
    with pytest.raises(ConfigError, match="most_frames=0 must be at least 1"):
        replace(recipe.sampling, most_frames=0)
