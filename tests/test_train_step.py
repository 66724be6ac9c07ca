"""One training step with the long memory, against the official training engine."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from tallformer_infer.config import HeadConfig, Recipe
from tallformer_training.importing.naming import official_names
from tallformer_training.losses import Losses, detection_losses
from tallformer_training.memory import MemoryBuilder, RunMemory
from tallformer_training.memory.bank import Window, join_windows, read_windows
from tallformer_training.memory.run import write_back
from tallformer_training.model import Detector, HeadOutputs
from tallformer_training.model.encoder import cut_clips
from tallformer_training.model.head import level_anchors
from tallformer_training.schedule import parameter_groups
from tallformer_training.targets import Truth, make_targets
from tests.model_golden import normalised, official_weights, recipe_from_official

CLIPS, CLIP_STEPS, CLIP_FRAMES = 3, 16, 32
VIDEOS = ("va", "vb")

# golden/README.md: losses rtol 1e-4, gradient norms 1e-3. The coarsest level has one position, so its batch norm sees
# two values: gradients behind it are 0 but for rounding (4e-14 in float64; in float32 8e-7, 5e-6 and 1.2e-5 on three
# processors). What float32 may round, float64 must have right.
LOSS = {"rtol": 1e-4}
HEAD = {"rtol": 1e-4, "atol": 1e-4}
FEATURES = {"rtol": 1e-4, "atol": 1e-4}
NORM = {torch.float32: {"rtol": 1e-3, "atol": 3e-5}, torch.float64: {"rtol": 1e-3, "atol": 1e-6}}
GRADIENT_OF_LARGEST = 1e-3


@dataclass(frozen=True)
class Step:
    """Everything after one forward and backward pass."""

    detector: Detector
    official: dict[str, str]
    """Official name of each of our parameters and buffers."""
    outputs: HeadOutputs
    losses: Losses
    encoded: Tensor
    """Encoded clips, shape (2, C, CLIP_STEPS)."""
    bank: dict[str, NDArray[np.floating]]
    """Rows of each video afterwards."""


@pytest.fixture(scope="module")
def arrays(golden: Path) -> dict[str, NDArray[Any]]:
    with np.load(golden / "thumos_train_step.npz") as file:
        return {key: file[key] for key in file.files}


@pytest.fixture(scope="module")
def numbers(golden: Path) -> dict[str, Any]:
    values: dict[str, Any] = json.loads((golden / "thumos_train_step.json").read_text())
    return values


@pytest.fixture(scope="module", params=[torch.float32, torch.float64], ids=["float32", "float64"])
def step(
    request: pytest.FixtureRequest, golden: Path, arrays: dict[str, NDArray[Any]], numbers: dict[str, Any]
) -> Iterator[Step]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        yield train_once(golden, arrays, golden_detector(golden, numbers, request.param), Path(folder))
    torch.set_num_threads(threads)


def train_once(golden: Path, arrays: dict[str, NDArray[Any]], detector: Detector, folder: Path) -> Step:
    windows = [
        Window(video=video, first_step=int(shift) // 2, encoded_clips=tuple(arrays["keep"].tolist()))
        for video, shift in zip(VIDEOS, arrays["tshift"], strict=True)
    ]
    clips = golden_clips(golden, arrays)[:, arrays["keep"]].flatten(0, 1)  # (windows * encoded, 3, F, H, W)
    with RunMemory.begin(golden_memory(arrays, folder / "base"), folder / "run") as run:
        remembered, _ = read_windows(run.memory, windows, clips=CLIPS, clip_steps=CLIP_STEPS, step_number=0)
        encoded = detector.encode(clips.to(detector.backbone.norm.weight.dtype))
        outputs = detector.localize(join_windows(remembered, encoded, windows))
        write_back(run, windows, encoded, videos=VIDEOS, step_number=0)
        bank = {video: np.array(run.memory.rows_of(video)) for video in VIDEOS}
    losses = golden_losses(detector.recipe, outputs, arrays)
    losses.total.backward()
    official = official_names(detector.recipe.model, detector.state_dict())
    return Step(detector, official, outputs, losses, encoded, bank)


def golden_detector(golden: Path, numbers: dict[str, Any], dtype: torch.dtype) -> Detector:
    """The official detector in training mode."""
    recipe = recipe_from_official(numbers["engine"]["model"], crop_px=64, window_frames=CLIPS * CLIP_FRAMES)
    recipe = replace(recipe, model=replace(recipe.model, pyramid=replace(recipe.model.pyramid, dropout=0.0)))
    detector = Detector(recipe)
    weights = official_weights(golden)
    official = official_names(recipe.model, detector.state_dict())
    detector.load_state_dict({ours: weights[name] for ours, name in official.items()})
    return detector.train().to(dtype)


def golden_clips(golden: Path, arrays: dict[str, NDArray[Any]]) -> Tensor:
    """Clips of both windows, shape (2, CLIPS, 3, CLIP_FRAMES, 64, 64)."""
    with np.load(golden / "thumos_tiny_64x64.npz") as file:
        top, left = file["crop_top_left"]
        pixels = file["frames_rgb"][:, top : top + 64, left : left + 64]
    length = CLIPS * CLIP_FRAMES
    frames = torch.cat([normalised(pixels[at : at + length], frames=length) for at in arrays["crop_start_frames"]])
    sums = [frames.double().sum().item(), frames.double().abs().sum().item()]
    assert sums == pytest.approx(arrays["input_checksum"].tolist(), rel=1e-6)
    return cut_clips(frames, CLIP_FRAMES).unflatten(0, (2, CLIPS))


def golden_memory(arrays: dict[str, NDArray[Any]], folder: Path) -> Path:
    banks = {video: arrays[f"bank_{video}_before"] for video in VIDEOS}
    entries = {video: len(bank) for video, bank in banks.items()}
    builder = MemoryBuilder(folder, entries, channels=banks["va"].shape[1], dtype="float32")
    for video, bank in banks.items():
        builder.write(video, bank.T)
    return builder.finish().folder


def golden_losses(recipe: Recipe, outputs: HeadOutputs, arrays: dict[str, NDArray[Any]]) -> Losses:
    sizes = zip(outputs.logits, recipe.model.level_strides, strict=True)
    anchors = torch.cat([level_anchors(level.shape[-1], stride, HeadConfig()) for level, stride in sizes])
    truth = Truth.stack(
        [torch.from_numpy(arrays[f"gt{index}"]) for index in range(2)],
        [torch.from_numpy(arrays[f"gt_label{index}"]) for index in range(2)],
    )
    classes = len(recipe.classes)
    return detection_losses(outputs, anchors, make_targets(anchors, truth, classes=classes), classes=classes)


def test_the_encoded_clips_are_equal(step: Step, arrays: dict[str, NDArray[Any]]) -> None:
    np.testing.assert_allclose(step.encoded.detach().numpy(), arrays["update_features"][0], **FEATURES)


def test_the_head_outputs_are_equal(step: Step, arrays: dict[str, NDArray[Any]]) -> None:
    for level, (logits, regressions) in enumerate(zip(*step.outputs, strict=True)):
        np.testing.assert_allclose(logits.detach().numpy(), arrays[f"cls{level}"], **HEAD)
        np.testing.assert_allclose(regressions.detach().numpy(), arrays[f"reg{level}"], **HEAD)


def test_the_losses_are_equal(step: Step, numbers: dict[str, Any]) -> None:
    got = [step.losses.classification.sum().item(), step.losses.segment.sum().item(), step.losses.total.item()]

    np.testing.assert_allclose(got, [numbers["losses"][key] for key in ("loss_cls", "loss_segment", "loss")], **LOSS)


def test_the_memory_afterwards_is_equal(step: Step, arrays: dict[str, NDArray[Any]]) -> None:
    for video in VIDEOS:
        before, after = arrays[f"bank_{video}_before"], arrays[f"bank_{video}_after"]
        np.testing.assert_allclose(step.bank[video], after, **FEATURES)
        kept = (before == after).all(axis=1)
        np.testing.assert_array_equal(step.bank[video][kept], before[kept])


def test_batch_norm_statistics_afterwards_are_equal(step: Step, arrays: dict[str, NDArray[Any]]) -> None:
    ours = {official: name for name, official in step.official.items()}
    state = step.detector.state_dict()
    statistics = [key for key in arrays if key.startswith("after/")]

    assert statistics
    for key in statistics:
        np.testing.assert_allclose(state[ours[key.removeprefix("after/")]], arrays[key], **FEATURES, err_msg=key)


def test_the_gradient_of_every_parameter_is_as_long(step: Step, numbers: dict[str, Any]) -> None:
    for name, parameter in step.detector.named_parameters():
        expected = numbers["grad_norms"][step.official[name]]
        if expected is None:
            assert parameter.grad is None, name
        else:
            assert parameter.grad is not None, name
            np.testing.assert_allclose(parameter.grad.norm().item(), expected, **NORM[parameter.dtype], err_msg=name)


def test_some_gradients_are_equal_in_every_value(step: Step, arrays: dict[str, NDArray[Any]]) -> None:
    parameters = {step.official[name]: parameter for name, parameter in step.detector.named_parameters()}
    for key in (key for key in arrays if key.startswith("grad/")):
        gradient = parameters[key.removeprefix("grad/")].grad
        assert gradient is not None
        atol = GRADIENT_OF_LARGEST * np.abs(arrays[key]).max()
        np.testing.assert_allclose(gradient.numpy(), arrays[key], rtol=0, atol=atol, err_msg=key)


def test_the_optimizers_step_is_as_long(step: Step, numbers: dict[str, Any]) -> None:
    parameters = dict(step.detector.named_parameters())
    before = {name: parameter.detach().clone() for name, parameter in parameters.items()}
    optimizer = torch.optim.SGD(parameter_groups(step.detector, base_lr=0.01), momentum=0.9, weight_decay=1e-4)

    optimizer.step()

    assert {step.official[name] for name in parameters} == set(numbers["sgd_update_norms"])
    for name, parameter in parameters.items():
        moved = (parameter.detach() - before[name]).norm().item()
        np.testing.assert_allclose(moved, numbers["sgd_update_norms"][step.official[name]], rtol=1e-3, atol=1e-7)
        with torch.no_grad():
            parameter.copy_(before[name])
