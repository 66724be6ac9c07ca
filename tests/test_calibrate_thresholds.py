"""The score from which on actions are worth keeping."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.evaluation.scoring import choose_threshold
from tests.calibration_samples import columns

rows = st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.3, 0.5, 0.55, 0.9]), st.booleans()), max_size=12)
"""Few scores, so that many are equal."""


def kept_and_hits(found: list[tuple[float, bool]], threshold: float) -> tuple[int, int]:
    kept = [right for score, right in found if score >= threshold]
    return len(kept), sum(kept)


def f1(found: list[tuple[float, bool]], threshold: float, truths: int) -> float:
    kept, hits = kept_and_hits(found, threshold)
    return 2 * hits / (kept + truths)


@given(rows, st.integers(0, 5))
def test_no_other_threshold_has_a_higher_f1(found: list[tuple[float, bool]], missed: int) -> None:
    truths = max(sum(right for _, right in found) + missed, 1)

    threshold = choose_threshold(*columns(found), truth_count=truths)

    best = max((f1(found, score, truths) for score, _ in found), default=0)
    assert (threshold is None) == (best == 0)
    if threshold is not None:
        assert f1(found, threshold, truths) == pytest.approx(best, rel=1e-12)


@given(rows, st.sampled_from([0.2, 0.5, 0.75, 0.9, 1.0]), st.integers(1, 3))
def test_a_wanted_precision_is_reached_with_the_most_that_is_right(
    found: list[tuple[float, bool]], wanted: float, least: int
) -> None:
    threshold = choose_threshold(*columns(found), truth_count=20, wanted_precision=wanted, least_right=least)

    possible = [kept_and_hits(found, score) for score, _ in found]
    best = max((hits for kept, hits in possible if hits >= wanted * kept and hits >= least), default=0)
    assert (threshold is None) == (best == 0)
    if threshold is not None:
        kept, hits = kept_and_hits(found, threshold)
        assert hits >= wanted * kept
        assert hits == best


def test_it_lies_halfway_between_kept_and_left_out() -> None:
    scores, is_right = np.array([0.9, 0.6, 0.2, 0.1]), np.array([True, True, False, False])

    assert choose_threshold(scores, is_right, truth_count=2) == pytest.approx(0.4)


def test_where_all_are_kept_it_lies_halfway_to_zero() -> None:
    assert choose_threshold(np.array([0.8]), np.array([True]), truth_count=1) == pytest.approx(0.4)


def test_neighbouring_floats_are_told_apart() -> None:
    high, low = 0.5, float(np.nextafter(0.5, 0))

    assert choose_threshold(np.array([high, low]), np.array([True, False]), truth_count=1) == high


def test_nine_of_ten_are_a_precision_of_nine_tenths() -> None:
    scores, is_right = np.linspace(0.9, 0.5, 10), np.arange(10) != 3

    assert choose_threshold(scores, is_right, truth_count=9, wanted_precision=0.9) == pytest.approx(0.25)


def test_a_precision_that_no_score_has_gives_none() -> None:
    scores, is_right = np.array([0.9, 0.8]), np.array([False, True])

    assert choose_threshold(scores, is_right, truth_count=1, wanted_precision=0.6) is None
