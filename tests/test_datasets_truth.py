"""Segments of a window, and recipes that fit segments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.config import Recipe, from_json, preset, to_json
from tallformer_infer.errors import AnnotationError
from tallformer_training.datasets import crop_truth
from tallformer_training.datasets.suggestion import mirrored_names, reached_part, suggest_recipe

TINY = preset("tiny")


def crop(*segments: tuple[float, float], start: int = 0, frames: int = 480) -> list[tuple[float, float]]:
    rows = np.array(segments, np.float64).reshape(-1, 2)
    found = crop_truth(rows, np.arange(len(rows)), start_frame=start, frames=frames)
    return [(first, last) for first, last in found.segments_frames.tolist()]


def test_the_reference_cases() -> None:
    assert crop((100, 130), (440, 500), (460, 500), (-500, 700)) == [(100, 130), (0, 480)]


@pytest.mark.parametrize(("end", "is_kept"), [(579, True), (580, False)])
def test_more_than_three_quarters_must_lie_inside(end: float, is_kept: bool) -> None:
    # [180, 580] has exactly 300 of its 400 frames before frame 480
    assert bool(crop((180, end))) is is_kept


def test_no_segments_give_no_segments() -> None:
    assert crop() == []
    assert crop((10, 20), start=100) == []


@given(
    st.lists(st.tuples(st.floats(0, 900), st.floats(0.1, 600)), max_size=8), st.integers(0, 600), st.integers(1, 480)
)
def test_what_is_kept_lies_in_the_window_in_order(drawn: list[tuple[float, float]], start: int, frames: int) -> None:
    rows = np.array([(first, first + length) for first, length in drawn], np.float64).reshape(-1, 2)
    found = crop_truth(rows, np.arange(len(rows)), start_frame=start, frames=frames)

    assert (found.segments_frames >= 0).all()
    assert (found.segments_frames <= frames).all()
    assert (found.segments_frames[:, 1] > found.segments_frames[:, 0]).all()
    assert (np.diff(found.labels) > 0).all()


def annotate(folder: Path, lengths_s: list[float], labels: tuple[str, ...] = ("a",)) -> Path:
    rows = [
        {"segment": [10.0, 10.0 + length], "label": labels[index % len(labels)]}
        for index, length in enumerate(lengths_s)
    ]
    path = folder / "mine.json"
    path.write_text(json.dumps({"database": {"v": {"annotations": rows}}}))
    return path


@pytest.mark.parametrize("longest_s", [3.0, 30.0, 300.0])
def test_a_suggested_recipe_reaches_the_segments(tmp_path: Path, longest_s: float) -> None:
    lengths_s = np.geomspace(longest_s / 8, longest_s, 50)

    recipe = suggest_recipe(annotate(tmp_path, lengths_s.tolist(), ("b", "a")), subset=None, base=TINY).recipe

    fps = recipe.sampling.sample_fps
    assert reached_part(lengths_s * fps, recipe.model) >= 0.97
    assert recipe.window.window_frames / fps >= longest_s
    assert recipe.classes == ("a", "b")
    assert recipe.name == "mine"
    assert from_json(Recipe, json.loads(json.dumps(to_json(recipe))), where="recipe") == recipe


def test_shorter_actions_need_more_frames_per_second(tmp_path: Path) -> None:
    rates = [
        suggest_recipe(annotate(tmp_path, [length] * 9), subset=None, base=TINY).recipe.sampling.sample_fps
        for length in (20.0, 5.0, 1.0)
    ]

    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_segments_that_nothing_fits_are_named(tmp_path: Path) -> None:
    suggestion = suggest_recipe(annotate(tmp_path, [0.01] * 5), subset=None, base=TINY)

    assert any(line.startswith("warning: 100.0 % of the segments fit none") for line in suggestion.explanation)


def test_an_anchors_own_length_is_reached_and_a_tenth_of_the_shortest_is_not() -> None:
    model = replace(TINY.model)

    assert reached_part(np.array([64.0]), model) == 1
    assert reached_part(np.array([1.6]), model) == 0


def test_classes_that_are_mirror_images_are_found(tmp_path: Path) -> None:
    assert mirrored_names(("spin left", "spin right", "leftover", "jump")) == [("spin left", "spin right")]
    explanation = suggest_recipe(annotate(tmp_path, [3.0] * 4, ("go left", "go right")), subset=None, base=TINY)
    assert "go left / go right" in explanation.explanation[-1]


@pytest.mark.parametrize("lengths_s", [[], [-1.0]])
def test_nothing_is_suggested_for_no_segments_or_wrong_ones(tmp_path: Path, lengths_s: list[float]) -> None:
    with pytest.raises(AnnotationError):
        suggest_recipe(annotate(tmp_path, lengths_s), subset=None, base=TINY)
