"""What `bench_growth` says of how times grow."""

from __future__ import annotations

import pytest

from benchmarks.bench_growth import COUNTS, cases, exponent, make_set


@pytest.mark.parametrize("power", [1, 2])
def test_the_exponent_is_the_power_that_times_grow_with(power):
    assert exponent({count: 1e-9 * count**power for count in COUNTS}) == power


def test_the_exponent_leaves_small_counts_out_where_fixed_work_counts():
    assert exponent({count: 0.01 + 1e-3 * count for count in COUNTS}) == 1


def test_one_time_alone_has_no_exponent():
    assert exponent({100: 1.0}) is None


@pytest.mark.parametrize("case", list(cases()), ids=lambda case: case.name)
def test_each_case_does_what_its_loop_does(case):
    inputs = case.make(300)

    case.same(case.ours(*inputs), case.loop(*inputs))


def test_every_class_of_the_set_to_score_has_truth():
    _, truth = make_set(1000)

    assert set(truth.class_indices.tolist()) == set(range(len(truth.labels)))
