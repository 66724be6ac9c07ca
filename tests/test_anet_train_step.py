"""One training step of the official ActivityNet code, with clips shifted by 13 frames and a long memory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_training.importing.naming import official_names
from tallformer_training.losses import RefinedLosses, refined_losses
from tallformer_training.model import Detector, RefinedOutputs
from tallformer_training.targets import RefinedTargets, make_refined_targets
from tests import anet_golden as g
from tests.model_golden import normalised
from tests.test_refined_losses import NAMES, STRIDES, stack_truth

pytestmark = pytest.mark.usefixtures("one_thread")

CLIPS, CLIP_FRAMES, CLIP_STEPS = 25, 32, 16


@dataclass(frozen=True)
class Step:
    detector: Detector
    features: Tensor
    outputs: RefinedOutputs
    losses: RefinedLosses
    gradients: dict[str, Tensor]
    """By official name."""


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, NDArray[Any]]:
    return g.arrays(golden, "anet_train_step.npz")


@pytest.fixture(scope="module")
def numbers(golden: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((golden / "anet_train_step.json").read_text())
    return values


@pytest.fixture(scope="module")
def step(golden: Path, arrays: dict[str, NDArray[Any]]) -> Step:
    detector = g.tiny_detector(golden)  # the golden step has neither dropout nor stochastic depth
    features = shifted_features(golden, arrays, detector)
    outputs = detector.localize(features)
    assert isinstance(outputs, RefinedOutputs)
    losses = refined_losses(outputs, targets_of(arrays))
    torch.autograd.backward(losses.total)
    names = official_names(detector.recipe.model, detector.state_dict())
    gradients = {
        names[name]: parameter.grad for name, parameter in detector.named_parameters() if parameter.grad is not None
    }
    return Step(detector, features, outputs, losses, gradients)


def shifted_features(golden: Path, arrays: dict[str, NDArray[Any]], detector: Detector) -> Tensor:
    """Encoded and remembered clips in their order, without the steps in front of and behind the video."""
    pad = int(arrays["frame_pad_l"])
    frames = normalised(g.middle_crop(g.arrays(golden, "anet_tiny_videos.npz", "v_full/")["frames_rgb"]), frames=768)
    shifted = torch.nn.functional.pad(frames, (0, 0, 0, 0, pad, CLIP_FRAMES - pad))[0].unflatten(1, (CLIPS, -1))
    clips = torch.zeros(CLIPS, arrays["bank_before"].shape[1], CLIP_STEPS)
    clips[arrays["drop"]] = torch.from_numpy(arrays["frozen_features"][:, 0])
    encoded = detector.encode(shifted[:, arrays["keep"]].transpose(0, 1))
    clips = clips.index_put((torch.from_numpy(arrays["keep"]),), encoded)
    begin = pad // 2
    return clips.transpose(0, 1).flatten(1)[None, :, begin : begin + 384]


def targets_of(arrays: dict[str, NDArray[Any]]) -> RefinedTargets:
    rows = torch.from_numpy(arrays["target0"])
    made = make_refined_targets(
        stack_truth([(rows[:, :2] * 768, rows[:, 3].long() - 1)]), level_strides=STRIDES, window_frames=768
    )
    marks = torch.from_numpy(arrays["scores"]).float()[:, 1:]  # not those of its own segments, as its README says
    return RefinedTargets(made.distances_frames, made.is_positive, marks, made.classes)


def test_features_and_outputs_are_the_official_ones(step: Step, arrays: dict[str, NDArray[Any]]) -> None:
    np.testing.assert_allclose(step.features.detach(), arrays["backbone_feat"], **g.FEATURES)
    np.testing.assert_allclose(step.outputs.distances_frames.detach(), arrays["loc"], **g.DISTANCES)
    np.testing.assert_allclose(step.outputs.offsets.detach(), arrays["prop_loc"], **g.LOGITS)
    np.testing.assert_allclose(step.outputs.refined_logits.detach(), arrays["prop_conf"], **g.LOGITS)


def test_losses_are_the_official_ones(step: Step, numbers: dict[str, Any]) -> None:
    for ours, theirs in NAMES.items():
        assert getattr(step.losses, ours).item() == pytest.approx(numbers["losses"][theirs], rel=1e-4), ours
    assert step.losses.total.item() == pytest.approx(numbers["cost"], rel=1e-4)


def test_gradients_are_as_long(step: Step, numbers: dict[str, Any]) -> None:
    assert step.gradients.keys() == numbers["grad_norms"].keys()
    for name, expected in numbers["grad_norms"].items():
        assert step.gradients[name].norm().item() == pytest.approx(expected, rel=1e-3, abs=1e-6), name


def test_some_gradients_are_equal_in_every_value(step: Step, arrays: dict[str, NDArray[Any]]) -> None:
    stored = [name for name in arrays if name.startswith("grad/")]

    assert len(stored) == 5
    for name in stored:
        atol = 1e-3 * float(np.abs(arrays[name]).max())
        np.testing.assert_allclose(step.gradients[name.removeprefix("grad/")], arrays[name], atol=atol, err_msg=name)
