"""`tallformer eval`: what it prints, draws and refuses."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from tallformer_infer.cli import run as run_tallformer
from tallformer_infer.commands.eval import app
from tallformer_infer.errors import ConfigError, ExtraError, OutputError
from tallformer_infer.evaluation import Predictions, Truth, evaluate, protocol_named
from tallformer_infer.evaluation.plot import check_plot, save_plot
from tallformer_infer.structures import Action

needs_matplotlib = pytest.mark.skipif(
    importlib.util.find_spec("matplotlib") is None, reason="needs matplotlib (extra `train`)"
)


@pytest.fixture
def files(tmp_path: Path) -> tuple[str, str]:
    """Predictions and truth: two videos scored, one in another subset, one empty, one unknown."""
    truth = {
        name: {"subset": subset, "annotations": [{"segment": [0, 10], "label": label} for label in labels]}
        for name, subset, labels in [
            ("a", "test", ["run", "jump"]),
            ("b", "test", ["run"]),
            ("c", "training", ["run"]),
            ("d", "test", []),
        ]
    }
    row = {"segment": [0, 10], "label": "run", "score": 0.9}
    results = {
        "v_a": [row, {"segment": [0, 6.5], "label": "jump", "score": 0.4}, {**row, "label": "swim"}],
        "c": [row],
        "d": [row],
        "e": [row],
    }
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}), encoding="utf-8")
    (tmp_path / "predictions.json").write_text(json.dumps({"results": results}), encoding="utf-8")
    return str(tmp_path / "predictions.json"), str(tmp_path / "truth.json")


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def document(*arguments: str) -> dict[str, Any]:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout)
    return found


def test_json_holds_every_number(files: tuple[str, str]) -> None:
    found = document(*files, "--threshold", "0.5")

    # run: one of two truths, AP 0.5; jump: overlap 0.65, AP 1 up to 0.6.
    assert found["mAP"] == [0.75, 0.75, 0.75, 0.75, 0.25]
    assert found["average_mAP"] == pytest.approx(0.65)
    assert {row["label"]: row["ap"][0] for row in found["classes"]} == {"run": 0.5, "jump": 1.0}
    assert found["operating_point"]["kept"] == 1
    assert found["operating_point"]["precision"] == [1.0] * 5
    assert found["operating_point"]["recall"] == [pytest.approx(1 / 3)] * 5
    assert found["errors"]["right"] == 1
    assert found["unknown_labels"] == {"swim": 1}


def test_json_lists_every_video_with_its_fate(files: tuple[str, str]) -> None:
    videos = document(*files)["videos"]

    assert videos["scored"] == ["a", "b"]
    assert videos["without_prediction"] == ["b"]
    assert videos["skipped"] == {
        "no truth": ["e"],
        "other subset": ["c"],
        "no annotated segment": ["d"],
        "left out": [],
    }


def test_people_read_the_same(files: tuple[str, str]) -> None:
    result = run(*files, "--per-class", "--threshold", "0.5")

    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "mAP % 75.00 75.00 75.00 75.00 25.00 65.00" in lines
    assert "precision % 100.0 100.0 100.0 100.0 100.0" in lines
    assert "jump 1 1 100.0 100.0 100.0 100.0 0.0 80.0 - 0.0" in lines
    assert "2 videos scored: a, b" in lines
    assert "1 video of these without any prediction, all their truths missed: b" in lines
    assert "1 video skipped: predicted, but in another subset of the truth: c" in lines
    assert "1 video skipped: predicted, but not in the truth: e" in lines
    assert "1 prediction dropped, of labels that no truth has: swim" in lines


@pytest.mark.parametrize("protocol", ["thumos14", "activitynet", "hacs", "reference-voc"])
def test_a_row_of_scores_fits_on_a_terminal(files: tuple[str, str], protocol: str) -> None:
    result = run(*files, "--protocol", protocol, "--per-class", "--threshold", "0.1")

    tables = [line for line in result.stdout.splitlines() if line.startswith("  ")]
    assert len(tables) > 6
    assert all(len(line) <= 80 and "…" not in line for line in tables)


def test_videos_can_be_left_out(files: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_text("b\n", encoding="utf-8")

    found = document(*files, "--leave-out", str(tmp_path / "bad.txt"))

    assert found["videos"]["skipped"]["left out"] == ["b"]
    assert found["mAP"][0] == 1.0


def test_wrong_input_is_one_line_per_problem(
    tmp_path: Path, files: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"segment": [2, 1], "label": "run", "score": 1}, {"segment": [0, 1], "label": "run", "score": float("nan")}]
    (tmp_path / "nan.json").write_text(json.dumps({"results": {"a": rows}}), encoding="utf-8")

    code = run_tallformer(["eval", str(tmp_path / "nan.json"), files[1]])

    assert code == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.splitlines() == [
        f"tallformer: error: {tmp_path}/nan.json: results.a[0].segment: ends at 1 s, before it starts at 2 s",
        f"tallformer: error: {tmp_path}/nan.json: results.a[1].score: expected a number, got nan",
    ]


def test_a_threshold_that_is_no_number_is_refused(files: tuple[str, str]) -> None:
    assert isinstance(run(*files, "--threshold", "nan").exception, ConfigError)


def test_an_unknown_protocol_is_a_usage_error(files: tuple[str, str]) -> None:
    assert run(*files, "--protocol", "thumos15").exit_code == 2


@needs_matplotlib
def test_plot_is_a_png(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(*files, "--plot", str(tmp_path / "curves.png"))

    assert result.exit_code == 0, result.output
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    assert not list(tmp_path.glob(".*"))


@needs_matplotlib
def test_plot_of_nothing_found_is_a_picture_too(tmp_path: Path) -> None:
    truth = Truth.of({"v": [(0, 1, "$a_1$")]})
    nothing = Predictions.of({"v": list[Action]()})

    save_plot(evaluate(nothing, truth, protocol_named("hacs")), tmp_path / "nothing.png")

    assert (tmp_path / "nothing.png").stat().st_size > 1000


@needs_matplotlib
def test_plot_needs_an_existing_folder(files: tuple[str, str], tmp_path: Path) -> None:
    result = run(*files, "--plot", str(tmp_path / "no" / "x.png"))

    assert isinstance(result.exception, OutputError)
    assert "there is no folder" in str(result.exception)


def test_plot_without_matplotlib_names_the_install_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)

    with pytest.raises(ExtraError, match=r"pip install .*\[train\]'"):
        check_plot(tmp_path / "x.png")


def test_plot_is_only_written_as_png(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"name it x\.png"):
        check_plot(tmp_path / "x.pdf")
