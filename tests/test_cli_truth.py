"""`detect --truth`: what was found, next to what is known."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from tallformer_infer import cli
from tallformer_infer.commands.tables import KnownSegments, summary, truth_table
from tallformer_infer.evaluation.matching import pair_up
from tallformer_infer.structures import Action
from tests.label_samples import segment
from tests.videos import write_video


def action(start_s: float, end_s: float, label: str, score: float) -> Action:
    return Action(start_s=start_s, end_s=end_s, label=label, score=score)


def test_the_surest_action_takes_the_segment_and_each_is_taken_once() -> None:
    known = [segment(1.0, 3.0, "jump")]

    pairs = pair_up([action(1.0, 3.0, "jump", 0.4), action(1.0, 2.8, "jump", 0.9)], known)

    assert [(pair.action and pair.action.score, pair.known) for pair in pairs] == [(0.9, known[0]), (0.4, None)]
    assert pairs[0].tiou == pytest.approx(0.9)


def test_an_action_of_another_class_or_of_little_overlap_is_none() -> None:
    known = [segment(1.0, 3.0, "jump"), segment(5.0, 6.0, "run")]

    pairs = pair_up([action(1.0, 3.0, "run", 0.9), action(5.4, 9.0, "run", 0.8)], known)

    assert all(pair.known is None or pair.action is None for pair in pairs)
    assert summary(pairs) == "0 of 2 true actions found, 2 too many (right from overlap 0.5 on)"


def test_a_segment_goes_with_the_action_that_overlaps_it_most() -> None:
    known = [segment(0.0, 4.0, "jump"), segment(1.0, 5.0, "jump")]

    pairs = pair_up([action(1.0, 4.8, "jump", 0.9), action(0.0, 4.1, "jump", 0.5)], known)

    assert {(pair.action.score, pair.known.start_s) for pair in pairs if pair.action and pair.known} == {
        (0.9, 1.0),
        (0.5, 0.0),
    }


def test_pairs_are_in_order_of_time_with_missed_segments_among_them() -> None:
    pairs = pair_up([action(8.0, 9.0, "jump", 0.9)], [segment(2.0, 3.0, "run"), segment(20.0, 21.0, "run")])

    assert [pair.start_s for pair in pairs] == [2.0, 8.0, 20.0]


def test_nothing_found_and_nothing_known_is_no_pair() -> None:
    assert pair_up([], []) == []


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    frames = np.random.default_rng(0).integers(0, 256, (40, 48, 64, 3), np.uint8)
    write_video(tmp_path / "a.mp4", list(frames), fps=15)
    truth = {"a": {"subset": "testing", "annotations": [{"segment": [0.5, 1.5], "label": "zigzag"}]}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": truth}), encoding="utf-8")
    return tmp_path


@pytest.mark.usefixtures("folder")
def test_the_table_has_the_truth_beside_what_was_found(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["detect", "a.mp4", "--truth", "truth.json", "--threshold", "1"])

    shown = capsys.readouterr().out
    assert code == 0
    assert "zigzag" in shown
    assert "missed" in shown
    assert "0:00.50 - 0:01.50" in shown.replace("00:0", "0:0")
    assert "0 of 1 true action found" in shown


def test_a_video_that_the_truth_does_not_have_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "a.mp4").rename(folder / "b.mp4")

    assert cli.run(["detect", "b.mp4", "--truth", "truth.json"]) == 0

    assert "truth.json does not have this video" in capsys.readouterr().out


@pytest.mark.usefixtures("folder")
def test_a_wrong_truth_is_one_line_before_anything_is_done(capsys: pytest.CaptureFixture[str]) -> None:
    code = cli.run(["detect", "a.mp4", "--truth", "no-such.json"])

    assert code != 0
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 1
    assert "no-such.json" in errors[0]


def test_labels_with_or_without_the_suffix_are_of_the_same_video(folder: Path) -> None:
    known = KnownSegments(folder / "truth.json")

    assert known.of("elsewhere/a.mp4") == (segment(0.5, 1.5, "zigzag"),)
    assert known.of("c.mp4") is None


def test_truth_without_a_subset_to_test_on_is_refused_without_naming_an_option_there_is_not(tmp_path, capsys):
    annotations = [{"segment": [1, 2], "label": "wave"}]
    video = {"duration": 10, "subset": "training", "annotations": annotations}
    database = {"a": video, "b": {**video, "subset": "extra"}}
    (tmp_path / "truth.json").write_text(json.dumps({"database": database}))
    (tmp_path / "a.mp4").touch()

    assert cli.run(["detect", str(tmp_path / "a.mp4"), "--truth", str(tmp_path / "truth.json")]) == 1

    shown = capsys.readouterr().err
    assert "has no subset testing or validation, but training (1 video), extra (1 video); `tallformer convert" in shown
    assert "choose one with" not in shown


def test_names_of_actions_stand_in_a_narrow_table() -> None:
    pairs = pair_up([action(1, 3, "spin right", 0.9)], [segment(1.1, 3, "spin right")])
    console = Console(file=io.StringIO(), width=60)

    console.print(truth_table(pairs))

    words = console.file.getvalue().split()
    assert {"spin", "right", "0.900", "0:01.10", "0:03.00"} <= set(words)
