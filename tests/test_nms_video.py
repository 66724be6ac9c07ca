"""From scores to pairs, and suppression as a recipe asks for it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import onnx
import pytest

from tallformer_export.suppress_graph import build_suppress_graph
from tallformer_infer.bundle import load_bundle
from tallformer_infer.config import SuppressConfig
from tallformer_infer.config.recipe import Suppression
from tallformer_infer.errors import BundleError, ConfigError
from tallformer_infer.nms import nms, nmw, pairs_above, soft_nms, suppress
from tallformer_infer.runtime import OnnxRuntime
from tallformer_infer.structures import Candidates
from tests.nms_suppressors import assert_same, candidates_of, run_graph

CANDIDATES = candidates_of((0, 10, 0.9, 0), (1, 11, 0.8, 0), (0, 10, 0.3, 1), (40, 50, 0.25, 0), (60, 70, 0.1, 2))


def test_pairs_come_by_segment_then_class_and_strictly_above_the_threshold() -> None:
    segments = np.array([[0, 1], [2, 3]], np.float32)
    scores = np.array([[0.5, 0.2, 0.9], [0.1, 0.7, 0.5]], np.float32)

    pairs = pairs_above(segments, scores, score_threshold=0.2)

    assert_same(pairs, candidates_of((0, 1, 0.5, 0), (0, 1, 0.9, 2), (2, 3, 0.7, 1), (2, 3, 0.5, 2)))


def test_no_segments_give_no_pairs() -> None:
    assert len(pairs_above(np.zeros((0, 2), np.float32), np.zeros((0, 20), np.float32), score_threshold=0)) == 0


def test_pairs_refuse_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match=r"segments_frames.shape = \(3, 2\), scores.shape = \(2, 4\)"):
        pairs_above(np.zeros((3, 2), np.float32), np.zeros((2, 4), np.float32), score_threshold=0)


def test_pairs_refuse_scores_that_are_no_numbers() -> None:
    scores = np.array([[0.5], [np.nan]], np.float32)

    with pytest.raises(ValueError, match="got NaN for segment 1"):
        pairs_above(np.zeros((2, 2), np.float32), scores, score_threshold=0)


def test_each_method_is_the_one_of_its_name() -> None:
    above = CANDIDATES.take(CANDIDATES.scores > np.float32(0.1))
    soft = {"tiou_threshold": 0.4, "sigma": 0.7, "min_score": 0.01, "max_outputs": 3}
    expected = {
        "nms": nms(above, tiou_threshold=0.4, max_outputs=3),
        "nmw": nmw(above, tiou_threshold=0.4, max_outputs=3),
        "soft_linear": soft_nms(above, method="linear", **soft),
        "soft_gaussian": soft_nms(above, method="gaussian", **soft),
    }
    config = SuppressConfig(score_threshold=0.1, tiou_threshold=0.4, sigma=0.7, min_score=0.01, max_per_video=3)
    for method, result in expected.items():
        assert_same(suppress(CANDIDATES, dataclasses.replace(config, method=method)), result)


@pytest.mark.parametrize("method", ["nms", "nmw"])
def test_graph_drops_candidates_at_or_below_the_score_threshold(method: Suppression) -> None:
    config = SuppressConfig(method=method, score_threshold=0.25)

    assert run_graph(CANDIDATES, config).scores.tolist() == pytest.approx([0.9, 0.3])


@pytest.mark.parametrize("method", ["nms", "nmw"])
def test_graph_gives_nothing_where_all_is_below_the_score_threshold(method: Suppression) -> None:
    result = run_graph(CANDIDATES, SuppressConfig(method=method, score_threshold=0.95))

    assert result.segments_frames.shape == (0, 2)
    assert result.classes.dtype == np.int64


def test_nmw_far_into_a_video_is_exact_to_rounding() -> None:
    late = candidates_of(*((10**6 + offset, 10**6 + 100 + offset, 0.9 - offset / 100, 0) for offset in range(9)))
    config = SuppressConfig()

    np.testing.assert_allclose(
        run_graph(late, config).segments_frames, suppress(late, config).segments_frames, rtol=1.2e-7
    )


@pytest.mark.parametrize("method", ["nms", "nmw"])
def test_graph_states_its_shapes_and_version(method: Suppression) -> None:
    model = build_suppress_graph(SuppressConfig(method=method))

    onnx.checker.check_model(model, full_check=True)
    assert (model.ir_version, model.opset_import[0].version) == (10, 20)
    shapes = {
        value.name: [axis.dim_value or axis.dim_param for axis in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {
        "segments": ["candidates", 2],
        "scores": ["candidates"],
        "classes": ["candidates"],
        "action_segments": ["actions", 2],
        "action_scores": ["actions"],
        "action_classes": ["actions"],
    }


@pytest.mark.parametrize("method", ["soft_linear", "soft_gaussian"])
def test_soft_suppression_has_no_graph(method: Suppression) -> None:
    with pytest.raises(ConfigError, match=f"method={method} cannot be a graph"):
        build_suppress_graph(SuppressConfig(method=method))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"score_threshold": -0.1}, "score_threshold=-0.1 and min_score=0.001 must be at least 0"),
        ({"min_score": float("nan")}, "min_score=nan must be at least 0"),
        ({"sigma": 0.0}, "sigma=0.0 must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused(changes: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SuppressConfig(**changes)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([(float("nan"), 1, 0.5, 0)], "expected finite segments and scores, got .nan, 1.0., 0.5 in row 0"),
        ([(0, 1, 0.5, 0), (0, float("inf"), 0.5, 0)], "in row 1"),
        ([(0, 1, float("nan"), 0)], "expected finite segments and scores"),
        ([(0, 1, 0.5, -1)], r"expected classes in \[0, 1048576\), got -1 to -1"),
    ],
)
@pytest.mark.parametrize("suppressor", [nms, nmw])
def test_unusable_candidates_are_refused(
    rows: list[tuple[float, float, float, int]], message: str, suppressor: Callable[..., Candidates]
) -> None:
    with pytest.raises(ValueError, match=message):
        suppressor(candidates_of(*rows), tiou_threshold=0.5, max_outputs=None)


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_thresholds_outside_0_to_1_are_refused(threshold: float) -> None:
    with pytest.raises(ValueError, match=f"tiou_threshold={threshold} must be in"):
        nms(candidates_of(), tiou_threshold=threshold, max_outputs=None)


def test_other_data_types_are_refused() -> None:
    doubles = Candidates(np.zeros((1, 2)), np.ones(1), np.zeros(1, np.int64))  # type: ignore[arg-type]

    with pytest.raises(ValueError, match="expected float32 segments, float32 scores and int64 classes, got float64"):
        nms(doubles, tiou_threshold=0.5, max_outputs=None)


def test_negative_limits_are_refused() -> None:
    with pytest.raises(ValueError, match="max_outputs=-1 must be at least 0"):
        nms(candidates_of(), tiou_threshold=0.5, max_outputs=-1)


def crowded(count: int) -> Candidates:
    """Candidates that overlap, in float32 as a localizer gives them."""
    random = np.random.default_rng(0)
    starts = random.uniform(0, 30 * count**0.5, (count, 1))
    segments = np.concatenate([starts, starts + random.uniform(1, 400, (count, 1))], axis=1).astype(np.float32)
    scores = (random.permutation(count) / count * 0.9 + 0.05).astype(np.float32)
    return Candidates(segments, scores, random.integers(0, 8, count))


def test_graph_3_of_a_bundle_gives_what_commands_do() -> None:
    bundle = load_bundle()
    runtime = OnnxRuntime(bundle, device="cpu")
    candidates = crowded(3000)

    found = suppress(candidates, bundle.recipe.suppress)
    assert len(found) > 100
    assert_same(runtime.suppress_in_graph(candidates), found, atol_frames=1e-2)
    with pytest.raises(ValueError, match="50001 candidates: graph 3 takes at most 50000"):
        runtime.suppress_in_graph(crowded(50_001))


def test_graph_3_that_is_missing_is_named() -> None:
    with pytest.raises(BundleError, match="bundle has no graph 'suppress'; it has encoder, localizer"):
        OnnxRuntime(load_bundle("anet-demo"), device="cpu").suppress_in_graph(crowded(3))
