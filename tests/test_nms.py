"""Hard suppression and NMW, as NumPy functions and as graph 3: worked values, properties, and the plain rule."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tallformer_infer.nms import nms, nmw
from tallformer_infer.structures import Candidates
from tests.nms_suppressors import (
    Method,
    Suppressor,
    assert_same,
    both_forms,
    both_methods,
    candidates_of,
    one_by_one,
    plain_tiou,
    with_graph,
    with_numpy,
)

THRESHOLDS = st.sampled_from([0.1, 0.25, 0.3, 0.5, 0.75, 1.0])  # few: a graph is built for each


@st.composite
def candidate_sets(draw: st.DrawFn, *, distinct_scores: bool = False, least_length: int = -3) -> Candidates:
    """Up to 40 candidates on a grid of whole frames, so that ties, touching, equal and empty segments are common."""
    row = st.tuples(st.integers(0, 40), st.integers(least_length, 20), st.integers(1, 64), st.integers(0, 3))
    rows = draw(st.lists(row, max_size=40, unique_by=(lambda row: row[2]) if distinct_scores else None))
    return candidates_of(*((start, start + length, score / 64, index) for start, length, score, index in rows))


def random_candidates(count: int, *, classes: int, seed: int) -> Candidates:
    generator = np.random.default_rng(seed)
    start = generator.random(count) * count / classes
    length = 4 * 2 ** (5 * generator.random(count))
    segments = np.stack([start, start + length], axis=1).astype(np.float32)
    scores = np.float32(0.001) + generator.random(count, np.float32)
    return Candidates(segments, scores, generator.integers(0, classes, count))


@both_forms
def test_nms_keeps_the_best_of_an_overlapping_pair(suppressor: Suppressor) -> None:
    candidates = candidates_of((1, 11, 0.8, 0), (0, 10, 0.9, 0), (20, 30, 0.7, 0))

    assert_same(suppressor(candidates, "nms", 0.5, None), candidates.take(np.array([1, 2])))


@both_forms
def test_nmw_gives_the_reference_values(suppressor: Suppressor) -> None:
    segments = [(0, 10), (1, 11), (2, 9), (20, 30), (21, 31), (0, 10)]
    scores = ([0.9, 0.8, 0.3, 0.7, 0, 0.005], [0.1, 0.2, 0, 0, 0.6, 0.95])
    pairs = [(*segments[row], scores[c][row], c) for row in range(6) for c in range(2) if scores[c][row] > 0.005]

    result = suppressor(candidates_of(*pairs), "nmw", 0.5, None)

    expected = candidates_of((0.1348, 10.1348, 0.95, 1), (0.6090, 10.2519, 0.9, 0), (20, 30, 0.7, 0), (21, 31, 0.6, 1))
    assert_same(result, expected)


@both_forms
def test_nms_allows_an_overlap_at_the_threshold_that_nmw_merges(suppressor: Suppressor) -> None:
    pair = candidates_of((0, 10, 0.9, 0), (0, 3, 0.6, 0))  # overlap 0.3

    assert len(suppressor(pair, "nms", 0.3, None)) == 2
    assert len(suppressor(pair, "nmw", 0.3, None)) == 1


@both_forms
@both_methods
def test_segments_without_length_overlap_nothing(suppressor: Suppressor, method: Method) -> None:
    candidates = candidates_of((5, 5, 0.9, 0), (5, 5, 0.8, 0), (8, 2, 0.7, 0), (2, 8, 0.6, 0))

    assert_same(suppressor(candidates, method, 0.1, None), candidates)


@both_forms
@both_methods
def test_identical_segments_become_one(suppressor: Suppressor, method: Method) -> None:
    candidates = candidates_of(*[(3, 7, 0.5, 0)] * 3000)

    assert_same(suppressor(candidates, method, 1.0 if method == "nmw" else 0.99, None), candidates.take(np.array([0])))


@both_forms
@both_methods
def test_of_equal_scores_the_earlier_row_wins(suppressor: Suppressor, method: Method) -> None:
    rows = [(100 * index, 100 * index + 10, 0.5, index % 3) for index in range(50)]

    assert_same(suppressor(candidates_of(*rows), method, 0.5, None), candidates_of(*rows))


def test_zero_and_negative_scores_are_ordered_as_numbers() -> None:
    candidates = candidates_of((0, 1, -0.0, 0), (5, 6, 0.0, 0), (10, 11, -0.5, 0), (15, 16, -0.25, 0))

    kept = nms(candidates, tiou_threshold=0.5, max_outputs=None)

    assert kept.segments_frames[:, 0].tolist() == [0, 5, 15, 10]


@both_forms
@both_methods
def test_nothing_gives_nothing(suppressor: Suppressor, method: Method) -> None:
    assert_same(suppressor(candidates_of(), method, 0.5, None), candidates_of())


@both_forms
@both_methods
def test_a_single_candidate_stays_as_it_is(suppressor: Suppressor, method: Method) -> None:
    single = candidates_of((54_000.25, 54_017.5, 0.3, 7))

    assert_same(suppressor(single, method, 0.5, None), single, atol_frames=0)


@both_forms
@both_methods
@given(candidates=candidate_sets(), threshold=THRESHOLDS, limit=st.none() | st.integers(1, 10))
@settings(deadline=None, max_examples=150)
def test_the_plain_rule_is_followed(
    suppressor: Suppressor, method: Method, candidates: Candidates, threshold: float, limit: int | None
) -> None:
    result = suppressor(candidates, method, threshold, limit)

    assert_same(result, one_by_one(candidates, method, threshold, limit))


@both_forms
@both_methods
@pytest.mark.parametrize("limit", [None, 700])
def test_the_plain_rule_is_followed_by_thousands(suppressor: Suppressor, method: Method, limit: int | None) -> None:
    candidates = random_candidates(5000, classes=3, seed=0)

    result = suppressor(candidates, method, 0.4, limit)

    assert_same(result, one_by_one(candidates, method, 0.4, limit), atol_frames=1e-3)


@both_methods
@given(candidates=candidate_sets())
@settings(deadline=None, max_examples=50)
def test_threshold_zero_follows_the_plain_rule_too(method: Method, candidates: Candidates) -> None:
    assert_same(with_numpy(candidates, method, 0.0), one_by_one(candidates, method, 0.0))


@both_methods
def test_a_long_chain_of_overlaps_is_resolved_in_order(method: Method) -> None:
    chain = candidates_of(*((index, index + 3, 1 - index / 4096, 0) for index in range(2000)))

    assert_same(with_numpy(chain, method, 0.5), one_by_one(chain, method, 0.5))


@both_forms
@both_methods
@given(candidates=candidate_sets(distinct_scores=True), threshold=THRESHOLDS, seed=st.integers(0, 99))
@settings(deadline=None, max_examples=60)
def test_order_of_candidates_does_not_matter_without_ties(
    suppressor: Suppressor, method: Method, candidates: Candidates, threshold: float, seed: int
) -> None:
    shuffled = candidates.take(np.random.default_rng(seed).permutation(len(candidates)))

    assert_same(suppressor(shuffled, method, threshold, None), suppressor(candidates, method, threshold, None))


@both_forms
@given(candidates=candidate_sets(), threshold=THRESHOLDS)
@settings(deadline=None, max_examples=60)
def test_what_nms_keeps_overlaps_little_and_survives_again(
    suppressor: Suppressor, candidates: Candidates, threshold: float
) -> None:
    kept = suppressor(candidates, "nms", threshold, None)

    for row in range(len(kept)):
        same = np.flatnonzero(kept.classes == kept.classes[row])
        overlap = plain_tiou(kept.segments_frames[row], kept.segments_frames[same[same != row]])
        assert (overlap <= np.float32(threshold)).all()
    assert_same(suppressor(kept, "nms", threshold, None), kept, atol_frames=0)


@both_forms
@both_methods
@given(candidates=candidate_sets(distinct_scores=True), threshold=THRESHOLDS)
@settings(deadline=None, max_examples=60)
def test_classes_never_mix(suppressor: Suppressor, method: Method, candidates: Candidates, threshold: float) -> None:
    together = suppressor(candidates, method, threshold, None)

    for index in range(4):
        alone = suppressor(candidates.take(candidates.classes == index), method, threshold, None)
        assert_same(together.take(together.classes == index), alone)


@both_forms
@both_methods
@given(candidates=candidate_sets(), limit=st.integers(1, 5))
@settings(deadline=None, max_examples=60)
def test_a_limit_gives_the_first_of_the_unlimited(
    suppressor: Suppressor, method: Method, candidates: Candidates, limit: int
) -> None:
    unlimited = suppressor(candidates, method, 0.5, None)

    assert_same(suppressor(candidates, method, 0.5, limit), unlimited.take(np.arange(min(limit, len(unlimited)))))


@both_forms
@both_methods
@given(candidates=candidate_sets(), shift=st.integers(-5000, 50_000), scale=st.sampled_from([0.25, 2, 8]))
@settings(deadline=None, max_examples=60)
def test_moving_or_stretching_the_time_line_moves_or_stretches_the_result(
    suppressor: Suppressor, method: Method, candidates: Candidates, shift: int, scale: float
) -> None:
    moved = Candidates(
        candidates.segments_frames * np.float32(scale) + np.float32(shift), candidates.scores, candidates.classes
    )

    result, base = suppressor(moved, method, 0.5, None), suppressor(candidates, method, 0.5, None)

    segments = base.segments_frames * np.float32(scale) + np.float32(shift)
    assert_same(result, Candidates(segments, base.scores, base.classes), atol_frames=1e-3)


@given(candidates=candidate_sets(), threshold=THRESHOLDS)
@settings(deadline=None, max_examples=60)
def test_nmw_clusters_are_led_by_what_nms_just_below_keeps(candidates: Candidates, threshold: float) -> None:
    below = float(np.nextafter(np.float32(threshold), np.float32(0)))
    weighted, hard = with_numpy(candidates, "nmw", threshold), with_numpy(candidates, "nms", below)

    np.testing.assert_array_equal(weighted.scores, hard.scores)
    np.testing.assert_array_equal(weighted.classes, hard.classes)


@given(candidates=candidate_sets(distinct_scores=True, least_length=1))
@settings(deadline=None, max_examples=60)
def test_nmw_stays_within_the_candidates_of_its_class(candidates: Candidates) -> None:
    assume(len(candidates))
    result = with_numpy(candidates, "nmw", 0.5)

    for index in np.unique(candidates.classes):
        given_segments = candidates.segments_frames[candidates.classes == index]
        found = result.segments_frames[result.classes == index]
        assert found[:, 0].min() >= given_segments[:, 0].min() - 1e-4
        assert found[:, 1].max() <= given_segments[:, 1].max() + 1e-4


def test_a_cluster_of_zero_weight_has_no_mean() -> None:
    result = nmw(candidates_of((0, 1, 0, 0)), tiou_threshold=0.5, max_outputs=None)

    assert np.isnan(result.segments_frames).all()


def test_limit_of_zero_gives_nothing() -> None:
    assert len(nms(candidates_of((0, 1, 0.5, 0)), tiou_threshold=0.5, max_outputs=0)) == 0


def test_two_million_candidates_need_little_memory() -> None:
    candidates = random_candidates(2_000_000, classes=20, seed=1)
    tracemalloc.start()
    try:
        found = nmw(candidates, tiou_threshold=0.5, max_outputs=1200)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert len(found) == 1200
    assert peak_bytes < 300e6


def test_graph_and_numpy_agree_on_a_hundred_thousand_pairs() -> None:
    candidates = random_candidates(100_000, classes=20, seed=2)

    graph, numpy = with_graph(candidates, "nmw", 0.5, 1200), with_numpy(candidates, "nmw", 0.5, 1200)

    assert_same(graph, numpy, atol_frames=2e-3)
