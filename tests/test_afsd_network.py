"""AFSD's networks and the classifier's: as many parameters, multiplications and positions as published."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.afsd.classifier import BnInception, ResNet200, ten_crops, video_scores
from benchmarks.afsd.detections import Outputs, activitynet_actions, fused_candidates, thumos14_actions
from benchmarks.afsd.graphs import Network, graph
from benchmarks.afsd.network import (
    ACTIVITYNET,
    THUMOS14,
    AfsdBackbone,
    AfsdLocalizer,
    AfsdSizes,
    HalvingConv,
)
from tests.small_detector import numbers

pytestmark = pytest.mark.usefixtures("one_thread")

PUBLISHED = {ACTIVITYNET: (30.2, 189, 3.3), THUMOS14: (44.7, 126, 2.6)}
"""Million parameters of a network, positions, and 10^9 multiplications behind I3D (248.3 - 245.0, 84.2 - 81.7)."""


def giga_multiplications(module: nn.Module, *inputs: Tensor) -> float:
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        module.eval()(*inputs)
    return counter.get_total_flops() / 2e9


def maps(sizes: AfsdSizes) -> list[Tensor]:
    steps = sizes.frames // 8
    coarse = numbers(1, 1024, steps, 3, 3)
    return [numbers(1, 832, 2 * steps, 6, 6), coarse] if sizes.has_fine_level else [coarse]


@pytest.mark.parametrize("sizes", [ACTIVITYNET, THUMOS14], ids=["activitynet", "thumos14"])
def test_a_network_is_as_large_as_published(sizes: AfsdSizes) -> None:
    parameters, positions, multiplications = PUBLISHED[sizes]
    torch.manual_seed(0)
    parts = (AfsdBackbone(sizes, 3), AfsdLocalizer(sizes))

    count = sum(parameter.numel() for part in parts for parameter in part.parameters())
    found = giga_multiplications(parts[1], *maps(sizes))

    assert count / 1e6 == pytest.approx(parameters, abs=0.05)
    assert sum(sizes.steps) == positions
    assert found == pytest.approx(multiplications, abs=0.05)


@pytest.mark.parametrize("sizes", [ACTIVITYNET, THUMOS14], ids=["activitynet", "thumos14"])
def test_every_position_gets_a_proposal_of_every_kind(sizes: AfsdSizes) -> None:
    torch.manual_seed(0)

    with torch.inference_mode():
        found = AfsdLocalizer(sizes).eval()(*maps(sizes))

    rows = sum(sizes.steps)
    assert [tuple(part.shape[1:]) for part in found] == [
        (rows, 2), (rows, sizes.classes), (rows, 2), (rows, sizes.classes), (rows,)
    ]  # fmt: skip
    assert all(torch.isfinite(part).all() for part in found)


@pytest.mark.parametrize("length", [1, 2, 5, 8])
def test_a_level_has_half_of_the_steps_rounded_up(length: int) -> None:
    assert HalvingConv()(numbers(1, 512, length)).shape == (1, 512, -(-length // 2))


def test_the_classifiers_networks_are_as_large_as_published() -> None:
    """At 224 px: ResNet-200 15.0 x 10^9 multiplications, BN-Inception on RGB 2.03; 64 px has 4 / 49 of the places."""
    of_places = 49 / 4

    resnet = giga_multiplications(ResNet200(), torch.zeros(1, 3, 64, 64))
    inception = giga_multiplications(BnInception(3), torch.zeros(1, 3, 64, 64))

    assert of_places * resnet == pytest.approx(15.0, abs=0.05)
    assert of_places * inception == pytest.approx(2.03, abs=0.01)


def test_a_graph_in_onnx_runtime_equals_torch(tmp_path: Path) -> None:
    made: list[nn.Module] = []

    def make() -> nn.Module:
        made.append(HalvingConv())
        return made[-1]

    content = graph(tmp_path, "level", make, [numbers(1, 512, 9)])
    x = numbers(1, 512, 9, seed=1)

    (found,) = Network(content, threads=1).run(x.numpy())

    with torch.inference_mode():
        assert np.allclose(found, made[0].eval()(x).numpy(), atol=1e-4)
    assert graph(tmp_path, "level", make, [x]) == content
    assert len(made) == 1


def test_ten_crops_are_the_corners_and_the_middle_and_their_mirror_images() -> None:
    stack = np.arange(256 * 340, dtype=np.float32).reshape(1, 256, 340)

    crops = ten_crops(stack)

    assert crops.shape == (10, 1, 224, 224)
    assert [crop[0, 0, 0] for crop in crops[:5]] == [
        stack[0, y, x] for y, x in [(0, 0), (0, 116), (32, 0), (32, 116), (16, 58)]
    ]
    assert np.array_equal(crops[5:], crops[:5, ..., ::-1])


@pytest.mark.parametrize("snippets", [1, 2, 40])
def test_the_best_class_of_all_snippets_is_the_videos(snippets: int) -> None:
    scores = np.zeros((snippets, 200), np.float32)
    scores[:, 7] = 5

    found = video_scores(scores, np.zeros_like(scores))

    assert found.argmax() == 7
    assert found.sum() == pytest.approx(1, abs=1e-5)


def outputs(sizes: AfsdSizes, distance_frames: float, offset: float = 0.0) -> Outputs:
    rows = sum(sizes.steps)
    logits = np.zeros((rows, sizes.classes), np.float32)
    logits[:, 1] = 2
    distances, offsets = (np.full((rows, 2), value, np.float32) for value in (distance_frames, offset))
    return Outputs(distances, logits, offsets, logits, np.zeros(rows, np.float32))


def test_activitynet_segments_are_the_geometric_mean_of_both_networks() -> None:
    segments, scores = fused_candidates(outputs(ACTIVITYNET, 4), outputs(ACTIVITYNET, 16), ACTIVITYNET)

    row, centre = 10, 84  # the middle of the frames 80 to 88
    assert segments[row] == pytest.approx(
        [((centre - 4) * (centre - 16)) ** 0.5, ((centre + 4) * (centre + 16)) ** 0.5]
    )
    assert scores[row, 1] == pytest.approx(np.exp(2) / (1 + np.exp(2)) * 0.5, rel=1e-5)


def test_thumos14_distances_are_averaged_and_offsets_count_in_half_lengths() -> None:
    segments, _ = fused_candidates(outputs(THUMOS14, 4, 0.25), outputs(THUMOS14, 8, 0.75), THUMOS14)

    row, centre = 10, 42
    assert segments[row] == pytest.approx([centre - (6 + 6 * 0.5), centre + (6 + 6 * 0.5)])


def test_segments_stay_inside_the_window() -> None:
    segments, _ = fused_candidates(outputs(THUMOS14, 900), outputs(THUMOS14, 900), THUMOS14)

    assert segments.min() == 0
    assert segments.max() == 256


def test_activitynet_actions_have_the_videos_best_class_and_keep_all_positions() -> None:
    segments, scores = fused_candidates(outputs(ACTIVITYNET, 3), outputs(ACTIVITYNET, 3), ACTIVITYNET)
    class_scores = np.zeros(200, np.float32)
    class_scores[42] = 0.5

    found = activitynet_actions(segments, scores, class_scores)

    assert len(found) == 189
    assert set(found.classes) == {42}
    assert found.scores.max() == pytest.approx(0.5 * scores[:, 1].max())


def test_thumos14_actions_are_of_any_class_but_background() -> None:
    segments = np.array([[0, 10], [100, 120]], np.float32)
    scores = np.zeros((2, 21), np.float32)
    scores[0, [0, 3]], scores[1, 20] = (0.9, 0.5), 0.4

    found = thumos14_actions(segments, scores)

    assert list(found.classes) == [2, 19]
    assert list(found.scores) == pytest.approx([0.5, 0.4])
