"""Losses of the refined head: against the official numbers, and their properties."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tallformer_training.losses import RefinedLosses, refined_losses
from tallformer_training.model import RefinedOutputs
from tallformer_training.targets import (
    NO_CLASS,
    RefinedTargets,
    Truth,
    boundary_maps,
    level_bounds,
    make_refined_targets,
    match_positions,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def stack_truth(windows: list[tuple[Tensor, Tensor]]) -> Truth:
    return Truth.stack([segments for segments, _ in windows], [labels for _, labels in windows])


STRIDES = (8, 16, 32, 64, 128, 256)
CASES = range(10)
NAMES = {
    "segment": "loss_l",
    "classification": "loss_c",
    "refined_segment": "loss_prop_l",
    "refined_classification": "loss_prop_c",
    "quality": "loss_ct",
    "start": "loss_start",
    "end": "loss_end",
    "video_class": "loss_action",
}
LEAVES = ("loc", "conf", "prop_loc", "prop_conf", "center", "action_logits")


def read_case(golden: Path, number: int) -> tuple[dict[str, Any], dict[str, Tensor]]:
    case = json.loads((golden / "losses_afsd.json").read_text())["cases"][number]
    with np.load(golden / "losses_afsd.npz") as file:
        start = f"c{number}_"
        found = {name.removeprefix(start): file[name] for name in file.files if name.startswith(start)}
    return case, {name: torch.from_numpy(array).float() for name, array in found.items()}


def run_case(case: dict[str, Any], arrays: dict[str, Tensor]) -> tuple[dict[str, Tensor], RefinedLosses]:
    leaves = {name: arrays[name].clone().requires_grad_() for name in LEAVES}

    def joined(*names: str) -> Tensor:
        return torch.cat([arrays[name] for name in names], dim=-1).transpose(1, 2)

    outputs = RefinedOutputs(
        leaves["loc"],
        leaves["conf"],
        leaves["prop_loc"],
        leaves["prop_conf"],
        leaves["center"][..., 0],
        leaves["action_logits"],
        joined("start", "end"),
        joined("start_loc_prop", "end_loc_prop"),
        joined("start_conf_prop", "end_conf_prop"),
    )
    rows = [arrays[f"target{window}"] for window in range(case["batch"])]
    truth = stack_truth([(row[:, :2] * 768, row[:, 3].long() - 1) for row in rows])
    made = make_refined_targets(truth, level_strides=STRIDES, window_frames=768)
    targets = RefinedTargets(made.distances_frames, made.is_positive, arrays["scores"][:, 1:], made.classes)
    return leaves, refined_losses(outputs, targets, refine_tiou=case["piou"])


@pytest.mark.parametrize("number", CASES)
def test_losses_and_gradients_are_the_official_ones(golden: Path, number: int) -> None:
    case, arrays = read_case(golden, number)

    leaves, losses = run_case(case, arrays)
    torch.autograd.backward(losses.total)

    for ours, theirs in NAMES.items():
        assert getattr(losses, ours).item() == pytest.approx(case["losses"][theirs], rel=1e-5, abs=1e-8), ours
    assert losses.total.item() == pytest.approx(case["cost"], rel=1e-5)
    for name, leaf in leaves.items():
        expected = arrays[f"grad_{name}"]
        np.testing.assert_allclose(leaf.grad, expected, rtol=1e-4, atol=1e-7, err_msg=name)


def test_boundary_maps_are_the_official_ones(golden: Path) -> None:
    items = json.loads((golden / "losses_afsd.json").read_text())["split_videos"]["items"]
    with np.load(golden / "losses_afsd.npz") as file:
        for item in items:
            maps = boundary_maps(np.array([row[:2] for row in item["annos"]]), 768)

            np.testing.assert_array_equal(maps[0], file[f"split_{item['video_name']}_start"])
            np.testing.assert_array_equal(maps[1], file[f"split_{item['video_name']}_end"])


def test_level_bounds_are_the_official_ones(golden: Path) -> None:
    lower, upper = level_bounds(STRIDES, 768)

    first_of_level = [0, 96, 144, 168, 180, 186]
    bounds = [[lower[row].item(), upper[row].item()] for row in first_of_level]
    assert bounds == json.loads((golden / "losses_afsd.json").read_text())["bounds"]


def truth_of(*windows: list[tuple[float, float, int]]) -> list[tuple[Tensor, Tensor]]:
    return [
        (torch.tensor([row[:2] for row in rows]).reshape(-1, 2), torch.tensor([row[2] for row in rows]).long())
        for rows in windows
    ]


def test_a_position_learns_the_shortest_segment_that_holds_it_on_the_level_that_suits() -> None:
    truth = stack_truth(truth_of([(0.0, 100.0, 3), (90.0, 110.0, 4)]))

    distances, is_positive = match_positions(truth, level_strides=STRIDES, window_frames=768)

    # Position 11 of the finest level is at frame 92: only the second segment ends within 30 frames of it.
    assert distances[0, 11].tolist() == [2.0, 18.0]
    # At frame 52 the farther end of the first is 52 frames away: too far for the finest level, not for the next.
    assert not is_positive[0, 6]
    assert distances[0, 96 + 3].tolist() == [56.0, 44.0]


def test_a_window_without_segments_teaches_background_and_no_class() -> None:
    targets = make_refined_targets(
        stack_truth(truth_of([], [(0.0, 50.0, 7)])), level_strides=STRIDES, window_frames=768
    )

    assert not targets.is_positive[0].any()
    assert targets.classes.tolist() == [NO_CLASS, 8]
    assert targets.boundaries[0].sum() == 0
    alone = make_refined_targets(stack_truth(truth_of([])), level_strides=STRIDES, window_frames=768)
    assert alone.classes.tolist() == [NO_CLASS]


def random_outputs(windows: int, *, classes: int = 3) -> RefinedOutputs:
    draw = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=draw)

    return RefinedOutputs(
        numbers(windows, 189, 2).exp() * 20,
        numbers(windows, 189, 2),
        numbers(windows, 189, 2) / 4,
        numbers(windows, 189, 2),
        numbers(windows, 189),
        numbers(windows, 1 + classes),
        numbers(windows, 4, 768).relu(),
        numbers(windows, 8, 96).relu(),
        numbers(windows, 8, 96).relu(),
    )


def test_a_batch_costs_the_mean_of_its_windows() -> None:
    outputs = random_outputs(2)
    rows = truth_of([(20.0, 300.0, 1)], [])

    def cost(windows: slice) -> Tensor:
        part = RefinedOutputs(*(value[windows] for value in outputs))
        targets = make_refined_targets(stack_truth(rows[windows]), level_strides=STRIDES, window_frames=768)
        return refined_losses(part, targets).total

    both = cost(slice(0, 2))

    torch.testing.assert_close(both, (cost(slice(0, 1)) + cost(slice(1, 2))) / 2)


def test_a_window_without_segments_costs_nothing_for_segments_and_class() -> None:
    targets = make_refined_targets(stack_truth(truth_of([])), level_strides=STRIDES, window_frames=768)

    losses = refined_losses(random_outputs(1), targets)

    for name in ("segment", "refined_segment", "quality", "video_class"):
        assert getattr(losses, name) == 0
    assert losses.classification > 0
    assert torch.isfinite(losses.total)


def test_perfect_proposals_cost_nothing_for_segments() -> None:
    truth = stack_truth(truth_of([(20.0, 300.0, 1), (400.0, 430.0, 1)]))
    targets = make_refined_targets(truth, level_strides=STRIDES, window_frames=768)
    perfect = random_outputs(1)._replace(
        distances_frames=targets.distances_frames.clamp(min=0.5), offsets=torch.zeros(1, 189, 2)
    )

    losses = refined_losses(perfect, targets)

    assert losses.segment.item() == pytest.approx(0, abs=1e-6)
    assert losses.refined_segment.item() == pytest.approx(0, abs=1e-6)
