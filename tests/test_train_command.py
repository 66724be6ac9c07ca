"""`tallformer train` as users meet it."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallformer_infer.cli import run
from tallformer_infer.config import Recipe, preset, recipe_from_json, to_json
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.commands.train import make_settings
from tallformer_training.loop import EncoderStageConfig, TrainingConfig, read_training_config
from tallformer_training.loop.encoder_stage import FOLDER as ENCODER_FOLDER
from tallformer_training.loop.record import read_metrics
from tallformer_training.memory.bank import ROWS_FILE
from tests.training_set import CONFIG, RECIPE, make_set, train_arguments, write_settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    make_set(path)
    write_settings(path)
    return path


def test_a_run_says_what_it_does_and_where_the_weights_are(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*train_arguments(folder, tmp_path / "run"), "--epochs", "1", "--seed", "3", "--ratio", "0.25"]) == 0

    out, errors = capsys.readouterr()
    assert not out
    for part in (
        "training: 3 videos, 6 segments of 2 classes",
        "caching frames in",
        "3 steps in 1 epoch, on the CPU (1 thread)",
        "warning: training starts from random weights, which rarely works: start from a trained encoder (--init)",
        "training steps",
        "after 3 steps",
    ):
        assert part in errors
    used = json.loads((tmp_path / "run" / "run.json").read_text())["training"]
    assert (used["epochs"], used["seed"], used["ratio"]) == (1, 3, 0.25)
    assert load_checkpoint(tmp_path / "run" / "model.safetensors").recipe == RECIPE


def test_the_expected_time_is_told_after_a_few_steps(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*train_arguments(folder, tmp_path / "run"), "--epochs", "2", "--json-logs"]) == 0

    told = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (start,) = [event for event in told if event["event"] == "start"]
    assert (start["steps"], start["epochs"], start["device"], start["init"]) == (6, 2, "the CPU (1 thread)", None)
    (expected,) = [event for event in told if event["event"] == "expected"]
    assert expected["seconds_left"] == pytest.approx(2 * expected["seconds_per_step"])  # after 4 of 6 steps
    assert re.match(r"about a minute left for 2 steps of [\d.]+ s, without validation$", expected["message"])


def test_mirrored_classes_can_be_named_on_the_command_line(folder: Path, tmp_path: Path) -> None:
    command = [*train_arguments(folder, tmp_path / "run"), "--epochs", "1", "--quiet"]

    assert run([*command, "--mirrored", "run = run left"]) == 0

    assert used_settings(tmp_path / "run")["augmentation"]["mirrored_classes"] == [["run", "run left"]]


def test_a_precision_on_the_command_line_is_that_of_the_memory(folder: Path, tmp_path: Path) -> None:
    memories = []
    for precision in ("fp32", "bf16"):
        out = tmp_path / precision
        assert run([*train_arguments(folder, out), "--epochs", "1", "--quiet", "--precision", precision]) == 0
        assert used_settings(out)["precision"] == precision
        memories.append(np.fromfile(out / "memory" / "base" / ROWS_FILE, np.float16).astype(np.float32))

    difference = np.abs(memories[1] - memories[0]).max()
    assert 0 < difference < 0.05 * np.abs(memories[0]).max()


def test_an_unknown_precision_is_refused(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*train_arguments(folder, tmp_path / "run"), "--precision", "int8"]) == 2

    assert "--precision int8: expected one of fp32, bf16, fp16" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_quiet_says_nothing(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*train_arguments(folder, tmp_path / "run"), "--epochs", "1", "--quiet"]) == 0

    assert capsys.readouterr() == ("", "")


def test_the_same_command_twice_is_refused_and_with_resume_goes_on(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = train_arguments(folder, tmp_path / "run")
    assert run([*command, "--epochs", "1"]) == 0

    assert run([*command, "--epochs", "2"]) == 1
    assert "contains a run already; continue it (--resume)" in capsys.readouterr().err
    assert run([*command, "--epochs", "2", "--resume"]) == 0
    assert [line["step"] for line in read_metrics(tmp_path / "run") if line["kind"] == "step"] == [1, 2, 3, 4, 5, 6]


def test_every_problem_of_the_annotations_is_a_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.json"
    rows = [
        {"segment": [2, 1], "label": "run"},
        {"segment": [0, 900], "label": "run"},
        {"segment": [0, 1], "label": "?"},
    ]
    wrong.write_text(json.dumps({"database": {"one": {"annotations": rows}, "gone": {"annotations": []}}}))
    command = train_arguments(folder, tmp_path / "run")
    command[command.index("--annotations") + 1] = str(wrong)

    assert run(command) == 1

    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 5
    assert all(line.startswith(f"tallformer: error: {wrong}: database.") for line in lines[:4])
    assert lines[4] == "tallformer: 4 problems; nothing was trained"


@pytest.mark.parametrize("mistake", ["--annotations", "--init"])
def test_a_run_that_could_not_begin_leaves_the_folder_to_the_next(folder: Path, tmp_path: Path, mistake: str) -> None:
    command = [*train_arguments(folder, tmp_path / "run"), "--epochs", "1", "--quiet"]
    (tmp_path / "wrong").write_text("{}")

    assert run([*command, mistake, str(tmp_path / "wrong")]) == 1

    assert run(command) == 0


def test_suggest_prints_a_recipe_that_can_be_read_back(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--suggest", "--annotations", str(folder / "annotations.json"), "--recipe", "tiny"]) == 0

    out, errors = capsys.readouterr()
    recipe: Recipe = recipe_from_json(json.loads(out))
    assert recipe.classes == ("jump", "run")
    assert "6 segments of 2 classes in 3 videos" in errors
    assert "frame rate" in errors


def test_suggest_gives_the_encoder_of_the_recipe_it_is_told_to(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["train", "--suggest", "--annotations", str(folder / "annotations.json"), "--recipe", "demo"]) == 0

    recipe = recipe_from_json(json.loads(capsys.readouterr().out))
    assert recipe.classes == ("jump", "run")
    assert recipe.model.backbone == preset("demo").model.backbone


def used_settings(out: Path) -> dict[str, Any]:
    settings: dict[str, Any] = json.loads((out / "run.json").read_text())["training"]
    return settings


def test_an_encoder_can_be_told_to_learn_alone_first(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"

    assert run([*train_arguments(folder, out), "--epochs", "1", "--encoder-steps", "2", "--quiet"]) == 0

    assert [line["step"] for line in read_metrics(out / ENCODER_FOLDER)] == [1, 2]
    assert used_settings(out)["encoder_stage"] == to_json(EncoderStageConfig(steps=2))


@pytest.mark.parametrize(
    ("steps", "expected"), [("3", EncoderStageConfig(steps=3, batch_clips=2, warmup_steps=1)), ("0", None)]
)
def test_encoder_steps_change_the_stage_of_the_settings_or_leave_it_out(
    folder: Path, tmp_path: Path, steps: str, expected: EncoderStageConfig | None
) -> None:
    stage = EncoderStageConfig(steps=2, batch_clips=2, warmup_steps=1)
    (tmp_path / "config.json").write_text(json.dumps(to_json(replace(CONFIG, encoder_stage=stage))))
    options = ["--config", str(tmp_path / "config.json"), "--epochs", "1", "--encoder-steps", steps, "--quiet"]

    assert run([*train_arguments(folder, tmp_path / "run"), *options]) == 0

    assert used_settings(tmp_path / "run")["encoder_stage"] == (None if expected is None else to_json(expected))
    assert (tmp_path / "run" / ENCODER_FOLDER).exists() is (expected is not None)


def test_epochs_that_were_asked_for_are_not_prolonged(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(to_json(replace(CONFIG, least_steps=500))))
    options: Any = {"recipe": str(tmp_path / "recipe.json"), "ratio": None, "seed": None, "encoder_steps": None}

    asked, default = (make_settings(tmp_path / "config.json", epochs=epochs, **options) for epochs in (3, None))

    assert (asked.epochs, asked.least_steps, default.least_steps) == (3, 0, 500)


def test_the_number_format_is_that_of_the_encoder_stage_too() -> None:
    options: Any = {"recipe": "demo", "epochs": None, "ratio": None, "seed": None}

    settings = make_settings(None, **options, encoder_steps=3, precision="bf16")

    assert settings.encoder_stage is not None
    assert (settings.precision, settings.encoder_stage.precision) == ("bf16", "bf16")


def test_help_names_the_defaults_of_the_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--help"]) == 0

    shown = re.sub(r"[│\s]+", " ", capsys.readouterr().out)
    default = TrainingConfig()
    for text in (
        f"Passes over the videos (default: {default.epochs};",
        f"0: frozen encoder. (default: {default.ratio};",
        f"Random seed (default: {default.seed};",
    ):
        assert text in shown


@pytest.mark.parametrize(
    ("wrong", "code", "message"),
    [
        (["--recipe", "nonsense"], 1, "nonsense: no such recipe"),
        (["--epochs", "0"], 1, "epochs=0 must be at least 1"),
        (["--ratio", "2"], 1, r"ratio=2.0 must be in [0, 1]"),
        (["--device", "abacus"], 1, "device abacus: expected cpu, cuda or auto"),
        (["--val-subset", "testing"], 2, "--val-videos and --val-subset need --val-annotations"),
        (["--init", "none.safetensors"], 1, "none.safetensors"),
        (["--subset", "testing"], 1, "has no subset testing; it has training (3 videos)"),
        (["--config", "none.json"], 1, "none.json: no such file"),
        (["--encoder-steps", "-1"], 2, "--encoder-steps"),
        (["--encoder-steps", "2", "--init", "a.safetensors"], 2, "--encoder-steps trains a random encoder"),
        (
            ["--encoder-steps", "2", "--recipe", "thumos14-swin-t"],
            2,
            "thumos14-swin-t: frozen_stages=2 freezes the first",
        ),
    ],
)
def test_a_wrong_option_is_one_line(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], wrong: list[str], code: int, message: str
) -> None:
    assert run([*train_arguments(folder, tmp_path / "run"), "--quiet", *wrong]) == code

    assert message in capsys.readouterr().err


def test_what_a_run_needs_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["train", "--annotations", str(folder / "annotations.json")]) == 2

    assert "--videos, --recipe, --out: missing; only --suggest works without them" in capsys.readouterr().err


def test_settings_are_read_back_as_written_and_unknown_ones_refused(tmp_path: Path) -> None:
    config = replace(CONFIG, ratio=0.4)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(to_json(config)))
    assert read_training_config(path) == config

    path.write_text("{}")
    assert read_training_config(path) == TrainingConfig()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"ration": 1}', r"training\.ration: no such key"),
        ('{"ratio": "1"}', r"training\.ratio: expected a number"),
        ('{"optimiser": {"kind": "lion"}}', r"training\.optimiser\.kind: expected one of sgd, adam, adamw"),
        ('{"schedule": {"period_epochs": 0}}', "period_epochs"),
        ("{", "not JSON"),
    ],
)
def test_wrong_settings_are_named(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "config.json"
    path.write_text(content)

    with pytest.raises(Exception, match=message) as raised:
        read_training_config(path)
    assert type(raised.value).__name__ == "ConfigError"
