"""Score curves: the order stays, and scores come to say which share is right."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tallformer_infer.config import ScoreCurve
from tallformer_infer.errors import ConfigError
from tallformer_infer.evaluation.calibration import (
    IDENTITY,
    expected_calibration_error,
    fit_curve,
    shares_right,
)

scores_and_rights = st.lists(st.tuples(st.floats(0, 1), st.booleans()), max_size=60)
curves = st.builds(
    ScoreCurve,
    low=st.floats(0.01, 20),
    high=st.floats(0, 20),
    shift=st.floats(-20, 20),
)

DISTORTIONS = {
    "too sure": lambda share: share**0.5,
    "too modest": lambda share: share**2,
    "shifted": lambda share: share / (share + 7 * (1 - share)),
    "too flat": lambda share: 0.4 + 0.2 * share,
    "too steep": lambda share: share**3 / (share**3 + (1 - share) ** 3),
    "halved": lambda share: share / 2,
}


def draw(random: np.random.Generator, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Shares as detectors have them, many low and few high; and for each, whether it came true."""
    share = np.where(random.random(count) < 0.2, random.beta(3, 2, count), random.beta(0.5, 12, count))
    share = np.clip(share, 1e-4, 1 - 1e-4)
    return share, random.random(count) < share


@given(scores_and_rights)
def test_a_fitted_curve_never_swaps_two_scores(rows: list[tuple[float, bool]]) -> None:
    scores = np.array([score for score, _ in rows])
    curve = fit_curve(scores, np.array([right for _, right in rows], bool))

    grid = np.linspace(0, 1, 201)
    shares = shares_right(curve, grid)
    assert (np.diff(shares) >= 0).all()
    assert shares[10] < shares[190]
    assert shares.min() >= 0
    assert shares.max() <= 1


@given(curves, st.floats(0, 1))
def test_one_score_and_many_are_calibrated_alike(curve: ScoreCurve, score: float) -> None:
    assert curve.share_right(score) == pytest.approx(float(shares_right(curve, np.array([score]))[0]), abs=1e-12)


@given(st.floats(1e-6, 1 - 1e-6))
def test_the_identity_leaves_scores_as_they_are(score: float) -> None:
    assert IDENTITY.share_right(score) == pytest.approx(score, rel=1e-9)


@pytest.mark.parametrize("kind", DISTORTIONS)
@pytest.mark.parametrize("count", [300, 3000])
def test_calibration_error_falls_on_predictions_that_were_not_seen(kind: str, count: int) -> None:
    random = np.random.default_rng(7)
    share, is_right = draw(random, count)
    curve = fit_curve(DISTORTIONS[kind](share), is_right)

    share, is_right = draw(random, 20_000)
    scores = DISTORTIONS[kind](share)
    before = expected_calibration_error(scores, is_right)
    after = expected_calibration_error(shares_right(curve, scores), is_right)

    assert after < 0.75 * before
    assert count == 300 or after < 0.03


def test_scores_that_are_right_already_stay_so() -> None:
    random = np.random.default_rng(1)
    share, is_right = draw(random, 3000)

    curve = fit_curve(share, is_right)

    assert np.abs(shares_right(curve, share) - share).mean() < 0.02


def test_no_predictions_give_the_prior() -> None:
    prior = ScoreCurve(low=2.0, high=0.5, shift=-1.0)

    assert fit_curve(np.zeros(0), np.zeros(0, bool), prior=prior) == prior


@pytest.mark.parametrize("right", [True, False])
def test_predictions_all_right_or_all_wrong_give_a_finite_curve_in_that_direction(right: bool) -> None:
    curve = fit_curve(np.full(20, 0.5), np.full(20, right))

    assert curve.share_right(0.5) > 0.8 if right else curve.share_right(0.5) < 0.2


def test_scores_that_say_the_opposite_keep_their_order_and_become_nearly_equal() -> None:
    scores = np.repeat([0.1, 0.9], 200)
    curve = fit_curve(scores, scores < 0.5)

    low, high = curve.share_right(0.1), curve.share_right(0.9)
    assert low < high < low + 0.02
    assert low == pytest.approx(0.5, abs=0.02)


def test_calibration_error_by_hand() -> None:
    # Two bins: claimed 0.15 each, one of two right; claimed 0.9, right.
    error = expected_calibration_error(np.array([0.15, 0.15, 0.9]), np.array([True, False, True]))

    assert error == pytest.approx((2 * 0.35 + 0.1) / 3)
    assert expected_calibration_error(np.zeros(0), np.zeros(0, bool)) == 0
    assert expected_calibration_error(np.array([1.0]), np.array([True])) == 0


@pytest.mark.parametrize(
    ("low", "high", "shift"), [(0, 1, 0), (-1, 1, 0), (1, -0.1, 0), (1, 1, float("nan")), (float("inf"), 1, 0)]
)
def test_a_curve_that_does_not_rise_is_refused(low: float, high: float, shift: float) -> None:
    with pytest.raises(ConfigError, match="expected low > 0, high >= 0, all finite"):
        ScoreCurve(low=low, high=high, shift=shift)
