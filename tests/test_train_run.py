"""Whole runs: what they leave behind, both ends of r, and going on as if nothing had happened."""

from __future__ import annotations

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tallformer_infer.console import make_speaker
from tallformer_infer.errors import AnnotationError, CheckpointError, ConfigError
from tallformer_training.augmentation import AugmentationConfig
from tallformer_training.checkpoint import load_checkpoint, load_detector
from tallformer_training.loop import Processes, TrainingJob, TrainingResult, train
from tallformer_training.loop.beginning import make_detector
from tallformer_training.loop.checkpoints import checkpoint_folders
from tallformer_training.loop.record import read_metrics
from tallformer_training.memory import Memory
from tallformer_training.schedule import ScheduleConfig
from tests.training_set import CONFIG, RECIPE, job_of, make_set

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Videos and annotations."""
    path = tmp_path_factory.mktemp("set")
    make_set(path)
    return path


@pytest.fixture(scope="module")
def whole(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without interruption, measured on its own videos."""
    out = tmp_path_factory.mktemp("whole") / "run"
    job = job_of(folder, out)
    train(replace(job, validation=replace(job.training, videos=make_copy(folder))), Processes())
    return out


def make_copy(folder: Path) -> Path:
    copy = folder / "copy"
    if not copy.exists():
        shutil.copytree(folder / "videos", copy)
    return copy


def steps(count: int) -> Any:
    """Says stop after `count` steps."""
    left = iter([False] * (count - 1) + [True])
    return lambda: next(left)


def run(job: TrainingJob, **options: Any) -> TrainingResult:
    return train(job, Processes(), **options)


def weights(out: Path) -> dict[str, Tensor]:
    return load_checkpoint(out / "model.safetensors").state


def differences(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def losses(out: Path) -> list[float]:
    return [line["loss"] for line in read_metrics(out) if line["kind"] == "step"]


def test_a_run_leaves_weights_record_curves_and_checkpoints(whole: Path) -> None:
    detector, checkpoint = load_detector(whole / "model.safetensors")
    assert detector.recipe == RECIPE
    assert checkpoint.provenance["trained"] is True
    assert checkpoint.provenance["steps"] == 6
    assert (whole / "best.safetensors").exists()
    assert (whole / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert [path.name for path in checkpoint_folders(whole)] == ["step-000000004", "step-000000006"]
    held = {json.loads((path / "state.json").read_text())["snapshots"][0] for path in checkpoint_folders(whole)}
    assert {path.name for path in (whole / "memory" / "machine-0").glob("step-*")} == held


def test_the_record_has_a_line_for_every_step_and_validation(whole: Path) -> None:
    lines = read_metrics(whole)

    done = [line for line in lines if line["kind"] == "step"]
    assert [line["step"] for line in done] == [1, 2, 3, 4, 5, 6]
    assert all(line["loss"] > 0 and line["gradient_norm"] > 0 and line["step_s"] > 0 for line in done)
    assert done[0]["memory_age_max_steps"] == 1  # rows from before the first step
    assert done[-1]["memory_age_max_steps"] >= done[0]["memory_age_max_steps"]
    (validation,) = (line for line in lines if line["kind"] == "validation")
    assert validation["epoch"] == 2
    assert 0 <= validation["average_map"] <= 1
    assert set(validation["average_precision_per_class"]) == {"run", "jump"}


@pytest.mark.parametrize("stop", [1, 3, 5])
def test_an_interrupted_run_ends_with_the_same_weights_bit_for_bit(
    folder: Path, whole: Path, tmp_path: Path, stop: int
) -> None:
    job = job_of(folder, tmp_path / "run")
    job = replace(job, validation=replace(job.training, videos=make_copy(folder)))

    first = run(job, until=steps(stop))
    torch.manual_seed(99)  # what another program left behind
    second = run(replace(job, resume=True))

    assert (first.steps, first.is_finished) == (stop, False)
    assert (second.steps, second.is_finished) == (6, True)
    assert not differences(weights(whole), weights(tmp_path / "run"))
    assert losses(whole) == losses(tmp_path / "run")


def test_a_run_goes_on_from_an_older_checkpoint_with_the_same_weights(
    folder: Path, whole: Path, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / "run")
    job = job_of(folder, tmp_path / "run")
    job = replace(job, validation=replace(job.training, videos=make_copy(folder)))
    older = checkpoint_folders(tmp_path / "run")[0]

    run(replace(job, resume=True, resume_from=older))

    assert not differences(weights(whole), weights(tmp_path / "run"))
    assert losses(whole) == losses(tmp_path / "run")


def test_another_seed_gives_other_weights(folder: Path, whole: Path, tmp_path: Path) -> None:
    run(job_of(folder, tmp_path / "run", seed=11))

    assert differences(weights(whole), weights(tmp_path / "run"))


@pytest.mark.parametrize("ratio", [0.0, 1.0])
def test_both_ends_of_the_ratio_train(folder: Path, tmp_path: Path, ratio: float) -> None:
    run(job_of(folder, tmp_path / "run", ratio=ratio, epochs=1, ema_decay=None))

    fresh = weights_at_start(folder, tmp_path)
    changed = differences(fresh, weights(tmp_path / "run"))
    assert any(name.startswith("head.") for name in changed)
    assert any(name.startswith("backbone.") for name in changed) is (ratio > 0)
    rows = [line["memory_rows"] for line in read_metrics(tmp_path / "run") if line["kind"] == "step"]
    assert all(rows) if ratio == 0 else not any(rows)


def weights_at_start(folder: Path, tmp_path: Path) -> dict[str, Tensor]:
    job = job_of(folder, tmp_path / "unused")
    return dict(make_detector(job, Processes(), make_speaker(quiet=True)).state_dict())


def test_frozen_weights_and_their_memory_stay_as_they_are(folder: Path, tmp_path: Path) -> None:
    run(job_of(folder, tmp_path / "run", ratio=0.0, epochs=1))

    base = Memory.open(tmp_path / "run" / "memory" / "base")
    (snapshot,) = (tmp_path / "run" / "memory" / "machine-0").glob("step-000000003-*")
    assert (base.rows == Memory.open(snapshot).rows).all()


def test_the_first_memory_is_what_the_encoder_says(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, tmp_path / "run", epochs=1)
    zeros = job_of(folder, tmp_path / "zeros", epochs=1, memory_start="zeros")
    run(job)
    run(zeros)

    memory = Memory.open(tmp_path / "run" / "memory" / "base")
    assert memory.manifest.videos["one"].steps == 10 * RECIPE.clip_steps  # 150 frames are 10 clips
    assert memory.rows.any(axis=1).all()
    assert not Memory.open(tmp_path / "zeros" / "memory" / "base").rows.any()


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": "stratified"},
        {"accumulation": 2, "step_loss_weight": 0.5},
        {"checkpointing": True},
        {"precision": "bf16"},
        {"precision": "fp16"},
        {"memory_dtype": "float32", "smooth_schedule": True},
        {"augmentation": AugmentationConfig(flip=0.5, mirrored_classes=(("run", "run left"),))},
    ],
    ids=str,
)
def test_every_setting_trains_and_goes_on_where_it_stopped(
    folder: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    run(job_of(folder, tmp_path / "whole", **changes))
    run(job_of(folder, tmp_path / "parts", **changes), until=steps(1))
    run(job_of(folder, tmp_path / "parts", resume=True, **changes))

    assert not differences(weights(tmp_path / "whole"), weights(tmp_path / "parts"))


def test_decoding_each_time_gives_the_same_weights_as_the_cache(folder: Path, tmp_path: Path) -> None:
    run(job_of(folder, tmp_path / "cache", epochs=1))
    run(job_of(folder, tmp_path / "decoder", epochs=1, use_cache=False))

    assert not differences(weights(tmp_path / "cache"), weights(tmp_path / "decoder"))


def test_checkpointing_does_not_change_the_weights(folder: Path, tmp_path: Path) -> None:
    for name, checkpointing in (("kept", False), ("again", True)):
        run(job_of(folder, tmp_path / name, epochs=1, checkpointing=checkpointing))

    assert not differences(weights(tmp_path / "kept"), weights(tmp_path / "again"))


def test_training_starts_from_a_checkpoint_and_makes_new_classes_anew(folder: Path, tmp_path: Path) -> None:
    run(job_of(folder, tmp_path / "first", epochs=1))
    start = tmp_path / "first" / "model.safetensors"
    more = replace(RECIPE, classes=(*RECIPE.classes, "sit"))

    run(job_of(folder, tmp_path / "same", start=start), until=steps(1))
    run(job_of(folder, tmp_path / "more", start=start, recipe=more), until=steps(1))

    assert not torch.equal(
        weights(tmp_path / "same")["head.retina_cls.weight"], weights(start.parent)["head.retina_cls.weight"]
    )
    assert len(weights(tmp_path / "more")["head.retina_cls.weight"]) == 5 * 4
    wider = replace(RECIPE, model=replace(RECIPE.model, channels=64))
    with pytest.raises(CheckpointError, match="made for another recipe"):
        run(job_of(folder, tmp_path / "wider", start=start, recipe=wider))


def test_a_folder_with_a_run_is_not_overwritten(folder: Path, whole: Path) -> None:
    with pytest.raises(ConfigError, match="contains a run already; continue it"):
        run(job_of(folder, whole))


def test_going_on_with_other_settings_is_refused_and_with_more_epochs_is_not(folder: Path, tmp_path: Path) -> None:
    run(job_of(folder, tmp_path / "run", epochs=1))

    with pytest.raises(ConfigError, match=r"started with other training\.batch_windows, training\.seed; continue"):
        run(job_of(folder, tmp_path / "run", seed=1, batch_windows=1, resume=True))
    with pytest.raises(ConfigError, match="started with other recipe"):
        run(job_of(folder, tmp_path / "run", recipe=replace(RECIPE, name="other"), resume=True))
    assert run(job_of(folder, tmp_path / "run", epochs=2, resume=True)).steps == 6


def test_few_videos_are_passed_more_often_to_reach_the_least_number_of_steps(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    first = run(job_of(folder, out, epochs=1, least_steps=4), until=steps(4))
    assert not first.is_finished  # 3 steps per epoch

    assert run(job_of(folder, out, epochs=1, least_steps=4, resume=True)).steps == 6
    assert json.loads((out / "run.json").read_text())["training"]["least_steps"] == 4  # as requested


def test_a_run_of_an_earlier_version_has_the_defaults_of_later_settings(folder: Path, tmp_path: Path) -> None:
    run(job_of(folder, tmp_path / "run", epochs=1), until=steps(1))
    path = tmp_path / "run" / "run.json"
    record = json.loads(path.read_text())
    del record["training"]["least_part"]
    path.write_text(json.dumps(record))

    assert run(job_of(folder, tmp_path / "run", epochs=1, resume=True)).is_finished
    with pytest.raises(ConfigError, match=r"started with other training\.least_part"):
        run(job_of(folder, tmp_path / "run", epochs=1, least_part=0.5, resume=True))


def test_the_number_of_epochs_cannot_change_where_the_learning_rate_falls_over_all(
    folder: Path, tmp_path: Path
) -> None:
    job = job_of(folder, tmp_path / "run", epochs=1, least_steps=2, schedule=ScheduleConfig(period_epochs=1))
    run(job, until=steps(1))

    asked = replace(job, config=replace(job.config.lasting(3), least_steps=0), resume=True)
    with pytest.raises(ConfigError, match=r"the learning rate falls over all epochs of the run, .* \(--init\)"):
        run(asked)


def test_there_is_nothing_to_go_on_with_in_an_empty_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no run to continue"):
        run(job_of(folder, tmp_path / "run", resume=True))


def test_a_damaged_checkpoint_is_named_and_the_one_before_works(folder: Path, whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, tmp_path / "run")
    before, last = checkpoint_folders(tmp_path / "run")
    file = last / "state.safetensors"
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    job = job_of(folder, tmp_path / "run", resume=True)
    job = replace(job, validation=replace(job.training, videos=make_copy(folder)))

    with pytest.raises(CheckpointError, match=r"state\.safetensors: damaged, .* --resume-from"):
        run(job)
    run(replace(job, resume_from=before))
    assert not differences(weights(whole), weights(tmp_path / "run"))


def test_wrong_annotations_of_both_sets_are_reported_before_anything_is_made(folder: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.json"
    wrong.write_text('{"database": {"one": {"annotations": [{"segment": [2, 1], "label": "run"}]}}}')
    job = job_of(folder, tmp_path / "run", cache=tmp_path / "cache")
    bad = replace(job.training, annotations=wrong)

    with pytest.raises(AnnotationError) as raised:
        run(replace(job, training=bad, validation=bad))

    assert len(str(raised.value).splitlines()) == 2
    assert not (tmp_path / "cache").exists()


def test_a_video_in_both_sets_is_refused(folder: Path, tmp_path: Path) -> None:
    job = job_of(folder, tmp_path / "run")

    with pytest.raises(AnnotationError, match="3 videos are in training and validation"):
        run(replace(job, validation=job.training))


def test_the_learning_rate_follows_its_schedule(whole: Path) -> None:
    rates = [line["learning_rate"] for line in read_metrics(whole) if line["kind"] == "step"]

    assert rates[0] == pytest.approx(1e-4)  # a tenth at the start of the warm-up
    assert all(later > earlier for earlier, later in itertools.pairwise(rates[:3]))
    assert CONFIG.schedule.warmup_steps > len(rates)
