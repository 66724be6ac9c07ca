"""`python -m benchmarks`: goals, figures, and what is said of parts that fail."""

from __future__ import annotations

import importlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import bench_windows
from benchmarks.__main__ import main, measure_part
from benchmarks.afsd.goal import KEYS, figures
from benchmarks.afsd.workload import ACTIVITYNET, stages
from benchmarks.bench_encoder import Measured
from benchmarks.bench_windows import HOUR_FRAMES, measure_layouts
from benchmarks.goals import GOALS, PARTS, Figure, Goal, NotMeasuredError, Part, goal_line, goals_table, merged_lines
from tallformer_infer.config import WindowConfig
from tallformer_training.synthetic import SetSpec

FACTS = {"run_minutes": 19.6, "cpus": 2, "processor": "Z80", "commit": "abc"}


def test_every_goal_is_measured_by_a_part_that_can_be_called() -> None:
    assert {goal.part for goal in GOALS} == {part.name for part in PARTS}
    assert len({(goal.part, goal.key) for goal in GOALS}) == len(GOALS)
    for part in PARTS:
        assert callable(getattr(importlib.import_module(part.module), part.function))


@pytest.mark.parametrize(
    ("sense", "unit", "value", "is_met"),
    [
        ("at least", "×", 2.5, True),
        ("at least", "×", 2.49, False),
        ("at most", "s", 2.5, True),
        ("at most", "s", 2.51, False),
    ],
)
def test_a_goal_is_met_up_to_its_very_number(sense: Any, unit: str, value: float, is_met: bool) -> None:
    assert Goal("part", "key", "what", 2.5, sense, unit).is_met(value) == is_met


def test_shares_are_compared_in_whole_per_cent() -> None:
    goal = Goal("part", "key", "what", 0.78, "at least", "%")

    assert [goal.is_met(value) for value in (0.776, 0.774)] == [True, False]
    assert [goal.shown(value) for value in (0.776, 0.774)] == ["78%", "77%"]


def test_the_table_shows_goal_figure_and_what_a_missed_one_costs() -> None:
    goal = Goal("part", "key", "work", 2.5, "at least", "×")
    lines = [
        goal_line(goal, Figure(value=3.0, quartiles=(2.9, 3.1))) | FACTS,
        goal_line(goal, Figure(value=2.0, profile="MatMul 90 %")) | FACTS,
        goal_line(goal, None, "no video") | FACTS,
    ]

    rows = goals_table(map(json.loads, map(json.dumps, lines))).splitlines()

    assert rows[2] == "| work | ≥ 2.5 × | 3 × (2.9 × to 3.1 ×) | yes |  |"
    assert rows[3] == "| work | ≥ 2.5 × | 2 × | **no** | MatMul 90 % |"
    assert rows[4] == "| work | ≥ 2.5 × | not measured |  | no video |"
    assert rows[-1].startswith("1 of 3 met; one run of 20 minutes (commit abc), 2 cores, Z80;")


def test_lines_of_other_processors_and_of_goals_that_were_not_measured_again_are_kept() -> None:
    first, second = GOALS[0], GOALS[1]
    old = [
        goal_line(first, Figure(value=3.0)) | FACTS,
        goal_line(second, Figure(value=4.0)) | FACTS,
        goal_line(first, Figure(value=5.0)) | FACTS | {"processor": "6502"},
        goal_line(first, Figure(value=9.0)) | FACTS | {"processor_features": ["AMX bf16"]},
    ]
    new = [goal_line(first, Figure(value=3.5)) | FACTS, goal_line(second, None, "no time left") | FACTS]

    merged = merged_lines(old, new)

    assert [(line["processor"], line["key"], line["measured"]) for line in merged] == [
        ("6502", first.key, 5.0),
        ("Z80", first.key, 3.5),
        ("Z80", second.key, 4.0),
        ("Z80", first.key, 9.0),
    ]


def test_what_cannot_be_measured_here_is_a_line_with_its_reason(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def refuse(_: Path) -> dict[str, Figure]:
        raise NotMeasuredError("nothing to compare with")

    monkeypatch.setattr(bench_windows, "goal", refuse)
    lines = measure_part(Part("windows", "benchmarks.bench_windows", "goal", 1.0), tmp_path)

    assert [(line["measured"], line["met"], line["note"]) for line in lines] == [
        (None, None, "nothing to compare with")
    ] * 2


def test_a_part_that_fails_is_reported_and_the_others_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    work, out = tmp_path / "work", tmp_path / "goals.jsonl"
    work.write_text("a file where a folder is to be")

    code = main(["--only", "evaluation,query", "--work", str(work), "--out", str(out)])

    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert code == 1
    assert [line["part"] for line in lines] == ["evaluation", "query"]
    assert all(line["note"].startswith("failed: FileExistsError: ") for line in lines)
    assert re.search(r"2 of 2: query", capsys.readouterr().err)


def test_a_part_for_which_there_is_no_time_is_not_begun(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = main(["--minutes", "0", "--work", str(tmp_path / "work")])

    assert code == 1
    assert capsys.readouterr().out.count("not measured") == len(GOALS)
    assert not (tmp_path / "work").exists()


def test_rivals_are_the_fastest_of_all_that_is_not_ours_in_each_round() -> None:
    seconds = {
        ("torch", "fp32"): [4.0, 4.0],
        ("plain openvino", "fp32"): [1.2, 1.0],
        ("graph", "fp32"): [1.0, 3.0],
        ("plain openvino", "bf16"): [0.1, 0.1],  # not in float32
        ("tallformer", "fp32"): [2.0, 2.0],
        ("openvino", "fp32"): [0.8, 0.8],
        ("tallformer", "int8"): [0.5, 0.5],
        ("openvino", "bf16"): [0.4, 0.4],
    }
    measured = Measured(gigaflop=1.0, seconds=seconds, rates={}, torch_rates=[], fp32_graph=b"")

    assert measured.over_rivals("fp32").median == pytest.approx(1.0 / 0.8)
    assert measured.over_rivals("bf16", "int8").median == pytest.approx(1.0 / 0.4)


def test_the_list_names_every_part_and_measures_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--list"]) == 0

    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed[1:]] == [part.name for part in PARTS]
    assert sum(part.minutes for part in PARTS) <= 22


def test_an_unknown_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["--only", "nothing"])

    assert "'nothing' is not one of encoder, " in capsys.readouterr().err


def test_afsd_figures_are_ratios_of_totals() -> None:
    names = {stage.task for stage in stages(ACTIVITYNET)}
    lines = [{"name": "afsd_task", "task": name, "centre": "median", "samples_s": [0.5] * 3} for name in names]

    found = figures(lines, "generated")

    units = {
        system: sum(stage.units for stage in stages(ACTIVITYNET) if stage.system == system)
        for system in ("AFSD", "Swin-B int8")
    }
    assert found.keys() == KEYS.keys()
    assert found["swin-b-flow"].value == pytest.approx(units["AFSD"] / units["Swin-B int8"])
    assert found["swin-b-flow"].quartiles == pytest.approx((found["swin-b-flow"].value,) * 2)
    assert "generated videos" in found["swin-b-flow"].profile


def test_windows_that_share_clips_save_a_quarter_of_an_hour() -> None:
    assert bench_windows._saved(WindowConfig(), HOUR_FRAMES // 4) == pytest.approx(0.25, abs=0.01)


def test_both_layouts_of_windows_are_detected_and_scored(tmp_path: Path) -> None:
    spec = SetSpec(subset="testing", videos=1, seed=3, minutes=0.7, width_px=64, height_px=48)

    laid = measure_layouts(tmp_path, rounds=1, spec=spec)

    assert laid["shared"].clips == 20
    assert laid["reference"].clips > laid["shared"].clips
    assert all(0 <= found.average_map <= 1 for found in laid.values())
