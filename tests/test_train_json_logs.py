"""What `tallformer train --json-logs` says to programs, and `--suggest` on annotations with known faults."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tallformer_infer.cli import run
from tallformer_infer.config import recipe_from_json
from tests.training_set import make_set, train_arguments, write_settings

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("set")
    make_set(path)
    write_settings(path)
    return path


def train(folder: Path, out: Path, *options: str) -> int:
    return run([*train_arguments(folder, out), "--json-logs", *options])


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    out, errors = capsys.readouterr()
    assert not out
    return [json.loads(line) for line in errors.splitlines()]


def test_a_run_is_told_as_one_object_per_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, tmp_path / "run", "--epochs", "1") == 0

    told = events(capsys)
    assert all({"time", "event"} <= set(event) for event in told)
    assert "training: 3 videos, 6 segments of 2 classes" in [event.get("message") for event in told]
    last = [event for event in told if event["event"] == "progress"][-1]
    assert (last["what"], last["done"], last["total"]) == ("training steps", 3, 3)
    assert last["loss"] > 0
    assert {"event": "written", "out": str(tmp_path / "run" / "model.safetensors"), "steps": 3}.items() <= (
        told[-1].items()
    )


def test_resuming_and_validating_are_events_with_their_numbers(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert train(folder, tmp_path / "run", "--epochs", "1", "--quiet") == 0
    assert train(folder, tmp_path / "run", "--epochs", "2", "--resume") == 0

    (resumed,) = [event for event in events(capsys) if event["event"] == "resumed"]
    assert (resumed["step"], resumed["epoch"]) == (3, 1)

    document = json.loads((folder / "annotations.json").read_text())
    held_out = tmp_path / "held_out.json"
    learned = {name: document["database"][name] for name in ("one", "two")}
    held_out.write_text(json.dumps({"database": {"short": document["database"]["short"]}}))
    (tmp_path / "learned.json").write_text(json.dumps({"database": learned}))
    options = ("--annotations", str(tmp_path / "learned.json"), "--val-annotations", str(held_out))
    assert train(folder, tmp_path / "measured", "--epochs", "1", *options) == 0

    (validated,) = [event for event in events(capsys) if event["event"] == "validation"]
    assert validated["epoch"] == 1
    assert 0 <= validated["average_map"] <= 1


def test_quiet_leaves_nothing_of_a_good_run(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train(folder, tmp_path / "run", "--epochs", "1", "--quiet") == 0

    assert not events(capsys)


def test_every_problem_of_the_annotations_is_an_event(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.json"
    rows = [{"segment": [2, 1], "label": "run"}, {"segment": [0, 1], "label": "?"}]
    wrong.write_text(json.dumps({"database": {"one": {"annotations": rows}}}))

    assert train(folder, tmp_path / "run", "--annotations", str(wrong), "--quiet") == 1

    told = events(capsys)
    assert [event["event"] for event in told] == ["error", "error"]
    assert all(event["message"].startswith(f"{wrong}: database.one.") for event in told)


def test_a_suggestion_leaves_segments_without_length_out_only_if_it_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"segment": [0, 0], "label": "b"}, *({"segment": [1, 1 + length], "label": "a"} for length in (2, 3, 4))]
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"database": {"v": {"annotations": rows}}}))
    command = ["train", "--suggest", "--annotations", str(path), "--recipe", "tiny"]

    assert run(command) == 1
    assert "ends at 0 s, starts at 0 s; --repair skips it" in capsys.readouterr().err
    assert run([*command, "--repair", "--json-logs"]) == 0

    out, errors = capsys.readouterr()
    assert recipe_from_json(json.loads(out)).classes == ("a",)
    assert "segments without length, skipped: 1" in [json.loads(line)["message"] for line in errors.splitlines()]
    assert run([*command, "--repair", "--quiet"]) == 0
    assert capsys.readouterr() == (out, "")
