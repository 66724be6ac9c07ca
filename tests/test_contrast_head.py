"""Segments scored by contrast: values by hand, and what must not matter."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tallformer_export.graphs import LocalizerGraph, localizer_onnx
from tallformer_infer.bundle.checks import refusal
from tallformer_infer.config import (
    ContrastHeadConfig,
    PyramidConfig,
    Recipe,
    TcmConfig,
    WindowConfig,
    preset,
    recipe_from_json,
    to_json,
)
from tallformer_infer.errors import ConfigError
from tallformer_infer.timeline import Timeline
from tallformer_training.model.contrast_head import ContrastHead, ContrastOutputs, segment_grid
from tests.contrast_recipe import CONTRAST, HEAD, with_head
from tests.small_detector import build

pytestmark = pytest.mark.usefixtures("one_thread")

TWO_CLASSES = replace(CONTRAST, classes=("action", "rest"))
STRIDE = 8


def head_of(recipe: Recipe) -> ContrastHead:
    """A head whose classifier gives its first channels as they are."""
    assert isinstance(recipe.model.head, ContrastHeadConfig)
    head = ContrastHead(recipe, recipe.model.head)
    torch.nn.init.zeros_(head.classifier.bias)
    torch.nn.init.eye_(head.classifier.weight)
    return head


def features_of(probabilities: Sequence[float], recipe: Recipe) -> Tensor:
    """Features by which the first of two classes has these probabilities, shape (1, C, S)."""
    first = torch.tensor(probabilities)
    features = torch.zeros(1, recipe.model.backbone.out_channels, len(first))
    features[0, 0], features[0, 1] = first.log(), (1 - first).log()
    return features


def scores_of(
    probabilities: Sequence[float], recipe: Recipe, *, real_frames: int | None = None, start_frame: int = 0
) -> dict[tuple[float, float], float]:
    """Scores above 0 of the first class, by segment in steps of the video."""
    head = head_of(recipe)
    steps = list(probabilities) + [0.5] * (recipe.window_steps - len(probabilities))
    real = torch.tensor([len(probabilities) * STRIDE if real_frames is None else real_frames])
    with torch.no_grad():
        outputs = head(features_of(steps, recipe), real)
        found = head.decode(outputs, torch.tensor([start_frame]), real)
    scored = zip(found.segments_frames[0].tolist(), found.scores[0, :, 0].tolist(), strict=True)
    return {(start / STRIDE, end / STRIDE): score for (start, end), score in scored if score > 0}


def test_a_segment_is_scored_by_the_probability_inside_less_that_in_its_margins() -> None:
    found = scores_of([0.1, 0.1, 0.1, 0.2, 0.9, 0.7, 0.4, 0.1, 0.1], TWO_CLASSES)

    assert found[4, 6] == pytest.approx((0.9 + 0.7) / 2 - (0.2 + 0.4) / 2, abs=1e-6)  # margins of 1 step
    assert found[3, 7] == pytest.approx((0.2 + 0.9 + 0.7 + 0.4) / 4 - (0.1 + 0.1 + 0.1 + 0.1) / 4, abs=1e-6)  # of 2
    assert (6, 8) not in found  # 0.25 inside, 0.7 and 0.1 around it
    assert max(found, key=lambda segment: found[segment]) == (4, 6)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"margins": "larger"}, 0.8 - 0.4),
        ({"contrast_weight": 0.5}, 0.8 - 0.5 * 0.3),
        ({"contrast_weight": 0.0}, 0.8),
        ({"inside_power": 2.0}, 0.8**2 * 0.5),
        ({"inside_power": 0.5, "contrast_power": 0.5}, math.sqrt(0.8 * 0.5)),
    ],
)
def test_how_inside_and_margins_are_put_together(changes: dict[str, object], expected: float) -> None:
    recipe = replace(with_head(**changes), classes=TWO_CLASSES.classes)

    found = scores_of([0.1, 0.1, 0.1, 0.2, 0.9, 0.7, 0.4, 0.1, 0.1], recipe)

    assert found[4, 6] == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("edge_part", [0.0, 0.25, 1.0])
def test_margins_beyond_the_ends_of_the_video_count_as_a_part_of_the_inside(edge_part: float) -> None:
    recipe = replace(with_head(edge_part=edge_part), classes=TWO_CLASSES.classes)

    found = scores_of([0.8, 0.6, 0.1, 0.1, 0.1, 0.5, 0.7], recipe, real_frames=51)  # the last step has 3 of 8 frames

    assert found[0, 2] == pytest.approx(0.7 - (edge_part * 0.7 + 0.1) / 2, abs=1e-6)
    assert found[5, 51 / 8] == pytest.approx(0.6 - (0.1 + edge_part * 0.6) / 2, abs=1e-6)
    # Four steps of which two are real, cut off at the end.
    assert found.get((5, 51 / 8)) is not None
    assert max(end for _, end in found) == 51 / 8


def test_steps_behind_the_end_change_nothing() -> None:
    head = head_of(replace(with_head(smoothing_steps=3, logit_steps=3), classes=TWO_CLASSES.classes))
    features = features_of([0.3, 0.8, 0.6, 0.1, *[0.5] * 20], TWO_CLASSES)
    other = features.clone()
    other[..., 4:] = 7.0
    start, real = torch.tensor([0]), torch.tensor([4 * STRIDE])

    with torch.no_grad():
        found, expected = (head.decode(head(one, real), start, real) for one in (features, other))

    torch.testing.assert_close(found.scores, expected.scores)
    assert found.scores.max() > 0.1


def test_outputs_and_probabilities_are_averaged_over_real_steps_only() -> None:
    probabilities = [0.9, 0.3, 0.6, 0.2]
    head = head_of(replace(with_head(smoothing_steps=3), classes=TWO_CLASSES.classes))
    steps = [*probabilities, *[0.5] * 20]

    smoothed = head(features_of(steps, TWO_CLASSES), torch.tensor([4 * STRIDE])).probabilities[0, :, 0].detach()
    assert smoothed[:5].tolist() == pytest.approx([1.2 / 2, 1.8 / 3, 1.1 / 3, 0.8 / 2, 0], abs=1e-6)

    head = head_of(replace(with_head(logit_steps=3, temperature=2.0), classes=TWO_CLASSES.classes))
    first = head(features_of(steps, TWO_CLASSES), torch.tensor([4 * STRIDE])).probabilities[0, 0, 0].detach()
    odds = (math.log(0.9 / 0.1) + math.log(0.3 / 0.7)) / 2 / 2
    assert float(first) == pytest.approx(1 / (1 + math.exp(-odds)), abs=1e-6)


@given(st.lists(st.floats(0, 0.4), min_size=24, max_size=24), st.floats(0.05, 0.5))
@settings(max_examples=10, deadline=None)
def test_a_constant_background_changes_no_score_and_so_no_order(probabilities: list[float], background: float) -> None:
    head = head_of(TWO_CLASSES)
    start, real = (
        torch.tensor([STRIDE * 8]),
        torch.tensor([TWO_CLASSES.window.window_frames]),
    )  # not at the video's ends
    values = torch.tensor(probabilities)[None, :, None].expand(1, 24, 2)
    ones = torch.ones(1, 24)

    plain = head.decode(ContrastOutputs(values, ones), start, real).scores
    raised = head.decode(ContrastOutputs(values + background, ones), start, real).scores

    torch.testing.assert_close(plain, raised, atol=1e-5, rtol=0)


def candidates_of(features: np.ndarray, frames: int, recipe: Recipe) -> dict[tuple[float, float, int], float]:
    """Scores above 0 by segment and class, of all windows of a video; each must be given once."""
    head = head_of(recipe)
    timeline = Timeline(recipe.window, recipe.window.shared_step_frames)
    clip, steps = recipe.window.clip_frames, recipe.clip_steps
    laid = []
    for index in range(-(-frames // clip)):
        real = min(clip, frames - index * clip)
        laid += timeline.add(index * clip, real, features[:, index * steps : (index + 1) * steps])
    laid += timeline.finish(lambda: np.full((len(features), steps), 5.0, np.float32))
    found: dict[tuple[float, float, int], float] = {}
    for window in laid:
        start, real_frames = torch.tensor([window.start_frame]), torch.tensor([window.real_frames])
        with torch.no_grad():
            decoded = head.decode(head(torch.from_numpy(window.features)[None], real_frames), start, real_frames)
        for row, kind in (decoded.scores[0] > 0).nonzero().tolist():
            first = float(decoded.segments_frames[0, row, 0])
            key = (first, first + int(head.lengths[row]) * STRIDE, kind)  # before it is cut off at the end
            assert key not in found
            found[key] = float(decoded.scores[0, row, kind])
    return found


def film(steps: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 2, (CONTRAST.model.backbone.out_channels, steps)).astype(np.float32)


@given(frames=st.integers(1, 420))
@settings(max_examples=15, deadline=None)
def test_where_windows_lie_changes_nothing(frames: int) -> None:
    """Of one window around all of the video, and of many, the candidates are the same."""
    recipe = with_head(smoothing_steps=3)
    whole = replace(recipe, window=replace(recipe.window, window_frames=448, overlap=6 / 7))
    features = film(2 * -(-frames // 16))

    found, expected = candidates_of(features, frames, recipe), candidates_of(features, frames, whole)

    assert found.keys() == expected.keys()
    assert all(found[key] == pytest.approx(expected[key], abs=1e-5) for key in found)


def test_a_film_that_is_shifted_by_a_clip_has_its_candidates_shifted() -> None:
    lengths = (2, 4, 8, 9)
    recipe = with_head(lengths_steps=lengths, stride_part=0.5)
    features = film(60)
    shifted = np.concatenate([film(2, seed=1), features], axis=1)

    found, moved = candidates_of(features, 480, recipe), candidates_of(shifted, 496, recipe)

    inner = {key: score for key, score in found.items() if key[0] >= 2 * STRIDE}
    assert len(inner) > 300
    for (start, end, kind), score in inner.items():
        assert moved[start + 16, end + 16, kind] == pytest.approx(score, abs=1e-5)


def test_starts_lie_closer_for_shorter_segments_and_divide_a_clip() -> None:
    head = replace(HEAD, lengths_steps=(2, 5, 16, 100), stride_part=0.25, least_margin_steps=2, most_margin_steps=9)

    rows = segment_grid(head, window_steps=16, clip_steps=8).tolist()

    starts = {length: [start for start, own, _ in rows if own == length] for length in (2, 5, 16, 100)}
    assert starts[2] == starts[5] == list(range(16))
    assert starts[16] == [0, 4, 8, 12]
    assert starts[100] == [0, 8]
    assert {length: margin for _, length, margin in rows} == {2: 2, 5: 3, 16: 8, 100: 9}


def test_the_graph_equals_torch_and_has_allowed_operators_only() -> None:
    recipe = with_head(smoothing_steps=3, logit_steps=3, margins="larger", inside_power=0.5, edge_part=0.3)
    detector = build(recipe).eval()
    model = localizer_onnx(detector)

    assert refusal(model.SerializeToString(), "localizer") is None
    import onnxruntime as ort  # noqa: PLC0415

    features = torch.from_numpy(film(48)).reshape(-1, 2, 24).transpose(0, 1).contiguous()
    starts, real = torch.tensor([0, 64]), torch.tensor([192, 77])
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    found = session.run(
        None, {"features": features.numpy(), "start_frames": starts.numpy(), "real_frames": real.numpy()}
    )
    with torch.no_grad():
        expected = LocalizerGraph(detector)(features, starts, real)

    wanted = expected[1].numpy()
    is_scored = wanted > 1e-5  # the others are no candidates
    assert is_scored.sum() > 40
    np.testing.assert_allclose(found[1], wanted, atol=1e-6)
    np.testing.assert_allclose(found[0][is_scored], expected[0].numpy()[is_scored], atol=1e-3)
    np.testing.assert_array_equal(found[2][is_scored], expected[2].numpy()[is_scored])
    assert len(model.SerializeToString()) < 4 * detector.head.classifier.weight.numel() + 30_000  # no dense matrices


def test_only_the_classifier_has_weights() -> None:
    names = {name for name in build(CONTRAST).state_dict() if not name.startswith("backbone.")}

    assert names == {"head.classifier.weight", "head.classifier.bias"}


def test_a_recipe_comes_back_from_json() -> None:
    assert recipe_from_json(to_json(CONTRAST)) == CONTRAST
    assert recipe_from_json(to_json(preset("kinetics400-i3d"))) == preset("kinetics400-i3d")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lengths_steps": ()}, "must be given"),
        ({"lengths_steps": (4, 4)}, "each longer than the one before"),
        ({"lengths_steps": (0, 4)}, "must be at least 1"),
        ({"smoothing_steps": 2}, "smoothing_steps=2 must be odd"),
        ({"temperature": 0.0}, "temperature=0.0 must be above 0"),
        ({"edge_part": -0.1}, "edge_part=-0.1 must be at least 0"),
        ({"most_margin_steps": 0}, "most_margin_steps=0 must be at least least_margin_steps=1"),
        ({"lengths_steps": (2, 13)}, "window_frames=192 must be at least 200 for the longest of lengths_steps, 13"),
    ],
)
def test_settings_that_cannot_be_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        with_head(**change)


@pytest.mark.parametrize(
    "window",
    [
        WindowConfig(window_frames=192, clip_frames=16, overlap=2 / 3),
        WindowConfig(window_frames=192, clip_frames=16, overlap=0.7, ends_partly=True),
    ],
)
def test_windows_that_share_segments_are_refused(window: WindowConfig) -> None:
    with pytest.raises(ConfigError, match=r"head\.kind=contrast needs ends_partly=true and an overlap by whole"):
        replace(CONTRAST, window=window)


def test_a_transformer_over_the_window_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"tcm must be null for head\.kind=contrast"):
        replace(CONTRAST.model, tcm=TcmConfig())
    assert replace(CONTRAST.model, pyramid=PyramidConfig(levels=3, attention_steps=(3, 3))).level_strides == (8,)
