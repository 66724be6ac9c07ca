"""An encoder that starts from nothing learns alone first, from single clips."""

from __future__ import annotations

import itertools
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tallformer_infer.config import Recipe
from tallformer_infer.console import make_speaker
from tallformer_infer.errors import ConfigError
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.loop import EncoderStageConfig, Processes, TrainingJob, train
from tallformer_training.loop.checkpoints import checkpoint_folders, load_state, save_state
from tallformer_training.loop.encoder_stage import FOLDER, ClipDrawer
from tallformer_training.loop.job import prepare
from tallformer_training.loop.record import read_metrics
from tallformer_training.loop.running import MODEL_FILE
from tallformer_training.loop.step_classifier import StepClassifier, step_labels, step_loss
from tallformer_training.model import Detector
from tests.small_detector import build
from tests.training_set import RECIPE, job_of, make_set

pytestmark = pytest.mark.usefixtures("one_thread")

STAGE = EncoderStageConfig(steps=5, batch_clips=3, warmup_steps=2)
MOTION: Recipe = replace(
    RECIPE,
    model=replace(
        RECIPE.model, backbone=replace(RECIPE.model.backbone, stem="motion", pooling="max", frozen_stages=-1)
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("set")
    make_set(folder)
    return folder


def job_with_stage(folder: Path, out: Path, **changes: object) -> TrainingJob:
    return job_of(folder, out, **{"recipe": MOTION, "epochs": 1, "encoder_stage": STAGE, **changes})


def encoder_of(weights: Path) -> dict[str, torch.Tensor]:
    state = load_checkpoint(weights).state
    return {name: value for name, value in state.items() if name.startswith("backbone.")}


def test_the_detector_goes_on_with_the_encoder_of_the_stage(folder: Path, tmp_path: Path) -> None:
    job = job_with_stage(folder, tmp_path / "run", ratio=0.0)  # the detector's steps leave the encoder alone

    train(job, Processes())

    last = sorted((job.out / FOLDER / "checkpoints").iterdir())[-1]
    learned, used = encoder_of(last / "weights.safetensors"), encoder_of(job.out / MODEL_FILE)
    torch.manual_seed(job.config.seed)
    fresh = Detector(MOTION).state_dict()
    assert last.name == "step-000000005"
    assert all(torch.equal(learned[name], used[name]) for name in learned if "running" not in name)
    assert any(not torch.equal(learned[name], fresh[name]) for name in learned)


def test_the_stage_has_a_record_of_its_own(folder: Path, tmp_path: Path) -> None:
    job = job_with_stage(folder, tmp_path / "run")

    train(job, Processes())

    lines = read_metrics(job.out / FOLDER)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5]
    assert all(line["kind"] == "encoder_step" and line["loss"] > 0 for line in lines)
    assert {line["kind"] for line in read_metrics(job.out)} == {"memory", "step"}


@pytest.mark.parametrize("stop_after", [1, 3])
def test_a_stage_that_is_interrupted_gives_the_same_weights(folder: Path, tmp_path: Path, stop_after: int) -> None:
    whole = job_with_stage(folder, tmp_path / "whole")
    train(whole, Processes())
    calls = itertools.count(1)
    pieces = job_with_stage(folder, tmp_path / "pieces")

    stopped = train(pieces, Processes(), until=lambda: next(calls) >= stop_after)
    ended = train(replace(pieces, resume=True), Processes())

    assert not stopped.is_finished
    assert stopped.steps == 0
    assert ended.is_finished
    expected, found = load_checkpoint(whole.out / MODEL_FILE).state, load_checkpoint(pieces.out / MODEL_FILE).state
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_a_stage_does_not_go_on_with_another_number_of_processes(folder: Path, tmp_path: Path) -> None:
    job = job_with_stage(folder, tmp_path / "run")
    train(job, Processes(), until=lambda: True)
    (written,) = checkpoint_folders(job.out / FOLDER)
    state = load_state(written)
    shutil.rmtree(written)
    of_two = replace(state, random=[*state.random, state.random[0].clone()], snapshots=[None, None])
    save_state(job.out / FOLDER, of_two, MOTION, provenance={"trained": True})

    with pytest.raises(ConfigError, match="step-000000001: written by 2 processes, this run has 1"):
        train(replace(job, resume=True), Processes())


def test_a_run_from_a_checkpoint_has_no_stage(folder: Path, tmp_path: Path) -> None:
    train(job_with_stage(folder, tmp_path / "first", encoder_stage=None), Processes())

    job = job_with_stage(folder, tmp_path / "second", start=tmp_path / "first" / MODEL_FILE)
    train(job, Processes())

    assert not (job.out / FOLDER).exists()


def test_clips_of_a_step_depend_on_seed_and_step_alone(folder: Path, tmp_path: Path) -> None:
    job = job_with_stage(folder, tmp_path / "run")
    learned, _ = prepare(job, Processes(), make_speaker(quiet=True))
    one, two = (ClipDrawer(job, learned, Processes(rank=rank, count=2)) for rank in (0, 1))

    again = ClipDrawer(job, learned, Processes()).draw(4)

    assert torch.equal(one.draw(4).clips, again.clips)
    assert not torch.equal(two.draw(4).clips, again.clips)
    assert not torch.equal(one.draw(5).clips, again.clips)


def test_mirrored_clips_have_mirrored_labels(folder: Path, tmp_path: Path) -> None:
    base = job_with_stage(folder, tmp_path / "run")

    def marks(flip: float) -> torch.Tensor:
        augmentation = replace(base.config.augmentation, flip=flip, mirrored_classes=(("run", "run left"),))
        job = replace(
            base, config=replace(base.config, augmentation=augmentation, encoder_stage=replace(STAGE, batch_clips=30))
        )
        learned, _ = prepare(job, Processes(), make_speaker(quiet=True))
        return ClipDrawer(job, learned, Processes()).draw(0).marks

    plain, flipped = marks(0.0), marks(1.0)

    assert plain[..., 0].sum() > 0
    assert torch.equal(plain[..., [2, 1, 0]], flipped)


def test_batch_norms_of_the_encoder_can_be_kept(folder: Path, tmp_path: Path) -> None:
    job = job_with_stage(folder, tmp_path / "run", ratio=1.0, keep_encoder_norms=True, ema_decay=None)

    train(job, Processes())

    last = sorted((job.out / FOLDER / "checkpoints").iterdir())[-1]
    learned, used = encoder_of(last / "weights.safetensors"), encoder_of(job.out / MODEL_FILE)
    running = [name for name in learned if "running" in name]
    assert running
    assert all(torch.equal(learned[name], used[name]) for name in running)
    assert any(not torch.equal(learned[name], used[name]) for name in learned)


@pytest.mark.parametrize("name", ["steps", "batch_clips"])
def test_a_stage_without_steps_or_clips_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"encoder_stage: {name}=0 must be at least 1"):
        replace(STAGE, **{name: 0})


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


def test_the_classifier_is_in_no_weights(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, tmp_path / "run", epochs=1, step_loss_weight=1.0)

    train(job, Processes())

    assert load_checkpoint(job.out / MODEL_FILE).state.keys() == build(RECIPE).state_dict().keys()
    assert all(line["step_loss"] > 0 for line in read_metrics(job.out) if line["kind"] == "step")
