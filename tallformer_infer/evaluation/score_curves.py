"""From a model's scores to the share of predictions that are right, and how far the two are apart."""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

from tallformer_infer.config import ScoreCurve
from tallformer_infer.config.calibration import SCORE_MARGIN

Array = NDArray[np.float64]

IDENTITY = ScoreCurve(low=1.0, high=1.0, shift=0.0)
"""Leaves scores as they are."""

DECIMALS = 6
"""Parameters are rounded, so that machines which add in another order write the same bundle."""

_FLATTEST = 0.01
"""Least `low`: what keeps the order of scores that say nothing."""
_STEPS = 100
_SMALLEST_STEP = 1e-9


def fit_curve(scores: Array, is_right: NDArray[np.bool_], *, prior: ScoreCurve = IDENTITY) -> ScoreCurve:
    """The curve that makes right and wrong predictions the most likely.

    Each parameter may leave that of `prior` at the price of a normal distribution of deviation 1: little beside
    hundreds of predictions, and enough that a handful which are all right, or all wrong, still gives a curve.

    Args:
        scores: In [0, 1], shape (N,); none give `prior`.
        is_right: Whether each prediction found a truth, shape (N,).
        prior: What is thought without having seen any.
    """
    columns, right = _columns(scores), is_right.astype(np.float64)
    centre = np.array([prior.low, prior.high, prior.shift])
    bounds = np.array([_FLATTEST, 0.0, -np.inf])
    # The cost is convex: a minimum within the bounds is the answer; else it is the best with a bound held.
    best, best_cost = centre, np.inf
    for held in ([], [0], [1], [0, 1]):
        free = np.setdiff1d(np.arange(3), held)
        start = centre.copy()
        start[held] = bounds[held]
        found, cost = _descend(columns, right, start=start, centre=centre, free=free)
        if (found >= bounds).all() and cost < best_cost:
            best, best_cost = found, cost
            if not held:
                break
    low, high, shift = (round(float(value), DECIMALS) for value in best)
    return ScoreCurve(low=low, high=high + 0.0, shift=shift + 0.0)


def shares_right(curve: ScoreCurve, scores: Array) -> Array:
    """`ScoreCurve.share_right` of many scores, shape (N,)."""
    return _sigmoid(_columns(scores) @ np.array([curve.low, curve.high, curve.shift]))


def expected_calibration_error(shares: Array, is_right: NDArray[np.bool_], *, bins: int = 10) -> float:
    """Mean distance between what scores claim and the share that is right, over bins of equal width.

    Args:
        shares: What is claimed, in [0, 1], shape (N,).
        is_right: Whether each prediction found a truth, shape (N,).
        bins: Number of bins.

    Returns:
        In [0, 1]; 0 for no predictions.

    Source: Naeini, Cooper and Hauskrecht, "Obtaining Well Calibrated Probabilities Using Bayesian Binning", AAAI 2015.
    """
    if not len(shares):
        return 0.0
    bin_of = np.minimum((shares * bins).astype(np.int64), bins - 1)
    surplus = np.bincount(bin_of, weights=shares - is_right, minlength=bins)
    return float(np.abs(surplus).sum() / len(shares))


def _columns(scores: Array) -> Array:
    inner = np.clip(scores, SCORE_MARGIN, 1 - SCORE_MARGIN)
    return np.stack([np.log(inner), -np.log1p(-inner), np.ones_like(inner)], axis=1)  # (N, 3)


def _descend(
    columns: Array, right: Array, *, start: Array, centre: Array, free: NDArray[np.int64]
) -> tuple[Array, float]:
    """Newton's method with halved steps, on the parameters that are free.

    Returns:
        Parameters, shape (3,), and their cost: negative log-likelihood, and half the squared distance from `centre`.
    """

    def cost_at(place: Array) -> float:
        level = columns @ place
        return float(np.sum(np.logaddexp(0, level) - right * level) + np.sum((place - centre) ** 2) / 2)

    place, cost = start, cost_at(start)
    for _ in range(_STEPS):
        share = _sigmoid(columns @ place)
        slope = columns.T @ (share - right) + place - centre
        bend = columns.T @ (columns * (share * (1 - share))[:, None]) + np.eye(3)
        step = np.zeros(3)
        step[free] = np.linalg.solve(bend[np.ix_(free, free)], slope[free])
        for halving in itertools.count():
            nearer = place - step / 2**halving
            nearer_cost = cost_at(nearer)
            if nearer_cost <= cost or np.abs(step).max() / 2**halving < _SMALLEST_STEP:
                break
        if nearer_cost >= cost:
            break
        place, cost = nearer, nearer_cost
    return place, cost


def _sigmoid(level: Array) -> Array:
    share: Array = 0.5 * (1 + np.tanh(level / 2))
    return share
