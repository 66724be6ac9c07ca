"""What is made of AFSD's samples: totals, ratios, and the page on speed."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from benchmarks.afsd.page import Totals
from benchmarks.afsd.tasks import Task, sample, timed
from benchmarks.afsd.workload import ACTIVITYNET, AFSD, AFSD_BF16, ROWS, SCOPES, SYSTEMS, THUMOS14, stages
from benchmarks.measure import read_results


def lines(workload: str, seconds: float) -> list[dict[str, Any]]:
    """Samples of the same length for every task."""
    names = {stage.task for stage in stages(workload)}
    return [{"name": "afsd_task", "task": name, "centre": "median", "samples_s": [seconds] * 3} for name in names]


@pytest.mark.parametrize("workload", [ACTIVITYNET, THUMOS14])
def test_a_total_is_the_sum_of_units_times_seconds(workload: str) -> None:
    totals = Totals(lines(workload, 0.5), workload)
    scope = totals.scopes()[-1]

    value, draws = totals.scope(AFSD, scope)

    units = sum(stage.units for stage in stages(workload) if stage.system == AFSD)
    assert value == pytest.approx(0.5 * units)
    assert draws == pytest.approx(value)


def test_a_ratio_has_the_range_that_its_samples_allow() -> None:
    given = lines(ACTIVITYNET, 1.0)
    for line in given:
        if line["task"] == "flow classifier":
            line["centre"], line["samples_s"] = "mean", [0.5, 1.5]

    ratio, low, high = Totals(given, ACTIVITYNET).ratio("Swin-T int8", "… and with the classifier's flow")

    assert low < ratio < high


def test_each_total_counts_all_of_the_one_before() -> None:
    counted = [set(rows) for rows in SCOPES.values()]

    assert all(less < more for less, more in pairwise(counted))
    assert counted[-1] == set(ROWS)


def test_thumos14_has_no_classifier() -> None:
    assert Totals(lines(THUMOS14, 1.0), THUMOS14).scopes() == list(SCOPES)[:2]


def test_on_paper_the_fullest_afsd_takes_771_seconds() -> None:
    totals = Totals(lines(ACTIVITYNET, 1.0), ACTIVITYNET)

    assert [round(totals.on_paper(AFSD, scope)) for scope in SCOPES] == [16, 121, 271, 771]
    assert [round(totals.on_paper(system, next(iter(SCOPES)))) for system in SYSTEMS] == [141, 80, 47, 27, 0, 0]


def test_bfloat16_is_compared_with_bfloat16() -> None:
    given = lines(ACTIVITYNET, 1.0)
    for line in given:
        if line["task"].startswith("afsd") and line["task"].endswith("bf16"):
            line["samples_s"] = [0.25] * 3
    totals = Totals(given, ACTIVITYNET)
    networks = next(iter(SCOPES))

    reduced, full = (totals.ratio(system, networks)[0] for system in ("Swin-B bf16", "Swin-B fp32"))

    assert totals.scope(AFSD_BF16, networks)[0] == pytest.approx(3 * 0.25 + 1)  # NMS is the same
    assert reduced == pytest.approx(full * (3 * 0.25 + 1) / 4)


def test_without_bfloat16_its_columns_are_left_out() -> None:
    given = [line for line in lines(ACTIVITYNET, 1.0) if not line["task"].endswith("bf16")]

    assert Totals(given, ACTIVITYNET).systems() == [name for name in SYSTEMS if not name.endswith("bf16")]


def test_the_first_run_of_a_task_does_not_count(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[int] = []
    task = Task("counting", lambda number: [float(seen.append(number) or number)])  # type: ignore[func-returns-value]

    sample([task], 3)

    assert seen == [0, 0, 1, 2]
    assert task.samples_s == [0, 1, 2]
    assert len(task.busy) == 3
    assert "measuring" in capsys.readouterr().err


def test_time_is_shared_by_the_units() -> None:
    (alone,), (shared,) = timed(lambda: sum(range(300_000)))(0), timed(lambda: sum(range(300_000)), units=1000)(0)

    assert 0 < shared < alone


def test_the_committed_sample_has_every_task() -> None:
    measured = {line["task"] for line in read_results("afsd") if line["name"] == "afsd_task"}

    assert {stage.task for workload in (ACTIVITYNET, THUMOS14) for stage in stages(workload)} <= measured


def test_the_sum_of_the_sample_agrees_with_a_whole_video() -> None:
    (whole,) = [
        line for line in read_results("afsd") if line["name"] == "afsd_full" and line["inputs"]["system"] == AFSD
    ]

    assert whole["sampled_s"] == pytest.approx(whole["whole_s"], rel=0.1)
    assert whole["sampled_stages_s"].keys() == whole["stages_s"].keys() - {"NMS"}
