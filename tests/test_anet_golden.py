"""The ActivityNet detector against the official code's numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_training.model import Detector, RefinedOutputs
from tallformer_training.model.refined_head import level_steps, position_centres, proposal_ranges
from tests import anet_golden as g

pytestmark = pytest.mark.usefixtures("one_thread")

LEVELS = range(6)


@pytest.fixture(scope="module")
def detector(golden: Path) -> Detector:
    return g.tiny_detector(golden)


@pytest.fixture(scope="module")
def stored(golden: Path) -> dict[str, NDArray[Any]]:
    return g.arrays(golden, "anet_tiny.npz")


@pytest.fixture(scope="module")
def outputs(detector: Detector, stored: dict[str, NDArray[Any]]) -> RefinedOutputs:
    with torch.no_grad():
        found = detector.localize(g.tensor(stored["feat"]))
    assert isinstance(found, RefinedOutputs)
    return found


def test_the_pyramid_is_the_official_one(detector: Detector, stored: dict[str, NDArray[Any]]) -> None:
    with torch.no_grad():
        x = detector.tcm(detector.reduction(g.tensor(stored["feat"])))
        levels = detector.fpn(detector.pyramid(x))

    for index in LEVELS:
        np.testing.assert_allclose(levels[index], stored[f"pyramid{index}"], **g.FEATURES)


def test_positions_are_the_official_ones(golden: Path, detector: Detector) -> None:
    priors = g.arrays(golden, "anet_priors.npz")["priors"]

    centres = position_centres(768, detector.recipe.model.level_strides)

    np.testing.assert_array_equal(centres / 768, priors[:, 0])


def test_pooling_windows_are_the_official_ones(outputs: RefinedOutputs, stored: dict[str, NDArray[Any]]) -> None:
    margin = stored["round_margin"]  # distance to the next place where rounding would give another window
    strides = (8, 16, 32, 64, 128, 256)
    steps = level_steps(768, strides)
    begin = 0
    for index, count in enumerate(steps):
        distances = outputs.distances_frames[:, begin : begin + count].transpose(1, 2)
        on_level, by_frame = proposal_ranges(distances, steps=count, frames=768)
        is_sure = margin[:, begin : begin + count] > 1e-4
        begin += count
        assert is_sure.all()
        np.testing.assert_array_equal(on_level.numpy()[is_sure], stored[f"segments{index}"][is_sure])
        np.testing.assert_array_equal(by_frame.numpy()[is_sure], stored[f"frame_segments{index}"][is_sure])


@pytest.mark.parametrize(
    ("ours", "official"),
    [
        ("logits", "conf"),
        ("offsets", "prop_loc"),
        ("refined_logits", "prop_conf"),
        ("class_logits", "action_logits"),
    ],
)
def test_logits_are_the_official_ones(
    outputs: RefinedOutputs, stored: dict[str, NDArray[Any]], ours: str, official: str
) -> None:
    np.testing.assert_allclose(getattr(outputs, ours), stored[official], **g.LOGITS)


def test_distances_and_quality_are_the_official_ones(outputs: RefinedOutputs, stored: dict[str, NDArray[Any]]) -> None:
    np.testing.assert_allclose(outputs.distances_frames, stored["loc"], rtol=1e-5)
    np.testing.assert_allclose(outputs.quality_logits, stored["center"][..., 0], **g.LOGITS)


def test_boundary_features_are_the_official_ones(outputs: RefinedOutputs, stored: dict[str, NDArray[Any]]) -> None:
    def halves(features: Tensor) -> tuple[Tensor, Tensor]:
        first, second = features.transpose(1, 2).chunk(2, dim=-1)
        return first, second

    for ours, official in (
        (outputs.frame_features, ("start", "end")),
        (outputs.segment_features, ("start_loc_prop", "end_loc_prop")),
        (outputs.confidence_features, ("start_conf_prop", "end_conf_prop")),
    ):
        for half, name in zip(halves(ours), official, strict=True):
            np.testing.assert_allclose(half, stored[name], **g.FEATURES)
