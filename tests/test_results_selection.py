"""Which actions are kept, and in which order."""

from __future__ import annotations

import dataclasses
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.errors import ConfigError
from tallformer_infer.results import check_selection, select_actions
from tests.result_samples import action

ACTIONS = st.lists(
    st.builds(
        action,
        start_s=st.floats(0, 100),
        end_s=st.floats(100, 200),
        label=st.sampled_from(["run", "jump", "sit"]),
        score=st.sampled_from([0.0, 0.1, 0.5, 0.5000001, 1.0]),
    ),
    max_size=12,
)


def test_no_filter_keeps_all_sorted_by_start_then_end_then_falling_score():
    late = action(5, 6)
    long = action(1, 9)
    weak = action(1, 3, score=0.2)
    strong = action(1, 3, score=0.9)

    assert select_actions([late, long, weak, strong]) == (strong, weak, long, late)


def test_nothing_in_nothing_out():
    assert select_actions([], threshold=0.5, top_k=3, classes=["wave"]) == ()


def test_threshold_keeps_a_score_that_equals_it():
    at, below = action(0, 1, score=0.5), action(0, 1, score=math.nextafter(0.5, 0))

    assert select_actions([at, below], threshold=0.5) == (at,)


def test_threshold_zero_keeps_a_score_of_zero():
    assert len(select_actions([action(0, 1, score=0.0)], threshold=0.0)) == 1


def test_top_k_keeps_the_best_in_the_order_of_the_video():
    first, second, third = action(0, 1, score=0.3), action(1, 2, score=0.1), action(2, 3, score=0.9)

    assert select_actions([third, second, first], top_k=2) == (first, third)


def test_top_k_prefers_the_earlier_of_equal_scores_whatever_the_order_given():
    early, late = action(0, 1), action(4, 5)

    assert select_actions([late, early], top_k=1) == (early,)
    assert select_actions([early, late], top_k=1) == (early,)


def test_top_k_counts_after_the_class_filter():
    kept, better = action(0, 1, "run", 0.1), action(0, 1, "sit", 0.9)

    assert select_actions([kept, better], top_k=1, classes=["run"]) == (kept,)


@given(ACTIONS, st.integers(0, 2**32))
def test_selection_does_not_depend_on_the_order_given(actions, seed):
    shuffled = random.Random(seed).sample(actions, len(actions))

    options = {"threshold": 0.1, "top_k": 4, "classes": ["run", "sit"]}
    assert select_actions(shuffled, **options) == select_actions(actions, **options)


@given(ACTIONS, st.integers(1, 15))
def test_what_top_k_leaves_out_is_not_better_than_what_it_keeps(actions, top_k):
    kept = select_actions(actions, top_k=top_k)

    left_out = list(actions)
    for one in kept:
        left_out.remove(one)
    assert len(kept) == min(top_k, len(actions))
    assert not left_out or not kept or max(a.score for a in left_out) <= min(a.score for a in kept)


@pytest.mark.parametrize("threshold", [-0.01, 1.01, math.nan, math.inf])
def test_threshold_out_of_range_is_refused(threshold):
    with pytest.raises(ConfigError, match=rf"threshold={threshold} must be in \[0, 1\]"):
        select_actions([], threshold=threshold)


def test_top_k_below_one_is_refused():
    with pytest.raises(ConfigError, match="top_k=0 must be at least 1"):
        select_actions([], top_k=0)


def test_an_empty_list_of_classes_is_refused():
    with pytest.raises(ConfigError, match="expected at least one name"):
        select_actions([], classes=[])


def test_unknown_class_is_refused_with_near_matches_and_where_to_see_all():
    known = ["GolfSwing", "TennisSwing", "Diving"]

    with pytest.raises(ConfigError) as caught:
        check_selection(classes=["golfswing"], known=known, see="tallformer info demo")

    message = str(caught.value)
    assert message.startswith("class 'golfswing': no such class; did you mean 'GolfSwing'")
    assert "Diving" not in message
    assert message.endswith("`tallformer info demo` lists all 3")


def test_unknown_class_without_a_near_match_names_none():
    with pytest.raises(ConfigError, match="class 'xyzzy': no such class; `tallformer info MODEL` lists all 1"):
        select_actions([], classes=["xyzzy"], known=["run"])


def test_selection_leaves_the_actions_themselves_alone():
    one = action(0, 1)

    assert select_actions([one], threshold=0.1) == (dataclasses.replace(one),)
