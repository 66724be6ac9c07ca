"""Names, shapes and counts of the full-size official models, and deterministic numbers of the specification."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

from tallformer_infer.config import RECIPES, BackboneConfig, PyramidConfig, TcmConfig, preset
from tallformer_training.importing.naming import official_names
from tallformer_training.model import Detector
from tallformer_training.model.backbone import VideoSwin
from tallformer_training.model.encoder import encode_frames
from tallformer_training.model.pyramid import ConvolutionPyramid, FeaturePyramid
from tallformer_training.model.tcm import Reduction, TemporalConsistency
from tests import model_golden as g

PRINTED = {"rtol": 0, "atol": 2e-5}
"""The appendix prints five decimals."""
STATISTIC = {"rtol": 0, "atol": 2e-6}
"""And six of means and standard deviations."""


@pytest.mark.parametrize("size", ["thumos_swin_b", "thumos_swin_t"])
def test_our_parameters_and_the_official_ones_are_the_same_but_for_their_names(golden: Path, size: str) -> None:
    official = json.loads((golden / "thumos_full_shapes.json").read_text())[size]
    recipe = g.recipe_from_official(official["config"], crop_px=224, window_frames=480)
    with torch.device("meta"):
        detector = Detector(recipe)
    state = detector.state_dict()
    names = official_names(recipe.model, state)

    ours = {names[name]: list(tensor.shape) for name, tensor in state.items()}
    theirs = {name: entry["shape"] for name, entry in official["state_dict"].items() if not name.endswith(g.DERIVED)}
    assert ours == theirs
    assert len(official["state_dict"]) == official["num_keys"] == {"thumos_swin_b": 594, "thumos_swin_t": 414}[size]
    parameters = dict(detector.named_parameters())
    assert sum(p.numel() for p in parameters.values()) == official["num_params"]
    assert sum(p.numel() for p in parameters.values() if p.requires_grad) == official["num_trainable"]
    for name, parameter in parameters.items():
        assert parameter.requires_grad == official["state_dict"][names[name]]["requires_grad"], name


def test_the_presets_are_the_official_sizes(golden: Path) -> None:
    official = json.loads((golden / "thumos_full_shapes.json").read_text())
    for name, size in (("thumos14-swin-b", "thumos_swin_b"), ("thumos14-swin-t", "thumos_swin_t")):
        assert (
            preset(name).model == g.recipe_from_official(official[size]["config"], crop_px=224, window_frames=480).model
        )


def test_the_bare_official_backbone_has_our_names(golden: Path) -> None:
    official = json.loads((golden / "thumos_full_shapes.json").read_text())["extract_features_swin_t"]
    with torch.device("meta"):
        backbone = VideoSwin(preset("thumos14-swin-t").model.backbone)

    theirs = {k: v["shape"] for k, v in official["state_dict"].items() if not k.endswith(g.DERIVED)}
    assert {k: list(v.shape) for k, v in backbone.state_dict().items()} == theirs
    assert len(official["state_dict"]) == 195
    assert sum(p.numel() for p in backbone.parameters()) == official["num_params"]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_builds_a_detector_with_unique_official_names(name: str) -> None:
    with torch.device("meta"):
        detector = Detector(preset(name))
    names = official_names(preset(name).model, detector.state_dict())

    assert len(set(names.values())) == len(names)


SWIN = """
swin112 (1,3,64,112,112) (1,256,32) 0.000261 0.918075 | 1.13359 1.26177 1.10621 1.12938 | -0.91681 -0.91403 -0.99977
swin64  (1,3,32,64,64) (1,256,16) 0.000066 0.974170 | 1.00068 1.08443 1.10014 1.15647 | -0.96434 -0.99232 -1.06629
swin40f (1,3,40,96,96) (1,256,20) -0.000344 0.970827 | 1.27674 1.18183 1.13698 1.06281 | -0.85455 -0.82543 -0.84591
"""
"""Tag, input, output, mean, standard deviation, first four and last three values (specification, appendix A.2)."""


@pytest.mark.parametrize("line", SWIN.strip().splitlines(), ids=lambda line: line.split()[0])
def test_a_mini_video_swin_gives_the_printed_values(line: str) -> None:
    tag, shape, expected = line.split(maxsplit=2)
    backbone = VideoSwin(BackboneConfig(embed_channels=32, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8))).eval()
    state = backbone.state_dict()
    backbone.load_state_dict(g.fill(state, {name: name for name in state}))

    with torch.no_grad():
        features = encode_frames(backbone, g.seeded(tag, _shape(shape)), clip_frames=32)

    _check(features, expected)


NECK = """
reduction (2,512,60) -0.007479 0.717657 | -0.03011 -1.19455 -1.41293 -0.13170 | 0.67719 2.15578 0.58255
tcm       (2,512,60) -0.097672 2.023240 | -2.96914 -4.15906 -4.77281 -2.51597 | 1.85656 1.82478 -0.09036
tdm0      (2,512,60) -0.080644 2.023326 | -2.96914 -4.12187 -4.73262 -2.50974 | 1.90075 1.86897 -0.04617
tdm1      (2,512,30) -0.007723 1.013671 | -0.17777 -0.37781 0.00166 0.33519 | -1.87702 -0.99284 -0.72156
tdm2      (2,512,15) -0.000935 1.012039 | -0.33604 -0.23302 -0.37973 -0.40329 | -0.70342 -0.90294 -1.03826
tdm3      (2,512,8) 0.006936 1.001545 | -0.96041 -0.79185 -1.04677 -0.93257 | -0.33518 -0.03891 -0.36147
tdm4      (2,512,4) 0.004836 1.002016 | -1.41024 -1.24745 -1.35120 -1.26206 | -0.19652 -0.21951 -0.43146
fpn0      (2,256,60) -0.161254 2.638663 | 2.61824 1.66458 0.79851 1.71793 | 1.64295 2.85450 3.34287
fpn1      (2,256,30) -0.012019 1.884710 | -1.59946 -2.52211 -2.81194 -2.58690 | -0.70836 -0.83224 -2.18689
fpn2      (2,256,15) -0.179105 1.581039 | -2.13727 -1.07494 -0.78437 0.02738 | -1.13114 -0.96069 -0.50789
fpn3      (2,256,8) -0.039177 1.242939 | -0.22620 0.06131 -0.13835 -0.02070 | -1.20142 -0.42099 1.17572
fpn4      (2,256,4) -0.012037 0.824715 | -1.34519 -1.93494 -2.21594 -1.02631 | -0.80031 -0.82837 -0.72451
cls0      (2,100,60) -0.057209 0.597309 | 0.18554 0.53804 0.48464 0.39132 | -0.31665 -0.10542 -0.23393
reg0      (2,10,60) -0.151420 0.588215 | -0.44763 -0.31490 -0.46309 -0.71242 | -1.08690 -0.60889 -0.66554
cls4      (2,100,4) 0.003470 0.179490 | 0.26018 0.25098 0.30587 0.15908 | 0.10193 0.16952 0.15950
reg4      (2,10,4) -0.071965 0.218815 | -0.15153 -0.18903 -0.10677 0.01651 | -0.43267 -0.44556 -0.29229
"""
"""Specification, appendix A.3."""


def test_the_full_thumos_neck_and_head_give_the_printed_values() -> None:
    recipe = g.wide_one_stage_recipe(preset("thumos14-swin-b"))
    detector = Detector(recipe).eval()
    state = detector.state_dict()
    detector.load_state_dict(g.fill(state, official_names(recipe.model, state)))
    assert detector.tcm is not None

    with torch.no_grad():
        parts: dict[str, Any] = {"reduction": detector.reduction(g.seeded("thumosfeat", (2, 1024, 240)))}
        parts["tcm"] = detector.tcm(parts["reduction"])
        levels = detector.pyramid(parts["tcm"])
        merged = detector.fpn(levels)
        outputs = detector.head(merged)
    for name, values in {"tdm": levels, "fpn": merged, "cls": outputs.logits, "reg": outputs.regressions}.items():
        parts |= {f"{name}{level}": tensor for level, tensor in enumerate(values)}

    for line in NECK.strip().splitlines():
        name, expected = line.split(maxsplit=1)
        _check(parts[name], expected)


def test_the_convolutional_pyramid_with_group_norm_equals_the_official_one(golden: Path) -> None:
    weights = g.official_weights(golden, "anet_tiny_weights.npz")
    prefix = "coarse_pyramid_detection.pyramids."
    config = PyramidConfig(kind="convolution", levels=6, fpn_channels=64, norm="group")
    parts = torch.nn.ModuleDict(
        {
            "reduction": Reduction(128, 64),
            "tcm": TemporalConsistency(64, TcmConfig(heads=4, max_steps=96)),
            "pyramid": ConvolutionPyramid(64, config),
            "fpn": FeaturePyramid(64, 64, levels=6, norm="group"),
        }
    ).eval()
    model = preset("thumos14-swin-b").model
    names = official_names(
        model.__class__(backbone=model.backbone, channels=64, tcm=TcmConfig(), pyramid=config), parts.state_dict()
    )
    parts.load_state_dict({ours: weights[prefix + name.removeprefix("neck.")] for ours, name in names.items()})

    with np.load(golden / "anet_tiny.npz") as arrays, torch.no_grad():
        x = torch.from_numpy(arrays["feat"].astype(np.float32))
        levels = parts["fpn"](parts["pyramid"](parts["tcm"](parts["reduction"](x))))

        assert len(levels) == 6
        for level, tensor in enumerate(levels):
            assert_allclose(tensor, arrays[f"pyramid{level}"], **g.FEATURES)


def _check(tensor: torch.Tensor, expected: str) -> None:
    """Compare with a line of the appendix: shape, mean, standard deviation | first values | last values."""
    numbers, first, last = expected.split("|")
    shape, mean, std = numbers.split()
    assert tuple(tensor.shape) == _shape(shape)
    assert_allclose(tensor.mean(), float(mean), **STATISTIC)
    assert_allclose(tensor.std(unbiased=False), float(std), **STATISTIC)
    values = tensor.flatten()
    assert_allclose(values[:4], [float(value) for value in first.split()], **PRINTED)
    assert_allclose(values[-3:], [float(value) for value in last.split()], **PRINTED)


def _shape(text: str) -> tuple[int, ...]:
    return tuple(int(length) for length in text.strip("()").split(","))
