"""The 95% interval of a weighted sum of success rates, and that of one success rate.

The sum is ``L = sum_i c_i p_i`` over cells with ``x_i`` successes in ``n_i`` episodes, independent of each other. Its
interval holds every value that a score test does not reject (Martin Andres, Alvarez Hernandez and Herranz Tejedor 2011,
"Inferences about a linear combination of proportions", Statistical Methods in Medical Research 20:369-387; for one cell
it is Wilson's of 1927, for a difference of two that of Miettinen and Nurminen 1985, Statistics in Medicine 4:213-226).
A value v is rejected if ``|L_measured - v| > 1.96 sqrt(V(v))``, where ``V(v) = sum_i c_i^2 q_i (1 - q_i) / n_i`` takes
the rates q that are the most likely ones among all with ``sum_i c_i q_i = v``.

Two things follow. Cells that are all at 0 or 1 do not give an interval of width zero, as a bootstrap would: the most
likely rates for another v lie inside. And such cells do not widen the interval beside others that vary: then v is
explained by those.

As in Miettinen and Nurminen the variance is multiplied by n / (n - 1), here for each cell: ``q_i`` is near the measured
rate, and the mean of ``x/n (1 - x/n)`` is (n - 1) / n of the true ``p (1 - p)``. Without that, ten cells of 5 episodes
hold the truth in 90% to 92% instead of 95%. A single cell is left as it is, so that it is Wilson's interval.

``vla-cl bench coverage`` measures how often these intervals hold the truth.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NORMAL_95 = 1.959963984540054  # 97.5% quantile of the normal distribution
_HALVINGS = 40
_ROUNDING = 1e-12


def weighted_interval(weights: FloatArray, rates: FloatArray, episodes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Lower and upper end of the 95% interval of ``sum_i weights_i p_i``.

    Args:
        weights: c, shape (..., cells); a cell with the weight 0 plays no part.
        rates: Measured x / n, shape (..., cells).
        episodes: n, at least 1, shape (..., cells).

    Returns:
        Two arrays of shape (...). Both lie between the least and the largest value that rates in [0, 1] allow.
    """
    weights, rates, episodes = np.broadcast_arrays(
        *(np.asarray(array, dtype=np.float64) for array in (weights, rates, episodes))
    )
    measured = (weights * rates).sum(axis=-1)
    ends = [_end(weights, rates, episodes, measured, sign) for sign in (-1.0, 1.0)]
    return np.minimum(ends[0], measured), np.maximum(ends[1], measured)


def means_interval(
    weights: FloatArray, means: FloatArray, counts: FloatArray, spreads: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper end of the 95% interval of a weighted sum of means: Student's, after Welch and Satterthwaite.

    The variance of the sum is ``V = sum_i c_i^2 s_i^2 / n_i``, its degrees of freedom
    ``V^2 / sum_i (c_i^2 s_i^2 / n_i)^2 / (n_i - 1)`` (Satterthwaite 1946, Biometrics Bulletin 2:110-114).

    Args:
        weights: c, shape (..., cells); a cell with the weight 0 plays no part.
        means: Shape (..., cells).
        counts: n, at least 2 where there is a weight, shape (..., cells).
        spreads: s, the standard deviation of a cell's trials, divided by n - 1, shape (..., cells).

    Returns:
        Two arrays of shape (...).
    """
    from scipy.stats import t  # where it is needed: it takes longer to import than all the rest of the metrics

    weights, means, counts, spreads = np.broadcast_arrays(
        *(np.asarray(array, dtype=np.float64) for array in (weights, means, counts, spreads))
    )
    parts = np.where(weights != 0, weights**2 * spreads**2 / counts, 0.0)
    variance = parts.sum(axis=-1)
    uncertain = (parts**2 / np.maximum(counts - 1, 1)).sum(axis=-1)
    degrees = np.where(uncertain > 0, variance**2 / np.where(uncertain > 0, uncertain, 1.0), 1.0)
    half = t.ppf(0.975, degrees) * np.sqrt(variance)
    middle = np.where(weights != 0, weights * means, 0.0).sum(axis=-1)
    return middle - half, middle + half


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """95% interval of the success rate behind one cell (Wilson 1927); NaN without episodes.

    Raises:
        ValueError: The counts are negative, or there are more successes than episodes.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"expected 0 <= successes <= episodes, but got {successes} successes in {episodes} episodes")
    if episodes == 0:
        return math.nan, math.nan
    rate, spread = successes / episodes, NORMAL_95**2 / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(spread * rate * (1 - rate) + spread**2 / 4) / (1 + spread)
    # At the ends the formula is exactly 0 or 1, but for rounding.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == episodes else centre + half)


def mean_interval(rates: Sequence[float], episodes: Sequence[int]) -> tuple[float, float]:
    """95% interval of the mean over tasks of their success rates, each task counting alike.

    Args:
        rates: Measured success of each task.
        episodes: Behind each, at least 1.
    """
    weights = np.full(len(rates), 1 / len(rates))
    low, high = weighted_interval(weights, np.asarray(rates), np.asarray(episodes))
    return float(low), float(high)


def _end(weights: FloatArray, rates: FloatArray, episodes: FloatArray, measured: FloatArray, sign: float) -> FloatArray:
    """The farthest value on one side (-1 below, 1 above) that is not rejected, by bisection.

    The values on a side are run through by the multiplier of the constraint, from 0 (the measured value) to infinity
    (the end of the range).
    """
    several = (weights != 0).sum(axis=-1, keepdims=True) > 1
    # One episode shows nothing of its own spread; it gets the factor of two episodes.
    factor = np.where(several, episodes / np.maximum(episodes - 1, episodes / 2), 1.0)
    largest = np.abs(weights).max(axis=-1)
    scale = episodes.min(axis=-1) / np.where(largest > 0, largest, 1.0)
    inside, outside = np.zeros(measured.shape), np.ones(measured.shape)
    for _ in range(_HALVINGS):
        middle = (inside + outside) / 2
        likely = _most_likely(weights, rates, episodes, sign * scale * middle / (1 - middle))
        variance = (weights**2 * factor * likely * (1 - likely) / episodes).sum(axis=-1)
        distance = np.abs(measured - (weights * likely).sum(axis=-1))
        held = distance <= NORMAL_95 * np.sqrt(variance) + _ROUNDING
        inside, outside = np.where(held, middle, inside), np.where(held, outside, middle)
    return np.asarray(
        (weights * _most_likely(weights, rates, episodes, sign * scale * inside / (1 - inside))).sum(axis=-1)
    )


def _most_likely(weights: FloatArray, rates: FloatArray, episodes: FloatArray, multiplier: FloatArray) -> FloatArray:
    """The most likely rates q where the sum is held away from what was measured.

    Setting the derivative of ``sum_i log-likelihood_i(q_i) + multiplier sum_i c_i q_i`` to zero gives for each cell
    ``m q^2 + (n - m) q - x = 0`` with ``m = multiplier c_i``. Of the two forms of its root in [0, 1] the one is taken
    that does not subtract nearly equal numbers.
    """
    pull = multiplier[..., None] * weights
    linear = episodes - pull
    root = np.sqrt(np.maximum(linear**2 + 4 * pull * episodes * rates, 0.0))
    half = (linear + np.where(linear >= 0, root, -root)) / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        likely = np.where(linear >= 0, episodes * rates / half, -half / pull)
    # At half = 0 (so n = m and x = 0) the root is 0.
    return np.clip(np.where(half == 0, 0.0, likely), 0.0, 1.0)
