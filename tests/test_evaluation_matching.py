"""Overlap, matching and average precision."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tallformer_infer.evaluation import matching as overlap_module
from tallformer_infer.evaluation.matching import (
    Ties,
    by_falling_score,
    match_greedily,
    overlapping_pairs,
    tiou_of_pairs,
)
from tallformer_infer.evaluation.scoring import curve

segments = st.tuples(st.integers(0, 12), st.integers(1, 8)).map(lambda pair: (float(pair[0]), float(sum(pair))))
scored_segments = st.tuples(segments, st.integers(0, 5)).map(lambda pair: (*pair[0], pair[1] / 5))


def matched(
    predicted: list[tuple[float, float, float]],
    truths: list[tuple[float, float]],
    threshold: float,
    ties: Ties = "last",
) -> list[int]:
    """Row of the truth each prediction (start, end, score) of one class and video finds, or -1."""
    rows = np.array(predicted, np.float64).reshape(-1, 3)
    segments = np.array(truths, np.float64).reshape(-1, 2)
    groups = np.zeros(len(rows), np.int64)
    pairs = overlapping_pairs(groups, rows[:, :2], np.zeros(len(segments), np.int64), segments, at_least=threshold)
    order = by_falling_score(rows[:, 2], groups, ties=ties)
    found = match_greedily(pairs, order, truth_count=len(segments), tiou_thresholds=(threshold,), ties=ties)
    return [int(truth) for truth in found[0]]


def matched_one_by_one(
    predicted: list[tuple[float, float, float]], truths: list[tuple[float, float]], threshold: float, ties: Ties
) -> list[int]:
    """The sequential rule as it is stated, for comparison."""
    direction = 1 if ties == "first" else -1
    found = [-1] * len(predicted)
    for row in sorted(range(len(predicted)), key=lambda row: (-predicted[row][2], direction * row)):
        start, end, _ = predicted[row]
        best, best_tiou = -1, 0.0
        for truth in range(len(truths))[::direction]:
            shared = max(min(end, truths[truth][1]) - max(start, truths[truth][0]), 0)
            union = (truths[truth][1] - truths[truth][0]) + (end - start) - shared
            tiou = shared / max(union, 1e-6)
            if truth not in found and tiou >= threshold and tiou > best_tiou:
                best, best_tiou = truth, tiou
        found[row] = best
    return found


class TestOverlap:
    def test_identical_segments_overlap_by_one(self) -> None:
        assert tiou_of_pairs(np.array([[1.0, 3.0]]), np.array([[1.0, 3.0]])).tolist() == [1.0]

    def test_touching_segments_overlap_by_zero(self) -> None:
        assert tiou_of_pairs(np.array([[1.0, 3.0]]), np.array([[3.0, 4.0]])).tolist() == [0.0]

    def test_two_segments_without_length_overlap_by_zero(self) -> None:
        assert tiou_of_pairs(np.array([[2.0, 2.0]]), np.array([[2.0, 2.0]])).tolist() == [0.0]

    def test_half_shared(self) -> None:
        assert tiou_of_pairs(np.array([[0.0, 10.0]]), np.array([[5.0, 15.0]])).tolist() == [pytest.approx(1 / 3)]

    def test_pairs_stay_within_their_group(self) -> None:
        segment = np.array([[0.0, 1.0], [0.0, 1.0]])

        pairs = overlapping_pairs(np.array([3, 7]), segment, np.array([7, 8]), segment, at_least=0.5)

        assert (pairs.predictions.tolist(), pairs.truths.tolist()) == ([1], [0])

    def test_expanding_in_parts_finds_the_same_pairs(self, monkeypatch: pytest.MonkeyPatch) -> None:
        random = np.random.default_rng(0)
        starts = random.uniform(0, 10, (2, 40, 1))
        a, b = np.concatenate([starts, starts + 3], axis=2)
        groups = random.integers(0, 4, (2, 40))
        whole = overlapping_pairs(groups[0], a, groups[1], b, at_least=0.3)

        monkeypatch.setattr(overlap_module, "PAIRS_AT_ONCE", 7)
        parts = overlapping_pairs(groups[0], a, groups[1], b, at_least=0.3)

        assert len(whole.tiou) > 20
        np.testing.assert_array_equal(parts.predictions, whole.predictions)
        np.testing.assert_array_equal(parts.truths, whole.truths)


class TestMatching:
    def test_second_prediction_falls_through_to_its_second_best_truth(self) -> None:
        predicted = [(0.0, 10.0, 0.9), (0.0, 10.0, 0.8), (1.0, 11.0, 0.7), (50.0, 60.0, 0.6)]

        assert matched(predicted, [(0.0, 10.0), (2.0, 12.0)], 0.5) == [0, 1, -1, -1]

    def test_a_better_score_displaces_down_a_chain(self) -> None:
        # Each takes what the one before it left, so every round of refusals reaches one truth further.
        truths = [(float(start), float(start + 10)) for start in range(4)]
        predicted = [(0.0, 10.0, 1 - 0.1 * place) for place in range(5)]

        assert matched(predicted, truths, 0.5) == [0, 1, 2, 3, -1]

    def test_overlap_exactly_at_the_threshold_counts(self) -> None:
        assert matched([(0.0, 10.0, 0.9)], [(0.0, 5.0)], 0.5) == [0]

    @pytest.mark.parametrize(("ties", "found"), [("first", [0, -1]), ("last", [-1, 0])])
    def test_equal_scores_go_by_the_order_of_rows(self, ties: Ties, found: list[int]) -> None:
        assert matched([(0.0, 10.0, 0.5), (0.0, 10.0, 0.5)], [(0.0, 10.0)], 0.5, ties) == found

    @pytest.mark.parametrize(("ties", "found"), [("first", [0]), ("last", [1])])
    def test_equal_overlaps_go_by_the_order_of_truths(self, ties: Ties, found: list[int]) -> None:
        assert matched([(5.0, 25.0, 0.5)], [(0.0, 20.0), (10.0, 30.0)], 0.5, ties) == found

    def test_no_predictions_find_nothing(self) -> None:
        assert matched([], [(0.0, 1.0)], 0.5) == []

    def test_without_truth_every_prediction_is_wrong(self) -> None:
        assert matched([(0.0, 1.0, 0.5)], [], 0.5) == [-1]

    @settings(max_examples=300, deadline=None)
    @given(
        predicted=st.lists(scored_segments, max_size=25),
        truths=st.lists(segments, max_size=8),
        threshold=st.sampled_from([0.1, 0.3, 0.5, 0.75]),
        ties=st.sampled_from(["first", "last"]),
    )
    def test_rounds_give_what_the_sequential_rule_gives(
        self,
        predicted: list[tuple[float, float, float]],
        truths: list[tuple[float, float]],
        threshold: float,
        ties: Ties,
    ) -> None:
        assert matched(predicted, truths, threshold, ties) == matched_one_by_one(predicted, truths, threshold, ties)


class TestAveragePrecision:
    def test_worked_by_hand(self) -> None:
        # right, wrong, right, of 3 truths: precision 1 and 2/3 at recall 1/3 and 2/3.
        found = curve(np.array([True, False, True]), np.array([0.9, 0.8, 0.7]), truth_count=3)

        assert found.average_precision == pytest.approx((1 + 2 / 3) / 3)
        assert found.scores.tolist() == [0.9, 0.7]

    def test_a_later_better_precision_counts_earlier(self) -> None:
        # wrong, right, right: precision 1/2 then 2/3, and the envelope is 2/3 at both.
        found = curve(np.array([False, True, True]), np.array([0.9, 0.8, 0.7]), truth_count=2)

        assert found.average_precision == pytest.approx(2 / 3)

    def test_without_predictions_it_is_zero(self) -> None:
        assert curve(np.zeros(0, bool), np.zeros(0), truth_count=2).average_precision == 0.0

    def test_without_truth_it_does_not_exist(self) -> None:
        with pytest.raises(ValueError, match="truth_count = 0"):
            curve(np.zeros(0, bool), np.zeros(0), truth_count=0)
