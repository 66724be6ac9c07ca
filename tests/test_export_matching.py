"""The final actions of torch and of a bundle are matched one to one."""

from __future__ import annotations

from tallformer_export.parity import FP32_LIMITS, compare_actions
from tallformer_infer.structures import Action


def action(start_s: float, end_s: float, score: float = 0.5, label: str = "run") -> Action:
    return Action(start_s=start_s, end_s=end_s, label=label, score=score)


def counts(here: list[Action], there: list[Action]) -> tuple[int, float | None, float | None, float | None]:
    """Matched pairs, share without a pair, the highest score of those, and the worst difference of a pair's scores."""
    matched, differences = compare_actions(here, there, FP32_LIMITS)
    return (
        matched.matched,
        differences["actions.unmatched"].worst,
        differences["actions.unmatched_score"].worst,
        differences["actions.scores"].worst,
    )


def test_actions_match_from_an_overlap_of_95_percent_on() -> None:
    assert counts([action(0, 20)], [action(0, 19)]) == (1, 0.0, 0.0, 0.0)
    assert counts([action(0, 20)], [action(0, 18.99)]) == (0, 1.0, 0.5, 0.0)


def test_actions_of_two_classes_never_match() -> None:
    assert counts([action(0, 20)], [action(0, 20, 0.25, "jump")]) == (0, 1.0, 0.5, 0.0)


def test_an_action_matches_once() -> None:
    assert counts([action(0, 20)], [action(0, 20), action(0, 20, 0.25)]) == (1, 0.333, 0.25, 0.0)


def test_the_scores_of_a_pair_are_compared() -> None:
    assert counts([action(0, 20, 0.5), action(30, 40, 0.25)], [action(30, 40, 0.375), action(0, 20, 0.5)]) == (
        2,
        0.0,
        0.0,
        0.125,
    )


def test_no_actions_are_the_same_as_no_actions() -> None:
    assert counts([], []) == (0, 0.0, 0.0, 0.0)
    assert counts([], [action(0, 1)]) == counts([action(0, 1)], []) == (0, 1.0, 0.5, 0.0)
