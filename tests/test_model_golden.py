"""Every array that the official code computed for its tiny detector, from pixels to segments."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose
from torch import Tensor, nn

from tallformer_infer.config import CandidateConfig
from tallformer_training.model import Detector, HeadOutputs, Segments
from tallformer_training.model.head import anchors_in_video, level_anchors
from tests import model_golden as g

LEVELS = range(5)
START_AND_REAL = {"112": (0, 96), "w0": (0, 96), "w1": (72, 78)}


@dataclasses.dataclass
class Run:
    """One golden window put through our detector, with what its parts gave."""

    clip: str
    detector: Detector
    frames: Tensor
    parts: dict[str, Any]
    features: Tensor
    outputs: HeadOutputs
    golden: dict[str, Any]

    def decode(self, anchors_per_level: int) -> Segments:
        recipe = self.detector.recipe
        self.detector.recipe = dataclasses.replace(
            recipe, candidates=CandidateConfig(anchors_per_level=anchors_per_level)
        )
        start, real = START_AND_REAL[self.clip]
        segments = self.detector.decode(self.outputs, torch.tensor([start]), torch.tensor([real]))
        self.detector.recipe = recipe
        return segments


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with torch.no_grad():
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=list(START_AND_REAL))
def run(request: pytest.FixtureRequest, golden: Path) -> Run:
    frames, arrays = g.tiny_window(golden, request.param)
    detector = g.tiny_detector(golden, crop_px=frames.shape[-1])
    parts: dict[str, Any] = {}
    watched: dict[str, nn.Module] = {f"layer{index}": layer for index, layer in enumerate(detector.backbone.layers)}
    watched |= {"patch_embed": detector.backbone.patch_embed, "neck0": detector.reduction}
    watched |= {"neck2": detector.pyramid, "neck3": detector.fpn}
    assert detector.tcm is not None
    watched["neck1"] = detector.tcm
    for name, module in watched.items():
        module.register_forward_hook(_keep(parts, name))
    features = detector.encode_frames(frames)
    return Run(request.param, detector, frames, parts, features, detector.localize(features), arrays)


def _keep(parts: dict[str, Any], name: str) -> Callable[[nn.Module, Any, Any], None]:
    def hook(_module: nn.Module, _inputs: Any, output: Any) -> None:
        parts[name] = output

    return hook


def test_the_normalised_frames_are_the_official_ones(run: Run) -> None:
    total, absolute = run.golden["input_checksum"]
    assert_allclose(run.frames.double().sum(), total, rtol=1e-12)
    assert_allclose(run.frames.double().abs().sum(), absolute, rtol=1e-12)
    if "input_patch" in run.golden:
        np.testing.assert_array_equal(run.frames[0, :, :2, :8, :8], run.golden["input_patch"])


@pytest.mark.parametrize("part", ["patch_embed", "layer0", "layer1", "layer2", "layer3"])
def test_each_stage_of_the_backbone_equals_the_official_one(run: Run, part: str) -> None:
    maps = run.parts[part]  # (N, D, H, W, C)

    assert_allclose(maps.mean((2, 3)).transpose(1, 2), run.golden[f"{part}_mean"], **g.FEATURES)
    assert_allclose(maps[0, 0].permute(2, 0, 1), run.golden[f"{part}_c0d0"], **g.FEATURES)


def test_the_features_equal_the_official_ones(run: Run) -> None:
    assert_allclose(run.features, run.golden["backbone_feat"], **g.FEATURES)


@pytest.mark.parametrize("part", ["neck0", "neck1"])
def test_reduction_and_tcm_equal_the_official_ones(run: Run, part: str) -> None:
    assert_allclose(run.parts[part], run.golden[part], **g.FEATURES)


@pytest.mark.parametrize("part", ["neck2", "neck3"])
@pytest.mark.parametrize("level", LEVELS)
def test_both_pyramids_equal_the_official_ones(run: Run, part: str, level: int) -> None:
    assert_allclose(run.parts[part][level], run.golden[f"{part}_l{level}"], **g.FEATURES)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("precision", ["", "_f64"])
def test_the_head_equals_the_official_one(run: Run, level: int, precision: str) -> None:
    assert_allclose(run.outputs.logits[level], run.golden[f"cls{level}{precision}"], **g.LOGITS)
    assert_allclose(run.outputs.regressions[level], run.golden[f"reg{level}{precision}"], **g.REGRESSIONS)


def test_in_double_precision_the_head_equals_the_official_one_in_double_precision(golden: Path) -> None:
    frames, arrays = g.tiny_window(golden, "w1")
    detector = g.tiny_detector(golden, crop_px=64).double()

    outputs = detector(frames.double())

    # The table of positions is scaled in float32 here and in float64 there: 2e-8 in the logits.
    for level in LEVELS:
        assert_allclose(outputs.logits[level], arrays[f"cls{level}_f64"], rtol=0, atol=1e-7)
        assert_allclose(outputs.regressions[level], arrays[f"reg{level}_f64"], rtol=0, atol=1e-7)


@pytest.mark.parametrize("level", LEVELS)
def test_anchors_equal_the_official_ones(run: Run, level: int) -> None:
    head, strides = run.detector.recipe.model.head, run.detector.recipe.model.level_strides
    steps = run.outputs.logits[level].shape[-1]

    assert_allclose(level_anchors(steps, strides[level], head), run.golden[f"anchors{level}"], rtol=1e-6)
    np.testing.assert_array_equal(anchors_in_video(steps, strides[level], head, frames=96), run.golden[f"valid{level}"])


def test_segments_and_scores_equal_the_official_ones(run: Run) -> None:
    kept = {"": 1000} | ({"pre20_": 20} if "pre20_segments" in run.golden else {})
    for prefix, anchors_per_level in kept.items():
        decoded = run.decode(anchors_per_level)

        assert_allclose(decoded.segments_frames[0], run.golden[f"{prefix}segments"], **g.SEGMENTS)
        assert_allclose(decoded.scores[0], run.golden[f"{prefix}scores"][:, :-1], **g.SCORES)


@pytest.mark.parametrize("frames", [33, 70, 77])
def test_a_length_that_is_no_multiple_of_a_clip_equals_the_official_padding(golden: Path, frames: int) -> None:
    window, _ = g.tiny_window(golden, "w0")
    detector = g.tiny_detector(golden, crop_px=64)

    features = detector.encode_frames(window[:, :, :frames])

    with np.load(golden / "thumos_tiny_64x64.npz") as arrays:
        assert_allclose(features, arrays[f"bb_first{frames}frames"], **g.FEATURES)


def test_clip_major_and_split_encoding_equal_the_official_ones(golden: Path) -> None:
    window, _ = g.tiny_window(golden, "w0")
    detector = g.tiny_detector(golden, crop_px=64)
    clip_major = window.reshape(1, 3, 3, 32, 64, 64).permute(2, 0, 1, 3, 4, 5)

    with np.load(golden / "thumos_tiny_64x64.npz") as arrays:
        assert_allclose(detector.encode_clip_major(clip_major), arrays["bb_chunkfirst"], **g.FEATURES)
        assert_allclose(detector.encode_halves(window[:, :, :64]), arrays["bb_split_T64"], **g.FEATURES)
        assert_allclose(detector.encode_halves(window), arrays["bb_split_T96"], **g.FEATURES)


def test_the_anchors_of_480_frames_equal_the_official_grid(golden: Path) -> None:
    head = g.tiny_recipe(golden).model.head
    with np.load(golden / "anchors_thumos.npz") as arrays:
        for level, (stride, steps) in enumerate(zip((8, 16, 32, 64, 128), (60, 30, 15, 8, 4), strict=True)):
            assert_allclose(level_anchors(1, stride, head), arrays[f"base{level}"], rtol=1e-6)
            assert_allclose(level_anchors(steps, stride, head), arrays[f"anchors{level}"], rtol=1e-6)
            for frames in (480, 300):
                valid = anchors_in_video(steps, stride, head, frames=frames)
                np.testing.assert_array_equal(valid, arrays[f"valid{level}_pad{frames}"])
