"""Tables of the ablations say what was measured, and no more."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from benchmarks.ablations.groups import BASE, GROUPS, group_named
from benchmarks.ablations.page import NOT_MEASURED, group_page
from benchmarks.ablations.results import by_machine, summarise
from benchmarks.tables import fill


def lines_of(maps: Mapping[str, list[float]], processor: str = "Abacus") -> list[dict[str, Any]]:
    """Lines by hand: mAP of each variant for seeds 1, 2, …"""
    return [
        {
            "variant": name,
            "seed": seed,
            "map": value,
            "saved_bytes": 3 * 2**20,
            "step_s": 0.25,
            "cpus": 2,
            "processor": processor,
        }
        for name, values in maps.items()
        for seed, value in enumerate(values, start=1)
    ]


def test_a_table_has_mean_and_deviation_of_what_was_measured() -> None:
    group = group_named("tcm")
    assert group is not None

    page = group_page(group, summarise(lines_of({BASE: [0.50, 0.54, 0.58]}))).splitlines()

    assert page[2] == f"| without TCM | {NOT_MEASURED} | 0 |  |  | lower |"
    assert page[3] == "| with TCM | 54.0 ± 4.0 % | 3 | 3.0 MiB | 250 ms | higher |"
    assert page[5] == "Measured with 2 cores, Abacus."
    assert page[-1] == f"- with TCM above without TCM: {NOT_MEASURED}"


@pytest.mark.parametrize(
    ("without", "verdict"),
    [
        ([0.40, 0.42, 0.44], "the paper's order; +12.0 ± 2.0 points, higher with 3 of 3 seeds"),
        ([0.60, 0.42, 0.44], "not decided; +5.3 ± 13.3 points, higher with 2 of 3 seeds"),
        ([0.60, 0.60, 0.60], "**not the paper's order**; -6.0 ± 4.0 points, higher with 0 of 3 seeds"),
        ([0.40], "the paper's order; +10.0 points, higher with 1 of 1 seeds"),
        ([], NOT_MEASURED),
    ],
)
def test_the_order_is_compared_seed_by_seed(without: list[float], verdict: str) -> None:
    group = group_named("tcm")
    assert group is not None

    page = group_page(group, summarise(lines_of({BASE: [0.50, 0.54, 0.58], "no-tcm": without})))

    assert page.splitlines()[-1] == f"- with TCM above without TCM: {verdict}"


def test_a_table_is_of_the_machine_with_most_of_its_runs() -> None:
    old = lines_of({BASE: [0.1, 0.2, 0.3], "r-1": [0.9, 0.9, 0.9]})
    new = lines_of({BASE: [0.5, 0.6], "no-tcm": [0.7, 0.8]}, processor="Slide rule")

    group = group_named("tcm")
    assert group is not None

    found, other = (summarise(lines) for lines in by_machine([*old, *new], {BASE, "no-tcm"}))

    assert {name: summary.maps for name, summary in found.items()} == {
        BASE: {1: 0.5, 2: 0.6},
        "no-tcm": {1: 0.7, 2: 0.8},
    }
    assert found[BASE].machines == {"2 cores, Slide rule"}
    assert other.keys() == {BASE}
    assert group_page(group, found, [other]) == group_page(group, found)  # one setting compares nothing
    assert group_page(group, other, [found]).splitlines()[6] == (
        "From the start of 2 cores, Slide rule, seeds in brackets: without TCM 75.0 ± 7.1 % (2); "
        "with TCM 55.0 ± 7.1 % (2)."
    )


def test_of_machines_with_as_many_runs_the_last_is_taken_and_of_a_run_its_last_line() -> None:
    old, new = lines_of({BASE: [0.1, 0.2]}), lines_of({BASE: [0.5, 0.6]}, processor="Slide rule")

    assert by_machine([*old, *new], {BASE}) == [new, old]
    assert by_machine([*old, *new, {**old[0], "map": 0.3}], {BASE}) == [[{**old[0], "map": 0.3}, old[1]], new]
    assert by_machine([], {BASE}) == []


def test_what_the_paper_does_not_ask_is_compared_without_a_claim() -> None:
    group = group_named("head")
    assert group is not None

    lines = group_page(group, summarise(lines_of({BASE: [0.50, 0.54], "points": [0.52, 0.50]}))).splitlines()

    assert lines[-4:] == [
        "The paper orders none of these.",
        "",
        "- points (ActionFormer) against anchors, with TCM: -1.0 ± 4.2 points, higher with 1 of 2 seeds",
        f"- points (ActionFormer) against anchors, without TCM: {NOT_MEASURED}",
    ]


def test_the_tables_of_the_page_are_those_of_the_committed_results(root: Path) -> None:
    text = (root / "docs" / "ablations.md").read_text(encoding="utf-8")

    assert all(f"<!-- table: ablation_{group.name} -->" in text for group in GROUPS)
    assert fill(text) == text
