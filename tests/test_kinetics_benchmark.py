"""The benchmark of the contrast head: its film, its scores and its count of false alarms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.kinetics.contrast import Found, Settings, detect
from benchmarks.kinetics.film import FILM_FPS, Shot, Truth, arrange, truths
from benchmarks.kinetics.judging import judge

CLASSES = ("hugging", "side kick", "high kick")
PLAIN = Settings(
    logit_steps=1,
    shortest_s=4.0,
    longest_s=4.0,
    margins="mean",
    margin_part=0.5,
    least_margin_s=1.0,
    suppression="nms",
)


def _logits(probabilities: list[list[float]]) -> np.ndarray:
    logits: np.ndarray = np.log(np.array(probabilities))
    return logits


def test_contrast_is_the_mean_inside_less_the_mean_of_both_margins() -> None:
    """Four steps of 0.9 between two of 0.1 and two of 0.3: 0.9 - 0.2, times 0.9, and the root of it."""
    sure, before, after = [0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.3, 0.35, 0.35]
    logits = _logits([before, before, sure, sure, sure, sure, after, after])

    best = detect(logits, 1.0, PLAIN)[0]

    assert (best.start_s, best.end_s, best.kind) == (2.0, 6.0, 0)
    assert best.score == pytest.approx((0.7 * 0.9) ** 0.5)


def test_the_larger_margin_counts_where_it_is_asked_for() -> None:
    sure, before, after = [0.9, 0.05, 0.05], [0.1, 0.45, 0.45], [0.3, 0.35, 0.35]
    logits = _logits([before, before, sure, sure, sure, sure, after, after])

    best = detect(logits, 1.0, replace(PLAIN, margins="larger", combination="contrast"))[0]

    assert best.score == pytest.approx(0.9 - 0.3)


def test_groups_are_counted_as_their_first_class() -> None:
    quiet, kick = [0.98, 0.01, 0.01], [0.2, 0.35, 0.45]
    logits = _logits([quiet, quiet, kick, kick, kick, kick, quiet, quiet])

    best = detect(logits, 1.0, replace(PLAIN, combination="contrast"), groups=((1, 2),))[0]

    assert best.kind == 1
    assert best.score == pytest.approx(0.8 - 0.02)


def test_barriers_keep_segments_within_a_shot() -> None:
    logits = _logits([[0.1, 0.45, 0.45]] * 2 + [[0.9, 0.05, 0.05]] * 4 + [[0.1, 0.45, 0.45]] * 2)

    found = detect(logits, 1.0, replace(PLAIN, barriers=True), cuts_s=(4.0,), least_score=0.01)

    assert all(one.start_s >= 3.0 or one.end_s <= 5.0 for one in found)


def test_a_truth_is_found_once_and_what_is_left_are_false_alarms() -> None:
    known = [Truth("hug", 10.0, 20.0), Truth("kick", 30.0, 32.0), Truth("hug", 50.0, 60.0, is_optional=True)]
    found = [
        Found(10.0, 19.0, 0, 0.9),
        Found(10.0, 20.0, 0, 0.8),  # the same again
        Found(30.0, 32.0, 2, 0.7),  # another name of a kick
        Found(52.0, 58.0, 0, 0.6),  # optional
        Found(70.0, 75.0, 1, 0.5),
    ]

    judged = judge(found, known, CLASSES, duration_s=3600)

    assert judged.finds == (0, None, 1, None)
    assert judged.at(0.75).recall == 0.5
    point = judged.best(alarms_per_hour=1)
    assert (point.threshold, point.false_alarms, point.recall) == (0.7, 1, 1.0)


def test_a_film_repeats_its_scenes_and_knows_when_actions_are() -> None:
    scenes = [[Shot("a", 90, "hug", 14, 76)], [Shot("b", 60)]]

    placed = arrange(scenes, minutes=0.2, seed=3)

    assert sum(one.frames for one in placed) >= 12 * FILM_FPS
    assert {one.is_mirrored for one in placed} == {False, True}
    at, expected = 0, []
    for one in placed:
        if one.shot.label:
            expected.append(Truth("hug", (at + 14) / 30, (at + 76) / 30))
        at += one.frames
    assert truths(placed) == expected
    assert placed == arrange(scenes, minutes=0.2, seed=3)
