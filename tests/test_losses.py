"""Focal and DIoU loss, and their sum over a batch of windows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tallformer_infer.config import HeadConfig
from tallformer_training.losses import Losses, detection_losses, diou_loss, focal_loss
from tallformer_training.model.head import HeadOutputs, anchors_in_video, level_anchors
from tallformer_training.targets import Targets, Truth, make_targets

STRIDES = (8, 16)
STEPS = (6, 3)
CLASSES = 3
HEAD = HeadConfig()
ANCHORS = torch.cat([level_anchors(steps, stride, HEAD) for steps, stride in zip(STEPS, STRIDES, strict=True)])

# Tolerances that come with the goldens; 1e-7 where a gradient is next to nothing.
LOSS = {"rtol": 1e-5, "atol": 1e-7}
GRADIENT = {"rtol": 1e-4, "atol": 1e-7}


def outputs(windows: int, *, seed: int = 0) -> HeadOutputs:
    """Random head outputs that collect gradients."""
    generator = torch.Generator().manual_seed(seed)

    def level(channels: int, steps: int) -> Tensor:
        return torch.randn(windows, channels, steps, generator=generator).requires_grad_()

    return HeadOutputs(
        [level(HEAD.scales * CLASSES, steps) for steps in STEPS], [level(HEAD.scales * 2, steps) for steps in STEPS]
    )


def targets(*windows: list[tuple[float, float]]) -> Targets:
    """What the anchors learn; labels are 0, 1, 2, ... in every window."""
    truth = Truth.stack(
        [torch.tensor(window, dtype=torch.float32).reshape(-1, 2) for window in windows],
        [torch.arange(len(window)) for window in windows],
    )
    return make_targets(ANCHORS, truth, classes=CLASSES)


def losses(head: HeadOutputs, wanted: Targets) -> Losses:
    return detection_losses(head, ANCHORS, wanted, classes=CLASSES)


def test_focal_loss_of_a_half_is_a_quarter_of_log_two_times_alpha() -> None:
    loss = focal_loss(torch.zeros(1, 2), torch.tensor([0]))

    torch.testing.assert_close(loss, torch.tensor([[0.25, 0.75]]) * 0.25 * np.log(2).astype(np.float32).item())


def test_focal_loss_of_the_specification() -> None:
    logits = torch.tensor([[2, -1, 0.5], [-3, 0, 1]])

    assert focal_loss(logits, torch.tensor([0, 3])).sum().item() / 2 == pytest.approx(0.4785, abs=1e-4)


def test_focal_loss_without_focus_is_half_of_cross_entropy() -> None:
    logits = torch.linspace(-20, 20, 30).reshape(10, 3)
    labels = torch.arange(10) % 4

    loss = focal_loss(logits, labels, gamma=0, alpha=0.5)

    truth = F.one_hot(labels, 4)[:, :3].float()
    torch.testing.assert_close(loss, 0.5 * F.binary_cross_entropy_with_logits(logits, truth, reduction="none"))


def test_focal_loss_stays_finite_at_any_logit() -> None:
    logits = torch.tensor([[1e4, -1e4], [-1e4, 1e4]]).requires_grad_()

    loss = focal_loss(logits, torch.tensor([0, 0]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)

    assert loss.isfinite().all()
    assert gradient.isfinite().all()


def test_diou_loss_of_the_specification() -> None:
    segments = torch.tensor([[0.0, 10], [5, 25], [50, 60]])
    truth = torch.tensor([[2.0, 12], [5, 20], [0, 10]])

    assert diou_loss(segments, truth).sum().item() / 2 == pytest.approx(1.1606, abs=1e-4)


def test_diou_loss_is_zero_for_the_same_segment_and_grows_with_the_distance() -> None:
    truth = torch.tensor([10.0, 20])

    loss = diou_loss(torch.tensor([[10.0, 20], [12, 22], [30, 40], [90, 100]]), truth)

    assert loss[0].item() == pytest.approx(0, abs=1e-6)
    assert (loss.diff() > 0).all()


def test_diou_loss_does_not_depend_on_the_order_of_its_arguments_nor_on_the_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.rand(2, 50, 2, generator=generator) * 100).sort(dim=-1).values

    torch.testing.assert_close(diou_loss(first, second), diou_loss(second, first))
    torch.testing.assert_close(diou_loss(first, second), diou_loss(first * 15, second * 15))


def test_losses_are_normalised_by_the_positive_anchors_of_every_window_at_least_one_each() -> None:
    head = outputs(2)
    with_action = targets([(10, 40)])
    positives = int(with_action.is_positive.sum())
    first = HeadOutputs([level[:1] for level in head.logits], [level[:1] for level in head.regressions])
    second = HeadOutputs([level[1:] for level in head.logits], [level[1:] for level in head.regressions])

    both = losses(head, targets([(10, 40)], [])).total * (positives + 1)

    assert positives > 1
    torch.testing.assert_close(both, losses(first, with_action).total * positives + losses(second, targets([])).total)


def test_without_actions_there_is_no_segment_loss_but_a_gradient_of_zero() -> None:
    head = outputs(2)

    result = losses(head, targets([], []))
    result.total.backward()

    assert result.segment.tolist() == [0, 0]
    assert result.classification.min() > 0
    for level in head.regressions:
        assert level.grad is not None
        assert not level.grad.any()


def test_ignored_anchors_have_no_part_in_any_loss() -> None:
    head = outputs(1)
    wanted = targets([(10, 40)])
    ignored = (wanted.label_weights == 0)[0]

    losses(head, wanted).total.backward()

    gradients = [level.grad for level in head.logits]
    flat = torch.cat([grad.transpose(1, 2).reshape(-1, CLASSES) for grad in gradients if grad is not None])
    assert ignored.any()
    assert not flat[ignored].any()
    assert flat[~ignored].all()


def test_an_infinite_segment_of_a_background_anchor_does_not_spoil_the_gradient() -> None:
    head = outputs(1)
    wanted = targets([(8, 24)])
    assert not wanted.is_positive[0, 0]
    with torch.no_grad():
        head.regressions[0][0, 0, 0] = torch.inf

    losses(head, wanted).total.backward()

    assert all(level.grad is not None and level.grad.isfinite().all() for level in head.regressions)


def test_half_precision_outputs_give_losses_in_single_precision() -> None:
    head = outputs(1)
    halves = HeadOutputs([level.bfloat16() for level in head.logits], [level.bfloat16() for level in head.regressions])

    assert losses(halves, targets([(10, 40)])).total.dtype == torch.float32


def test_golden_focal_losses_are_equal(golden: Path) -> None:
    arrays = np.load(golden / "losses_elementwise.npz")
    logits = torch.from_numpy(arrays["focal_logits"]).requires_grad_()

    loss = focal_loss(logits, torch.from_numpy(arrays["focal_target"]))
    (gradient,) = torch.autograd.grad(loss.sum(), logits)

    np.testing.assert_allclose(loss.detach().numpy(), arrays["focal_loss"], **LOSS)
    np.testing.assert_allclose(gradient.numpy(), arrays["focal_grad"], **GRADIENT)


def test_golden_diou_losses_are_equal(golden: Path) -> None:
    arrays = np.load(golden / "losses_elementwise.npz")
    segments = torch.from_numpy(arrays["diou_pred"]).requires_grad_()

    loss = diou_loss(segments, torch.from_numpy(arrays["diou_target"]))
    (gradient,) = torch.autograd.grad(loss.sum(), segments)

    np.testing.assert_allclose(loss.detach().numpy(), arrays["diou_loss"], **LOSS)
    np.testing.assert_allclose(gradient.numpy(), arrays["diou_grad"], **GRADIENT)


def run_golden(arrays: Any, case: dict[str, Any]) -> tuple[HeadOutputs, Losses]:
    """Losses of one case, with gradients in its head outputs."""
    name, sizes = case["name"], list(zip(case["featmap_tsizes"], (8, 16, 32, 64, 128), strict=True))
    anchors = torch.cat([level_anchors(steps, stride, HEAD) for steps, stride in sizes])
    is_valid = torch.stack(
        [
            torch.cat([anchors_in_video(steps, stride, HEAD, frames=frames) for steps, stride in sizes])
            for frames in case["pad_tsize"]
        ]
    )
    truth = Truth.stack(
        [torch.from_numpy(arrays[f"{name}/gt{index}"]) for index in range(len(case["n_gt"]))],
        [torch.from_numpy(arrays[f"{name}/gt_label{index}"]) for index in range(len(case["n_gt"]))],
    )
    head = HeadOutputs(
        [torch.from_numpy(arrays[f"{name}/cls{level}"]).requires_grad_() for level in range(len(sizes))],
        [torch.from_numpy(arrays[f"{name}/reg{level}"]).requires_grad_() for level in range(len(sizes))],
    )
    result = detection_losses(head, anchors, make_targets(anchors, truth, classes=20, is_valid=is_valid), classes=20)
    result.total.backward()
    return head, result


def test_golden_criterion_gives_equal_losses_and_gradients(golden: Path) -> None:
    arrays = np.load(golden / "losses_thumos.npz")
    for case in json.loads((golden / "losses_thumos.json").read_text())["cases"]:
        name = case["name"]
        head, result = run_golden(arrays, case)
        np.testing.assert_allclose(
            result.classification.detach(), arrays[f"{name}/loss_cls_per_level"], **LOSS, err_msg=name
        )
        np.testing.assert_allclose(
            result.segment.detach(), arrays[f"{name}/loss_segment_per_level"], **LOSS, err_msg=name
        )
        assert result.total.item() == pytest.approx(case["loss"], rel=1e-5), name
        for kind, levels in (("cls", head.logits), ("reg", head.regressions)):
            norms = [np.linalg.norm(level.grad) for level in levels if level.grad is not None]
            np.testing.assert_allclose(norms, arrays[f"{name}/grad_norm_{kind}"], **GRADIENT, err_msg=f"{name} {kind}")
            for level, tensor in enumerate(levels):
                if f"{name}/grad_{kind}{level}" in arrays:
                    expected = arrays[f"{name}/grad_{kind}{level}"]
                    np.testing.assert_allclose(tensor.grad, expected, **GRADIENT, err_msg=f"{name} {kind}{level}")
