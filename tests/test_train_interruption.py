"""Real processes: killed in the middle of writing a checkpoint, and two that train as one, on one machine or two."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tallformer_infer.config import Recipe, to_json
from tallformer_infer.files import TEMPORARY
from tallformer_training.checkpoint import load_checkpoint
from tallformer_training.loop import EncoderStageConfig, OptimiserConfig, TrainingConfig
from tallformer_training.loop.checkpoints import FOLDER, checkpoint_folders, load_state
from tallformer_training.loop.encoder_stage import FOLDER as ENCODER_FOLDER
from tallformer_training.loop.record import read_metrics
from tallformer_training.memory import Memory
from tallformer_training.model import Detector
from tallformer_training.schedule import ScheduleConfig
from tests.training_set import CONFIG, RECIPE, STILL, make_set

KILLS = 3
TIMEOUT_S = 120
TWO_PROCESSES = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")

# Two processes sum the same numbers in another order. Seen after 3 steps of SGD: entries differ by up to 8e-6 (a
# running variance), while weights moved by up to 7e-3 in the last step alone.
TOGETHER = {"rtol": 1e-4, "atol": 2e-6}
TOGETHER_CONFIG = replace(
    CONFIG,
    windows_per_video=4,
    epochs=1,
    optimiser=OptimiserConfig(base_lr=0.05),
    schedule=ScheduleConfig(warmup_steps=0),
    memory_dtype="float32",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    make_set(path)
    return path


def command(
    folder: Path, out: Path, config: TrainingConfig, recipe: Recipe, *, launcher: Sequence[str] = ()
) -> list[str]:
    """The command line of a run."""
    files = {}
    for name, value in (("config", config), ("recipe", recipe)):
        files[name] = folder / f"{out.name}-{name}.json"
        files[name].write_text(json.dumps(to_json(value)))
    return [
        sys.executable,
        *launcher,
        *("-m", "tallformer_training"),
        *("--annotations", str(folder / "annotations.json"), "--videos", str(folder / "videos")),
        *("--recipe", str(files["recipe"]), "--config", str(files["config"])),
        *("--cache", str(folder / "cache"), "--out", str(out), "--device", "cpu", "--quiet"),
    ]


def run(arguments: list[str]) -> None:
    done = subprocess.run(arguments, env=environment(), capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stderr


def environment() -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1"}


def kill_while_writing(arguments: list[str], out: Path) -> bool:
    """Start the run and kill it when it has begun to write a checkpoint; False where it was too fast to be caught."""
    process = subprocess.Popen(arguments, env=environment(), stderr=subprocess.PIPE, text=True)
    before = len(checkpoint_folders(out))
    deadline = time.monotonic() + TIMEOUT_S
    try:
        while process.poll() is None and time.monotonic() < deadline:
            # Not the very first one: there must be one before it that stays usable.
            if (before or checkpoint_folders(out)) and any((out / FOLDER).glob(f"{TEMPORARY}*")):
                process.send_signal(signal.SIGKILL)
                process.wait()
                return any((out / FOLDER).glob(f"{TEMPORARY}*"))
            time.sleep(0.0005)
    finally:
        process.kill()
        _, errors = process.communicate()
    assert process.returncode == 0, errors
    return False


def test_a_run_killed_while_it_writes_checkpoints_ends_with_the_same_weights(folder: Path, tmp_path: Path) -> None:
    config = replace(CONFIG, epochs=6, checkpoint_every_steps=1)
    run(command(folder, tmp_path / "whole", config, RECIPE))
    out = tmp_path / "killed"
    arguments = command(folder, out, config, RECIPE)

    caught = 0
    for _ in range(KILLS):
        caught += kill_while_writing([*arguments, *(["--resume"] if out.exists() else [])], out)
        for checkpoint in checkpoint_folders(out):
            load_state(checkpoint)
    if not (out / "model.safetensors").exists():
        run([*arguments, "--resume"])

    assert caught
    whole, killed = (load_checkpoint(path / "model.safetensors").state for path in (tmp_path / "whole", out))
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    steps = [line["step"] for line in read_metrics(out) if line["kind"] == "step"]
    assert steps == list(range(1, 19))
    assert not any((out / FOLDER).glob(f"{TEMPORARY}*"))


@pytest.mark.parametrize("accumulation", [1, 2])
def test_two_processes_learn_what_one_learns_with_twice_the_batch(
    folder: Path, tmp_path: Path, accumulation: int
) -> None:
    one = replace(TOGETHER_CONFIG, accumulation=accumulation, batch_windows=4 // accumulation)
    two = replace(one, batch_windows=2 // accumulation)

    run(command(folder, tmp_path / "one", one, STILL))
    run(command(folder, tmp_path / "two", two, STILL, launcher=TWO_PROCESSES))

    expected, found = (load_state(checkpoint_folders(tmp_path / name)[-1]).weights for name in ("one", "two"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **TOGETHER, msg=lambda text, at=name: f"{at}: {text}")
    moved = load_state(checkpoint_folders(tmp_path / "one")[0]).weights
    assert max((moved[name] - expected[name]).abs().max().item() for name in expected if "weight" in name) > 1e-3
    losses = [
        [line["loss"] for line in read_metrics(tmp_path / name) if line["kind"] == "step"] for name in ("one", "two")
    ]
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)
    memories = [
        Memory.open(next((tmp_path / name / "memory" / "machine-0").glob("step-000000003-*")))
        for name in ("one", "two")
    ]
    torch.testing.assert_close(
        torch.from_numpy(memories[1].rows.copy()), torch.from_numpy(memories[0].rows.copy()), rtol=1e-4, atol=1e-5
    )
    assert (memories[0].written == memories[1].written).all()


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def test_two_machines_learn_what_one_process_learns_and_each_keeps_the_whole_memory(
    folder: Path, tmp_path: Path
) -> None:
    one = replace(TOGETHER_CONFIG, batch_windows=4)
    two = replace(one, batch_windows=2)
    address = f"--master-addr=127.0.0.1 --master-port={free_port()}".split()

    run(command(folder, tmp_path / "one", one, STILL))
    machines = [
        subprocess.Popen(
            command(
                folder,
                tmp_path / "two",
                two,
                STILL,
                launcher=("-m", "torch.distributed.run", "--nnodes=2", f"--node-rank={rank}", *address),
            ),
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    errors = [machine.communicate(timeout=TIMEOUT_S)[1] for machine in machines]

    assert [machine.returncode for machine in machines] == [0, 0], errors
    expected, found = (load_state(checkpoint_folders(tmp_path / name)[-1]).weights for name in ("one", "two"))
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **TOGETHER, msg=lambda text, at=name: f"{at}: {text}")
    memories = [
        Memory.open(next((tmp_path / name / "memory" / machine).glob("step-000000003-*"))).rows
        for name, machine in (("one", "machine-0"), ("two", "machine-0"), ("two", "machine-1"))
    ]
    for rows in memories[1:]:
        torch.testing.assert_close(
            torch.from_numpy(rows.copy()), torch.from_numpy(memories[0].copy()), rtol=1e-4, atol=1e-5
        )


def test_two_processes_teach_the_encoder_what_one_does_with_twice_the_clips(folder: Path, tmp_path: Path) -> None:
    backbone = replace(STILL.model.backbone, stem="motion", pooling="max")
    recipe = replace(STILL, model=replace(STILL.model, backbone=backbone))
    optimiser = OptimiserConfig(base_lr=0.05)
    stage = EncoderStageConfig(steps=3, batch_clips=4, optimiser=optimiser, warmup_steps=0)
    one = replace(CONFIG, epochs=1, batch_windows=4, encoder_stage=stage)
    two = replace(one, batch_windows=2, encoder_stage=replace(stage, batch_clips=2))

    run(command(folder, tmp_path / "one", one, recipe))
    run(command(folder, tmp_path / "two", two, recipe, launcher=TWO_PROCESSES))

    expected, found = (
        load_state(checkpoint_folders(tmp_path / name / ENCODER_FOLDER)[-1]).weights for name in ("one", "two")
    )
    torch.manual_seed(one.seed)
    fresh = Detector(recipe).state_dict()
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], **TOGETHER, msg=lambda text, at=name: f"{at}: {text}")
    moved = [name for name in expected if name.startswith("backbone.") and "weight" in name]
    assert max((fresh[name] - expected[name]).abs().max().item() for name in moved) > 1e-3
