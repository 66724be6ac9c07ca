"""The benchmark of training on real footage: its splits, its scores and its table."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.real_training import page
from benchmarks.real_training.running import scored, splits
from benchmarks.real_training.videos import LAWN, PARKING_LOT, SEQUENCES, subset
from tallformer_infer.structures import Action


def test_folds_leave_out_each_sequence_once_and_two_of_each_place() -> None:
    parts = splits("both")

    assert sorted(sequence for _, left_out in parts for sequence in left_out) == list(SEQUENCES)
    for learned, left_out in parts:
        assert sorted([*learned, *left_out]) == list(SEQUENCES)
        assert sum(sequence in LAWN for sequence in left_out) == 2
        assert sum(sequence in PARKING_LOT for sequence in left_out) == 2


def test_across_learns_in_one_place_and_is_tested_in_the_other() -> None:
    assert splits("across") == [(list(PARKING_LOT), list(LAWN))]


def test_a_subset_keeps_the_annotations_of_its_videos(tmp_path: Path) -> None:
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"database": {"a": {"annotations": [1]}, "b": {"annotations": []}}}))

    path = subset(truth, ["a"], tmp_path / "out" / "some.json")

    assert json.loads(path.read_text()) == {"database": {"a": {"annotations": [1]}}}


def test_map_counts_only_videos_that_were_looked_at(tmp_path: Path) -> None:
    rows = {name: {"annotations": [{"segment": [1.0, 3.0], "label": "hug"}]} for name in ("seen", "other")}
    truth = tmp_path / "truth.json"
    truth.write_text(json.dumps({"database": rows}))

    line = scored({"seen": [Action(start_s=1.0, end_s=2.0, label="hug", score=0.9)]}, truth)

    assert line["truth"] == 1
    assert line["map"] == [100.0, 100.0, 100.0, 0.0, 0.0]  # tIoU 0.5 counts at 0.5


def test_a_table_gives_mean_and_deviation_over_seeds() -> None:
    line = {"variant": "points", "split": "both", "steps": 10, "train_s": 4.0}
    runs = [{**line, "map": [value] * 5, "average_map": value} for value in (60.0, 70.0)]

    row = page.heads_table(runs).splitlines()[2]

    assert "| 2 | 65.0 ± 7.1 |" in row
