"""Suppression against the official code's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tallformer_infer.config import SuppressConfig
from tallformer_infer.nms import nms, nmw, pairs_above, soft_nms, soft_nms_activitynet, suppress
from tallformer_infer.structures import Candidates
from tests.nms_suppressors import Suppressor, both_forms, run_graph, with_graph

Arrays = dict[str, NDArray[Any]]

SEGMENTS_ATOL_FRAMES = 1e-4  # given by the goldens' README
SCORES_ATOL = 1e-5  # soft scores are products of several float32 factors


@both_forms
def test_nmw_equals_the_official_one(golden: Path, suppressor: Suppressor) -> None:
    arrays = _arrays(golden / "nmw.npz")
    for case in json.loads((golden / "nmw_cases.json").read_text()):
        if suppressor is with_graph and case["iou_thr"] == 0:
            continue  # a recipe refuses a threshold of 0, so a graph has none
        assert case["mode"] == "iou"
        name = f"c{case['id']:03}"
        result = suppressor(
            _official_pairs(arrays, name, case["score_thr"]),
            "nmw",
            case["iou_thr"],
            case["max_num"] if case["max_num"] > 0 else None,
        )
        kind = "_stable" if f"{name}_det_stable" in arrays else ""
        _assert_equal(result, arrays[f"{name}_det{kind}"], arrays[f"{name}_label{kind}"], name)


def test_hard_and_soft_nms_equal_the_official_compiled_ones(golden: Path) -> None:
    arrays = _arrays(golden / "nms_cpp.npz")
    for case in json.loads((golden / "nms_cpp_cases.json").read_text()):
        name, settings = f"c{case['id']:03}", case["cfg"]
        candidates = _official_pairs(arrays, name, case["score_thr"])
        if settings["typename"] == "nms":
            result = nms(candidates, tiou_threshold=settings["iou_thr"], max_outputs=case["max_num"])
        else:
            result = soft_nms(
                candidates,
                method=settings["method"],
                tiou_threshold=settings["iou_thr"],
                sigma=settings["sigma"],
                min_score=settings["min_score"],
                max_outputs=case["max_num"],
            )
        _assert_equal(result, arrays[f"{name}_det"], arrays[f"{name}_label"], name)


def test_graph_of_hard_nms_equals_the_official_compiled_one(golden: Path) -> None:
    arrays = _arrays(golden / "nms_cpp.npz")
    for case in json.loads((golden / "nms_cpp_cases.json").read_text()):
        if case["cfg"]["typename"] != "nms":
            continue
        name = f"c{case['id']:03}"
        config = SuppressConfig(
            method="nms",
            score_threshold=case["score_thr"],
            tiou_threshold=case["cfg"]["iou_thr"],
            max_per_video=case["max_num"],
        )
        result = run_graph(_official_pairs(arrays, name, 0), config)
        _assert_equal(result, arrays[f"{name}_det"], arrays[f"{name}_label"], name)


def test_activitynet_soft_nms_equals_the_official_one(golden: Path) -> None:
    arrays = _arrays(golden / "anet_softnms.npz")
    cases = [
        (f"c{case['id']:02}_", case["sigma"], case["top_k"], case["score_threshold"])
        for case in json.loads((golden / "anet_softnms_cases.json").read_text())
    ]
    cases += [(f"{video}/softnms_", 0.85, 5000, 1e-9) for video in ("v_long", "v_full", "v_short")]
    for name, sigma, top_k, min_score in cases:
        table = arrays[f"{name}in"].reshape(-1, 3)
        result = soft_nms_activitynet(
            Candidates(table[:, :2], table[:, 2], np.zeros(len(table), np.int64)),
            sigma=sigma,
            min_score=min_score,
            max_outputs=top_k,
        )
        expected = arrays[f"{name}out"].reshape(-1, 3)  # in input order
        actual = np.column_stack([result.segments_frames, result.scores])
        assert len(actual) == len(expected), name
        np.testing.assert_allclose(_sorted(actual), _sorted(expected), rtol=0, atol=SCORES_ATOL, err_msg=name)


@pytest.mark.parametrize("prefix", ["w0_", "w1_", "w0_pre20_", "w1_pre20_"])
def test_actions_of_a_window_equal_the_official_ones(golden: Path, prefix: str) -> None:
    arrays = _arrays(golden / "thumos_tiny_64x64.npz")
    candidates = _window_pairs(arrays, prefix)
    config = SuppressConfig()

    for result in (suppress(candidates, config), run_graph(candidates, config)):
        _assert_equal(result, arrays[f"{prefix}det"], arrays[f"{prefix}det_label"], prefix)


def test_actions_of_a_video_equal_the_official_ones(golden: Path) -> None:
    arrays = _arrays(golden / "thumos_tiny_64x64.npz")
    candidates = Candidates.concatenate([_window_pairs(arrays, "w0_"), _window_pairs(arrays, "w1_")])
    config = SuppressConfig()

    for result in (suppress(candidates, config), run_graph(candidates, config)):
        by_class = result.take(np.argsort(result.classes, kind="stable"))
        _assert_equal(by_class, arrays["aug_det"], arrays["aug_det_label"], "video")


def test_nmw_of_a_large_limit_is_the_unlimited_one(golden: Path) -> None:
    candidates = _window_pairs(_arrays(golden / "thumos_tiny_64x64.npz"), "w0_")

    limited = nmw(candidates, tiou_threshold=0.5, max_outputs=642)  # as many as there are

    np.testing.assert_array_equal(limited.scores, nmw(candidates, tiou_threshold=0.5, max_outputs=None).scores)


def _arrays(path: Path) -> Arrays:
    with np.load(path) as file:
        return dict(file)


def _official_pairs(arrays: Arrays, name: str, threshold: float) -> Candidates:
    """Pairs above the threshold from scores with a background column, factors, and segments shared or per class."""
    segments, scores = arrays[f"{name}_segments"], arrays[f"{name}_scores"][:, :-1]
    if f"{name}_score_factors" in arrays:
        scores = scores * arrays[f"{name}_score_factors"][:, None]
    if segments.shape[1] == 2:
        return pairs_above(segments, scores, score_threshold=threshold)
    rows, classes = np.nonzero(scores > np.float32(threshold))
    return Candidates(segments.reshape(len(scores), -1, 2)[rows, classes], scores[rows, classes], classes)


def _window_pairs(arrays: Arrays, prefix: str) -> Candidates:
    scores = arrays[f"{prefix}scores"][:, :-1]
    return pairs_above(arrays[f"{prefix}segments"], scores, score_threshold=0.005)


def _assert_equal(result: Candidates, expected: NDArray[Any], labels: NDArray[Any], name: str) -> None:
    np.testing.assert_array_equal(result.classes, labels, err_msg=name)
    np.testing.assert_allclose(result.segments_frames, expected[:, :2], rtol=0, atol=SEGMENTS_ATOL_FRAMES, err_msg=name)
    np.testing.assert_allclose(result.scores, expected[:, 2], rtol=0, atol=SCORES_ATOL, err_msg=name)


def _sorted(table: NDArray[Any]) -> NDArray[Any]:
    return table[np.lexsort(table.T)]
