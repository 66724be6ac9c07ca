"""What an encoder that starts from nothing gets: weights that see motion, and a second task."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.model.clips import encode_clips
from tallformer_training.training import Processes, train
from tallformer_training.training.first_weights import see_motion, standardise_features
from tallformer_training.training.metrics import read_metrics
from tallformer_training.training.step_classifier import StepClassifier, step_labels, step_loss
from tests.small_detector import SMALL, build, numbers
from tests.training_set import RECIPE, job_of, make_set

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_still_clip_looks_the_same_whatever_it_shows() -> None:
    encoder = build().eval().backbone
    see_motion(encoder, seed=1)
    picture = numbers(2, 3, 1, 32, 32)

    still = encode_clips(encoder, picture.expand(-1, -1, 16, -1, -1))
    moving = encode_clips(encoder, numbers(2, 3, 16, 32, 32, seed=1))

    torch.testing.assert_close(still[0], still[1], rtol=0, atol=1e-5)
    assert (moving[0] - moving[1]).abs().max() > 1e-2


def test_weights_that_see_motion_follow_their_seed() -> None:
    states = []
    for seed in (1, 1, 2):
        encoder = build().backbone
        see_motion(encoder, seed=seed)
        states.append(encoder.state_dict())

    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    assert not torch.equal(states[0]["patch_embed.proj.weight"], states[2]["patch_embed.proj.weight"])


def test_only_patches_of_two_frames_can_see_motion() -> None:
    backbone = replace(SMALL.model.backbone, patch=(4, 4, 4))
    recipe = replace(SMALL, model=replace(SMALL.model, backbone=backbone))

    with pytest.raises(ValueError, match="patches of 2 frames, got 4"):
        see_motion(build(recipe).backbone, seed=0)


def test_standardised_features_have_mean_0_and_deviation_1() -> None:
    encoder = build().eval().backbone
    clips = numbers(6, 3, 16, 32, 32)

    standardise_features(encoder, [clips[:2], clips[2:]])

    with torch.no_grad():
        features = encode_clips(encoder, clips).transpose(0, 1).flatten(1)
    torch.testing.assert_close(features.mean(dim=1), torch.zeros(len(features)), rtol=0, atol=1e-3)
    torch.testing.assert_close(features.std(dim=1), torch.ones(len(features)), rtol=0, atol=1e-2)


def test_a_step_is_marked_if_an_action_goes_on_in_its_middle() -> None:
    segments, labels = np.array([[1.0, 5.0], [3.0, 3.1], [100.0, 200.0]]), np.array([1, 0, 2])

    marks = step_labels(segments, labels, first_frames=np.array([0, 96]), steps=4, stride=2, classes=3)

    assert marks.shape == (2, 4, 3)  # middles at frames 1, 3, 5, 7 and 97, 99, 101, 103
    assert marks[0].nonzero().tolist() == [[0, 1], [1, 0], [1, 1]]
    assert marks[1].nonzero().tolist() == [[2, 2], [3, 2]]


def test_no_segments_mark_nothing() -> None:
    marks = step_labels(
        np.zeros((0, 2)), np.zeros(0, np.int64), first_frames=np.zeros(0, np.int64), steps=4, stride=2, classes=3
    )

    assert marks.shape == (0, 4, 3)


def test_the_loss_of_a_sure_and_right_classifier_is_0() -> None:
    marks = torch.tensor([[[0.0, 1.0]]])

    assert step_loss((marks * 2 - 1) * 50, marks).item() == pytest.approx(0)
    assert step_loss(torch.zeros(1, 1, 2), marks).item() == pytest.approx(2 * np.log(2))


def test_the_classifier_starts_with_rare_actions() -> None:
    logits = StepClassifier(8, 3)(torch.zeros(2, 8, 4))

    assert logits.shape == (2, 4, 3)
    torch.testing.assert_close(logits.sigmoid(), torch.full((2, 4, 3), 0.05))


def test_both_are_used_in_a_run_and_the_classifier_is_in_no_weights(tmp_path: Path) -> None:
    make_set(tmp_path)
    job = job_of(tmp_path, tmp_path / "run", epochs=1, random_start="motion", step_loss_weight=1.0)

    train(job, Processes())

    state = load_checkpoint(tmp_path / "run" / "model.safetensors").state
    assert state.keys() == build(RECIPE).state_dict().keys()
    filters = state["backbone.patch_embed.proj.weight"]
    torch.testing.assert_close(filters[:, :, 0], -filters[:, :, 1], rtol=0, atol=0.01)
    assert all(line["step_loss"] > 0 for line in read_metrics(tmp_path / "run") if line["kind"] == "step")
