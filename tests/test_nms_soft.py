"""Soft suppression: worked values and properties."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallformer_infer.nms import nms, soft_nms, soft_nms_activitynet
from tallformer_infer.structures import Candidates
from tests.nms_suppressors import assert_same, candidates_of, plain_tiou

Decay = Literal["linear", "gaussian"]

ROW = st.tuples(st.integers(0, 40), st.integers(-3, 20), st.integers(1, 64), st.integers(0, 2))


def candidates_from(rows: list[tuple[int, int, int, int]]) -> Candidates:
    return candidates_of(*((start, start + length, score / 64, index) for start, length, score, index in rows))


def soft(candidates: Candidates, method: Decay = "gaussian", **changes: Any) -> Candidates:
    options = {"tiou_threshold": 0.3, "sigma": 0.5, "min_score": 0.001, "max_outputs": None}
    return soft_nms(candidates, method=method, **{**options, **changes})


def one_by_one(candidates: Candidates, method: Decay, limit: int | None) -> Candidates:
    """The rule in its plainest form, with the options of `soft`."""
    scores = candidates.scores.copy()
    rows, taken = [], []
    while limit is None or len(rows) < limit:
        waiting = np.flatnonzero(scores >= np.float32(0.001))
        if not len(waiting):
            break
        best = waiting[scores[waiting].argmax()]
        rows.append(best)
        taken.append(scores[best])
        overlap = plain_tiou(candidates.segments_frames[best], candidates.segments_frames)
        factor = np.exp(-(overlap**2) / np.float32(0.5))
        if method == "linear":
            factor = np.where(overlap >= np.float32(0.3), 1 - overlap, np.float32(1))
        scores = np.where(candidates.classes == candidates.classes[best], scores * factor, scores)
        scores[best] = -1
    kept = candidates.take(np.array(rows, np.intp))
    return Candidates(kept.segments_frames, np.array(taken, np.float32), kept.classes)


def test_gaussian_lowers_by_the_squared_overlap() -> None:
    pair = candidates_of((0, 10, 0.9, 0), (0, 5, 0.8, 0))  # overlap 0.5

    np.testing.assert_allclose(soft(pair).scores, [0.9, 0.8 * np.exp(-0.25 / 0.5)], rtol=1e-6)


def test_linear_lowers_from_the_threshold_on() -> None:
    candidates = candidates_of((0, 10, 0.9, 0), (0, 5, 0.8, 0), (9, 19, 0.7, 0))  # overlaps 0.5 and 1 / 19

    result = soft(candidates, "linear", tiou_threshold=0.5)

    np.testing.assert_allclose(result.scores, [0.9, 0.7, 0.4], rtol=1e-6)


def test_scores_that_fall_below_the_minimum_are_dropped() -> None:
    identical = candidates_of((0, 10, 0.9, 0), (0, 10, 0.8, 0))

    assert len(soft(identical, min_score=0.8 * np.exp(-2) - 1e-3)) == 2
    assert len(soft(identical, min_score=0.8 * np.exp(-2) + 1e-3)) == 1


def test_linear_of_identical_segments_keeps_one() -> None:
    assert len(soft(candidates_of((0, 10, 0.9, 0), (0, 10, 0.8, 0)), "linear")) == 1


def test_classes_do_not_lower_each_other() -> None:
    candidates = candidates_of((0, 10, 0.9, 0), (0, 10, 0.8, 1))

    assert_same(soft(candidates), candidates)


def test_of_equal_scores_the_earlier_row_is_taken_first() -> None:
    candidates = candidates_of((50, 60, 0.5, 1), (0, 10, 0.5, 0), (90, 91, 0.5, 1), (20, 30, 0.5, 0))

    assert_same(soft(candidates), candidates)


def test_nothing_gives_nothing() -> None:
    assert len(soft(candidates_of())) == 0


@pytest.mark.parametrize("method", ["linear", "gaussian"])
@given(rows=st.lists(ROW, max_size=30), limit=st.none() | st.integers(1, 8))
@settings(deadline=None, max_examples=100)
def test_the_plain_rule_is_followed(method: Decay, rows: list[tuple[int, int, int, int]], limit: int | None) -> None:
    candidates = candidates_from(rows)

    assert_same(soft(candidates, method, max_outputs=limit), one_by_one(candidates, method, limit))


@given(rows=st.lists(ROW, max_size=30))
@settings(deadline=None, max_examples=50)
def test_scores_never_rise_and_come_in_falling_order(rows: list[tuple[int, int, int, int]]) -> None:
    candidates = candidates_from(rows)
    result = soft(candidates)

    assert (np.diff(result.scores) <= 0).all()
    assert (np.sort(result.scores)[::-1] <= np.sort(candidates.scores)[::-1][: len(result)]).all()


@given(rows=st.lists(ROW, max_size=30))
@settings(deadline=None, max_examples=50)
def test_a_very_narrow_gaussian_keeps_what_nms_at_zero_keeps(rows: list[tuple[int, int, int, int]]) -> None:
    candidates = candidates_from(rows)

    hard = nms(candidates, tiou_threshold=0, max_outputs=None)

    assert_same(soft(candidates, sigma=1e-7), hard)


def test_activitynet_form_gives_the_reference_values() -> None:
    rows = [(0, 10, 0.9, 0), (1, 11, 0.8, 0), (20, 30, 0.7, 0), (0, 5, 0.6, 0), (21, 29, 0.5, 0)]

    result = soft_nms_activitynet(candidates_of(*rows), sigma=0.85, min_score=1e-9, max_outputs=5000)

    expected = [[0, 10, 0.9], [20, 30, 0.7], [0, 5, 0.4471], [1, 11, 0.3115]]
    np.testing.assert_allclose(np.column_stack([result.segments_frames, result.scores]), expected, atol=1e-4)


def test_activitynet_form_drops_a_single_candidate() -> None:
    single = candidates_of((0, 10, 0.9, 0))

    assert len(soft_nms_activitynet(single, sigma=0.5, min_score=0, max_outputs=None)) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0}, "sigma=0 must be above 0"),
        ({"min_score": -1}, "min_score=-1 must be at least 0"),
        ({"tiou_threshold": 2}, "tiou_threshold=2 must be in"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        soft(candidates_of((0, 1, 0.5, 0)), **changes)
