"""Why predictions are wrong."""

from __future__ import annotations

import numpy as np
import pytest

from tallformer_infer.evaluation import ErrorKinds, Predictions, Truth, evaluate, protocol_named
from tallformer_infer.structures import Action

TRUTH = Truth.of({"v": [(0, 10, "a"), (100, 110, "b"), (200, 210, "a"), (300, 310, "c")]})


def errors_of(*rows: tuple[float, float, str, float], score_threshold: float | None = None) -> ErrorKinds:
    actions = [Action(start_s=start, end_s=end, label=label, score=score) for start, end, label, score in rows]
    protocol = protocol_named("thumos14")
    return evaluate(Predictions.of({"v": actions}), TRUTH, protocol, score_threshold=score_threshold).errors


@pytest.mark.parametrize(
    ("start", "end", "label", "kind"),
    [
        (0, 10, "a", "right"),
        (100, 110, "a", "confusion"),
        (0, 30, "a", "localization"),
        (100, 130, "a", "confusion"),
        (400, 410, "a", "background"),
        (10, 20, "a", "background"),
        (0, 101, "a", "background"),  # overlaps by less than 0.1
    ],
)
def test_one_prediction_is_of_one_kind(start: float, end: float, label: str, kind: str) -> None:
    errors = errors_of((start, end, label, 0.9))

    kinds = ["right", "duplicate", "confusion", "localization", "background"]
    assert {name: getattr(errors, name) for name in kinds} == {name: int(name == kind) for name in kinds}
    assert errors.missed == 4 - (kind == "right")


def test_the_second_on_one_truth_is_a_duplicate() -> None:
    errors = errors_of((0, 10, "a", 0.9), (0, 9, "a", 0.8))

    assert (errors.right, errors.duplicate, errors.missed) == (1, 1, 3)


def test_by_default_each_class_is_looked_at_as_often_as_it_has_truths() -> None:
    rows = [(400, 401, label, 0.1 * place) for place in range(5) for label in "abc"]

    assert errors_of(*rows).looked_at == 2 + 1 + 1


def test_a_score_threshold_decides_instead() -> None:
    rows = [(400, 401, "a", place / 10) for place in range(10)]

    errors = errors_of(*rows, score_threshold=0.5)

    assert (errors.looked_at, errors.background, errors.missed) == (5, 5, 4)


def test_kinds_add_up() -> None:
    random = np.random.default_rng(3)
    rows = [(s, s + 10, "abc"[int(s) % 3], s / 400) for s in random.uniform(0, 320, 200).tolist()]

    errors = errors_of(*rows, score_threshold=0.0)

    assert errors.looked_at == 200
    kinds = [errors.right, errors.duplicate, errors.confusion, errors.localization, errors.background]
    assert sum(kinds) == 200
    assert all(kinds)
