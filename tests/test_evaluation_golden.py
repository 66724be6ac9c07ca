"""Evaluation against the numbers of the official code; see the README of the golden folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tallformer_infer.evaluation import (
    Evaluation,
    ProtocolName,
    evaluate,
    protocol_named,
    read_predictions,
    read_truth,
)

SETS = ["easy", "ties", "missing_classes", "perfect", "empty_predictions", "one_class_only", "overlapping_gt_equal_iou"]
TOLERANCE = {
    "toolkit": 1e-9,  # both in float64, sums in another order
    "voc": 1e-5,  # the official code sums in float32
}


def score(golden: Path, name: str, protocol_name: ProtocolName) -> Evaluation:
    protocol = protocol_named(protocol_name)
    truth = read_truth(golden / "eval" / f"{name}_gt.json", subset="validation", defaults=protocol.subsets)
    return evaluate(read_predictions(golden / "eval" / f"{name}_pred.json"), truth, protocol)


def expected(golden: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((golden / "eval" / "expected.json").read_text(encoding="utf-8"))[name]
    return found


def test_every_golden_set_is_tested(golden: Path) -> None:
    assert set(SETS) == set(json.loads((golden / "eval" / "expected.json").read_text(encoding="utf-8")))


@pytest.mark.parametrize(("protocol", "key"), [("thumos14", "thumos"), ("activitynet", "anet"), ("hacs", "anet")])
@pytest.mark.parametrize("name", SETS)
def test_toolkit_metric_equals_the_official_one(golden: Path, name: str, protocol: ProtocolName, key: str) -> None:
    official = expected(golden, name)[key]
    numbers = official if official["stable_sort"] == "identical" else official["stable_sort"]

    evaluation = score(golden, name, protocol)

    assert list(evaluation.tiou_thresholds) == official["tiou"]
    assert [score.label for score in evaluation.classes] == numbers["classes"]
    ap = np.array([score.average_precision for score in evaluation.classes]).T
    np.testing.assert_allclose(ap, numbers["ap"], rtol=0, atol=TOLERANCE["toolkit"])
    np.testing.assert_allclose(evaluation.mean_average_precision, numbers["mAP"], rtol=0, atol=TOLERANCE["toolkit"])
    assert evaluation.average == pytest.approx(numbers["average_mAP"], rel=0, abs=TOLERANCE["toolkit"])


@pytest.mark.parametrize("name", SETS)
def test_voc_metric_equals_the_official_one(golden: Path, name: str) -> None:
    official = expected(golden, name)["vedatad_eval_map_anet"]
    stable = official["stable_sort_per_iou"]
    per_tiou = official["per_iou"] if stable == "identical" else stable

    evaluation = score(golden, name, "reference-voc")

    assert [score.label for score in evaluation.classes] == official["classes"]
    for row, threshold in enumerate(evaluation.tiou_thresholds):
        numbers = per_tiou[f"{threshold:g}"]
        ap = [score.average_precision[row] for score in evaluation.classes]
        np.testing.assert_allclose(ap, numbers["ap"], rtol=0, atol=TOLERANCE["voc"])
        assert evaluation.mean_average_precision[row] == pytest.approx(numbers["mAP"], rel=0, abs=TOLERANCE["voc"])
