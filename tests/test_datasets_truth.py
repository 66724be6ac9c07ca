"""Segments of a window, and recipes that fit segments."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.config import ModelConfig, Recipe, from_json, preset, to_json
from tallformer_infer.errors import AnnotationError
from tallformer_infer.evaluation.matching import tiou_of_pairs
from tallformer_training.datasets import crop_truth
from tallformer_training.datasets.suggestion import REACHED_TIOU, mirrored_names, reached_part, suggest_recipe
from tallformer_training.loop import TrainingConfig
from tallformer_training.loop.config import THUMOS14, settings_of

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


@pytest.mark.parametrize("levels", [3, 4, 5, 6, 7])
@pytest.mark.parametrize("length_frames", [9.0, 10.0, 11.0, 10.9, 37.0])
def test_the_reached_part_is_that_of_all_places_whatever_the_levels(length_frames: float, levels: int) -> None:
    model = replace(TINY.model, pyramid=replace(TINY.model.pyramid, levels=levels, attention_steps=(5,) * (levels - 1)))

    reached = reached_part(np.array([length_frames]), model)

    assert reached == pytest.approx(slowly_reached_part(length_frames, model), abs=0.02)


def slowly_reached_part(length_frames: float, model: ModelConfig) -> float:
    """By trying all anchors at many places, as the words say."""
    starts = np.linspace(0, model.level_strides[-1], 5003, endpoint=False)
    segments = np.stack([starts, starts + length_frames], axis=1)
    best = np.zeros(len(segments))
    for stride in model.level_strides:
        centres = np.arange(-2, model.level_strides[-1] // stride + 3) * stride
        for scale in range(model.head.scales):
            half = stride * model.head.scale_base * 2 ** (scale / model.head.scales) / 2
            for centre in centres:
                anchor = np.array([[centre - half, centre + half]])
                best = np.maximum(best, tiou_of_pairs(segments, np.repeat(anchor, len(segments), axis=0)))
    return float((best >= REACHED_TIOU).mean())


def test_two_seconds_at_five_frames_per_second_are_reached_in_part_only() -> None:
    reached = reached_part(np.array([10.0]), preset("thumos14-swin-t").model)

    # By hand: the shortest anchors have 16 frames and stand every 8. One holds 10 frames whole, an overlap of 0.625, up
    # to 3 frames from its centre; 0.25 further it is 0.6. The next longer ones have 18.4 frames: 0.54 at most.
    assert reached == pytest.approx(2 * 3.25 / 8, abs=0.02)


def test_segments_of_ignored_classes_decide_nothing(tmp_path: Path) -> None:
    found = [
        suggest_recipe(annotate(tmp_path, lengths_s, labels), subset=None, base=TINY)
        for lengths_s, labels in (([3.0] * 4, ("a",)), ([3.0, 300.0] * 4, ("a", "Ambiguous")))
    ]

    assert found[0] == found[1]


@pytest.mark.parametrize("length_s", [0.5, 2.0, 60.0, 900.0])
@pytest.mark.parametrize("base", ["tiny", "demo", "thumos14-swin-t", "thumos14-swin-t-actionformer", "kinetics400-i3d"])
def test_a_suggested_recipe_can_be_trained_without_settings(tmp_path: Path, base: str, length_s: float) -> None:
    recipe = suggest_recipe(annotate(tmp_path, [length_s] * 5), subset=None, base=preset(base)).recipe

    TrainingConfig().require_fit(recipe)


def test_shorter_actions_need_more_frames_per_second(tmp_path: Path) -> None:
    rates = [
        suggest_recipe(annotate(tmp_path, [length] * 9), subset=None, base=TINY).recipe.sampling.sample_fps
        for length in (20.0, 5.0, 1.0)
    ]

    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


@pytest.mark.parametrize(
    ("length_s", "fps", "levels"), [(0.5, 25.0, 5), (3.0, 25.0, 5), (40.0, 25.0, 7), (90.0, 12.0, 7)]
)
def test_real_films_keep_the_rate_of_the_encoder_while_a_window_holds_the_actions(
    tmp_path: Path, length_s: float, fps: float, levels: int
) -> None:
    annotations = annotate(tmp_path, [length_s] * 5)

    recipe = suggest_recipe(annotations, subset=None, base=preset("kinetics400-i3d")).recipe

    assert recipe.sampling.sample_fps == fps
    assert recipe.model.pyramid.levels == levels
    assert recipe.window.window_frames / fps >= length_s / (1 - recipe.window.overlap)


@pytest.mark.parametrize("length_s", [2.0, 40.0])
def test_a_model_with_points_keeps_its_head_when_it_is_trained_again(tmp_path: Path, length_s: float) -> None:
    annotations = annotate(tmp_path, [length_s] * 5)
    first = suggest_recipe(annotations, subset=None, base=preset("kinetics400-i3d")).recipe

    again = suggest_recipe(annotations, subset=None, base=first).recipe

    assert again == replace(first, name=again.name)


@pytest.mark.parametrize(("length_s", "warns"), [(0.05, True), (3.0, False), (60.0, False), (3000.0, True)])
def test_lengths_that_points_cannot_find_are_told(tmp_path: Path, length_s: float, warns: bool) -> None:
    found = suggest_recipe(annotate(tmp_path, [length_s] * 25), subset=None, base=preset("kinetics400-i3d"))

    assert any("are shorter than a step or longer than a window" in line for line in found.explanation) is warns


def test_twenty_videos_of_real_film_take_500_steps(tmp_path: Path) -> None:
    recipe = suggest_recipe(annotate(tmp_path, [3.0] * 5), subset=None, base=preset("kinetics400-i3d")).recipe
    settings = settings_of(recipe)

    assert settings.epochs * 20 * settings.windows_per_video / settings.batch_windows == settings.least_steps == 500
    assert settings.lasting(40).schedule.period_epochs == 40


def test_a_schedule_with_restarts_keeps_its_period() -> None:
    assert THUMOS14.lasting(40).schedule.period_epochs == THUMOS14.schedule.period_epochs


def warnings_of(
    tmp_path: Path, counts: dict[str, int], *, end_s: float = 13.0, duration_s: float | None = 60.0
) -> list[str]:
    rows = [{"segment": [10.0, 13.0], "label": label} for label, count in counts.items() for _ in range(count)]
    rows[-1]["segment"] = [10.0, end_s]
    entry = {"annotations": rows} | ({} if duration_s is None else {"duration": duration_s})
    (tmp_path / "a.json").write_text(json.dumps({"database": {"v": entry}}))
    lines = suggest_recipe(tmp_path / "a.json", subset=None, base=TINY).explanation
    return [line for line in lines if line.startswith("warning: ") and "fewer than" not in line]


def test_an_end_far_behind_the_video_may_be_a_typo(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, {"run": 20}, end_s=130.0) == [
        "warning: database.v.annotations[19].segment: ends at 130 s, the video at 60 s; a typo?"
    ]
    assert warnings_of(tmp_path, {"run": 20}, end_s=62.9) == []  # less than 5 % of 60 s
    assert warnings_of(tmp_path, {"run": 20}, end_s=130.0, duration_s=None) == []


@pytest.mark.parametrize(
    ("counts", "expected"),
    [
        ({"high jump": 20, "high jmup": 1}, "class 'high jmup' has 1 segment, 'high jump' has 20; a typo?"),
        ({"High_Jump": 20, "high jump": 1}, "class 'high jump' has 1 segment, 'High_Jump' has 20; a typo?"),
        ({"high jump": 20, "long jump": 1}, None),
        ({"turn to the left": 20, "turn to the left ": 2}, None),  # twice: no slip of the keyboard
    ],
)
def test_a_class_of_one_segment_that_is_nearly_called_like_another_may_be_a_typo(
    tmp_path: Path, counts: dict[str, int], expected: str | None
) -> None:
    assert warnings_of(tmp_path, counts) == ([f"warning: {expected}"] if expected else [])


def test_mirrored_classes_are_no_typo_and_the_option_for_them_is_shown(tmp_path: Path) -> None:
    assert warnings_of(tmp_path, {"turn the wheel left": 20, "turn the wheel right": 1}) == [
        "warning: these classes look like mirror images (turn the wheel left / turn the wheel right), and training "
        "mirrors videos: add --mirrored 'turn the wheel left=turn the wheel right' to the training command"
    ]


def test_segments_that_nothing_fits_are_named(tmp_path: Path) -> None:
    suggestion = suggest_recipe(annotate(tmp_path, [0.01] * 5), subset=None, base=TINY)

    assert any(line.startswith("warning: 100.0 % of the segments match no anchor") for line in suggestion.explanation)


def test_an_anchors_own_length_is_reached_and_a_tenth_of_the_shortest_is_not() -> None:
    model = replace(TINY.model)

    assert reached_part(np.array([64.0]), model) == 1
    assert reached_part(np.array([1.6]), model) == 0


def test_classes_that_are_mirror_images_are_found(tmp_path: Path) -> None:
    assert mirrored_names(("spin left", "spin right", "leftover", "jump")) == [("spin left", "spin right")]
    explanation = suggest_recipe(annotate(tmp_path, [3.0] * 4, ("go left", "go right")), subset=None, base=TINY)
    assert "go left / go right" in explanation.explanation[-1]


@pytest.mark.parametrize(
    ("lengths_s", "label", "message"),
    [
        ([], "a", "no annotated segment"),
        ([3.0], "Ambiguous", "no annotated segment"),
        ([-1.0], "a", "ends at 9 s, starts at 10 s"),
    ],
)
def test_nothing_is_suggested_for_no_segments_or_wrong_ones(
    tmp_path: Path, lengths_s: list[float], label: str, message: str
) -> None:
    with pytest.raises(AnnotationError, match=message):
        suggest_recipe(annotate(tmp_path, lengths_s, (label,)), subset=None, base=TINY)
