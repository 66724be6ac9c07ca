"""`tallformer export`: what it refuses, and what it says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tallformer_infer import cli
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import preset, to_json
from tallformer_training.checkpoint import save_checkpoint
from tallformer_training.model import Detector
from tests.small_bundle import write_bundle

TINY = preset("tiny")


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, Detector(TINY).state_dict(), TINY, provenance={"trained": True})
    return path


def run(*arguments: object) -> int:
    return cli.run(["export", *map(str, arguments)])


def test_a_foreign_file_is_told_the_command_that_makes_a_checkpoint_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "w.pth")

    assert run(tmp_path / "w.pth", "--out", tmp_path / "out") == 1

    (line,) = capsys.readouterr().err.splitlines()
    imported = tmp_path / "w-imported.safetensors"
    assert line.startswith(
        f"tallformer: error: {tmp_path / 'w.pth'}: not a tallformer checkpoint but a file of torch.save"
    )
    assert line.endswith(f"tallformer import {tmp_path / 'w.pth'} --recipe NAME --out {imported}")


def test_a_text_file_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "model.safetensors").write_text("hello")

    assert run(tmp_path / "model.safetensors", "--out", tmp_path / "out") == 1
    assert "expected a safetensors file, and it begins with 'hello'" in capsys.readouterr().err


def test_a_bundle_around_the_checkpoint_is_not_replaced(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    inside = checkpoint.rename(bundle / "model.safetensors")

    assert run(inside, "--out", bundle) == 1

    assert f"{bundle}: holds {inside}, and would be replaced; choose another" in capsys.readouterr().err
    assert inside.exists()


def test_a_bundle_around_the_recipe_is_not_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = write_bundle(tmp_path / "bundle")
    (bundle / "recipe.json").write_text(json.dumps(to_json(TINY)))

    assert run(bundle / "recipe.json", "--random-weights", "0", "--out", bundle) == 1

    assert "would be replaced" in capsys.readouterr().err
    assert (bundle / "recipe.json").exists()


def test_a_checkpoint_by_the_name_of_a_zip_is_not_replaced(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = checkpoint.rename(tmp_path / "model.zip")
    before = checkpoint.read_bytes()
    (tmp_path / "hard.zip").hardlink_to(checkpoint)

    assert run(checkpoint, "--out", checkpoint) == 1
    assert "is the file to export" in capsys.readouterr().err
    assert run(checkpoint, "--out", tmp_path / "hard.zip") == 1
    assert "is what this run reads" in capsys.readouterr().err
    assert checkpoint.read_bytes() == before


def test_the_command_says_what_it_wrote_and_how_to_try_it(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "my model"

    assert run(checkpoint, "--out", out, "--name", "mine") == 0

    shown = capsys.readouterr()
    assert shown.out == ""
    written, hint = shown.err.splitlines()
    assert written.startswith(f"tallformer: wrote {out}; largest difference from torch: features ")
    assert hint == f"tallformer: try it: tallformer detect VIDEO --model '{out}' --out actions.json"
    assert (load_bundle(out).name, load_bundle(out).trained) == ("mine", True)


def test_programs_are_told_the_steps_and_the_differences(
    checkpoint: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(checkpoint, "--out", tmp_path / "out.zip", "--json-logs") == 0

    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == [*["step"] * 5, "written", "hint"]
    parity = load_bundle(tmp_path / "out.zip").parity
    assert parity is not None
    assert events[-2]["parity_with_torch"] == to_json(parity)


def test_the_command_can_be_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tiny", "--random-weights", "0", "--out", tmp_path / "out", "--quiet") == 0

    assert capsys.readouterr() == ("", "")
    assert not load_bundle(tmp_path / "out").trained
    assert load_bundle(tmp_path / "out").name == "untrained"
