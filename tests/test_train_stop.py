"""Ctrl-C while training: a checkpoint, the command that continues, and the same weights in the end."""

from __future__ import annotations

import os
import shlex
import signal
import time
from pathlib import Path

import pytest
import torch

from tallformer_infer.cli import run
from tallformer_infer.stopping import install_stop_handler
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.commands.train import StopBetweenSteps
from tallformer_training.loop.checkpoints import checkpoint_folders
from tallformer_training.loop.stepping import Stepper
from tests.training_set import make_set, train_arguments, write_settings

pytestmark = [
    pytest.mark.usefixtures("one_thread"),
    pytest.mark.skipif(os.name != "posix", reason="needs the signals of POSIX"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("a set")
    make_set(path)
    write_settings(path)
    return path


@pytest.fixture
def handlers():
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    install_stop_handler()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def signal_in_step(monkeypatch: pytest.MonkeyPatch, *numbers: int, step: int) -> None:
    """Have signals come in the middle of a step, more than a second apart."""
    real = Stepper.step

    def step_with_signals(self: Stepper, *arguments: object, **options: object) -> object:
        if options["step"] == step:
            monkeypatch.setattr(Stepper, "step", real)
            for number in numbers:
                os.kill(os.getpid(), number)
                time.sleep(1.05 if len(numbers) > 1 else 0)
        return real(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Stepper, "step", step_with_signals)


@pytest.mark.usefixtures("handlers")
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_ctrl_c_saves_the_step_and_the_command_that_it_prints_continues_with_the_same_weights(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    number: int,
    code: int,
) -> None:
    assert run([*train_arguments(folder, tmp_path / "whole"), "--quiet"]) == 0
    signal_in_step(monkeypatch, number, step=2)

    assert run(train_arguments(folder, tmp_path / "stopped")) == code

    told = capsys.readouterr().err
    assert "stopping after this step, with a checkpoint (Ctrl-C again: at once)" in told
    assert [path.name for path in checkpoint_folders(tmp_path / "stopped")] == ["step-000000002", "step-000000003"]
    (command,) = [line for line in told.splitlines() if line.startswith("tallformer: to continue: ")]
    program, *arguments = shlex.split(command.removeprefix("tallformer: to continue: "))
    assert (program, arguments[-1]) == ("tallformer", "--resume")

    install_stop_handler()
    assert run([*arguments, "--quiet"]) == 0

    whole, stopped = (load_checkpoint(tmp_path / name / "model.safetensors").state for name in ("whole", "stopped"))
    assert all(torch.equal(whole[name], stopped[name]) for name in whole)


@pytest.mark.usefixtures("handlers")
def test_ctrl_c_twice_stops_at_once_and_still_names_the_command(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_in_step(monkeypatch, signal.SIGINT, signal.SIGINT, step=3)

    assert run(train_arguments(folder, tmp_path / "run")) == 130

    told = capsys.readouterr().err
    assert "to continue: tallformer train --annotations" in told
    assert [path.name for path in checkpoint_folders(tmp_path / "run")] == ["step-000000002"]  # the last regular one


@pytest.mark.usefixtures("handlers")
def test_ctrl_c_before_the_first_step_stops_at_once(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    signal_in_step(monkeypatch, signal.SIGINT, step=0)

    assert run(train_arguments(folder, tmp_path / "run")) == 130

    assert "stopping after this step" not in capsys.readouterr().err
    assert checkpoint_folders(tmp_path / "run") == []


@pytest.mark.usefixtures("handlers")
def test_signals_of_one_stop_are_one() -> None:
    """`timeout` and torchrun signal a process and its group."""
    told: list[None] = []
    with StopBetweenSteps(lambda: told.append(None)) as stop:
        assert not stop()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop()

    assert len(told) == 1
    with pytest.raises(KeyboardInterrupt):
        stop.raise_again()
