"""A metric as a weighted sum of measured scores, each with its trials: what an interval is made of."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics.measurements import Measurements
from vla_cl.metrics.weights import Weights

FloatArray = NDArray[np.float64]

_CELLS, _BASELINE, _CURVES, _REFERENCE = "the matrix", "the baseline", "the run's curves", "the reference's curves"


@dataclass(frozen=True)
class Terms:
    """A weighted sum.

    Attributes:
        weights: Shape (n,); no rate comes twice.
        rates: Measured scores, the higher the better, shape (n,).
        episodes: Trials behind each score, shape (n,).
        spreads: Standard deviation of those trials, shape (n,); NaN where it is not known.
        unknown: What of it has no known number of trials, in words; then there is no interval.
        shared: Whether it adds up success on the same initial states in several evaluations. Their luck is partly the
            same, so that the sum is less certain than one of independent cells; then there is no interval. Where such
            cells are subtracted from each other, what they share cancels.
    """

    weights: FloatArray
    rates: FloatArray
    episodes: FloatArray
    spreads: FloatArray
    unknown: tuple[str, ...] = ()
    shared: bool = False

    def __add__(self, other: Terms) -> Terms:
        """Both sums together; they share no rate."""
        return Terms(
            np.concatenate([self.weights, other.weights]),
            np.concatenate([self.rates, other.rates]),
            np.concatenate([self.episodes, other.episodes]),
            np.concatenate([self.spreads, other.spreads]),
            self.unknown + other.unknown,
            self.shared or other.shared,
        )


def of_tasks(measured: Measurements, weights: Weights) -> Terms:
    """A formula over the matrix whose columns are tasks."""
    return _cells(measured, weights(*measured.scores.shape))


def of_positions(measured: Measurements, weights: Weights, sign: int = 1) -> Terms:
    """A formula over the matrix whose columns are positions.

    Two positions with one task read the same episodes, so their weights are added: they are no independent cells.
    """
    positions = measured.positions or ()
    by_position = sign * weights(len(positions), len(positions)) if positions else np.zeros((0, 0))
    by_task = np.zeros(measured.scores.shape)
    for position, column in enumerate(positions):
        by_task[:, column] += by_position[:, position]
    return _cells(measured, by_task)


def of_baseline(measured: Measurements) -> Terms:
    """``-1/(K-1) sum_{k>1} b[k]``."""
    positions, baseline = measured.positions, measured.matrix.baseline
    if positions is None or baseline is None or len(positions) < 2:
        return _read(np.empty(0), np.empty(0), None, "")
    weights = np.zeros(len(baseline))
    np.add.at(weights, list(positions[1:]), -1 / (len(positions) - 1))
    matrix = measured.matrix
    return _read(weights, matrix.measure.sign * baseline, matrix.baseline_count, _BASELINE, matrix.baseline_spread)


def along_curves(measured: Measurements) -> Terms:
    """Continual World's forward transfer ``1/K sum_k (AUC_k - ref_k) / (b - ref_k)``, linear around what was measured.

    b is the best score there can be, 1 for success. The derivatives are ``1 / (b - ref_k)`` for AUC_k and
    ``-(b - AUC_k) / (b - ref_k)^2`` for ref_k, each divided by the number of points that the mean is over. Positions
    with one task share its reference.
    """
    best = measured.best
    means, references = measured.curve_means, measured.reference_means
    count, nothing = len(means), _read(np.empty(0), np.empty(0), None, "")
    if not np.all(np.isfinite(means) & (references < best)):  # also where there is none: NaN
        return nothing
    slopes = 1 / (best - references) / count
    own, alone = nothing, nothing
    shared: dict[int, float] = {}
    for position, column in enumerate(measured.positions or ()):
        curve = measured.curves[position]
        weights = np.full(len(curve), slopes[position] / len(curve))
        points = _read(weights, curve, measured.matrix.curve_count, _CURVES)
        own += replace(points, shared=len(curve) > 1)  # all points are of the selection states
        slope = -slopes[position] * (best - means[position]) / (best - references[position])
        shared[column] = shared.get(column, 0.0) + slope
    episodes = None if measured.reference is None else measured.reference.curve_count
    for column, slope in shared.items():
        curve = measured.reference_curves[(measured.positions or ()).index(column)]
        alone += _read(np.full(len(curve), slope / len(curve)), curve, episodes, _REFERENCE)
    return own + alone


def _cells(measured: Measurements, weights: FloatArray) -> Terms:
    found = _read(weights, measured.scores, measured.matrix.counts, _CELLS, measured.matrix.spread)
    # Fully shared luck gives a task's cells the variance (sum w)^2, independent luck sum w^2.
    added_up = weights.sum(axis=0) ** 2 > (weights**2).sum(axis=0) * (1 + 1e-9)
    return replace(found, shared=bool(added_up.any()))


def _read(
    weights: FloatArray,
    rates: FloatArray,
    episodes: NDArray[np.int64] | int | None,
    what: str,
    spreads: FloatArray | None = None,
) -> Terms:
    """The scores that have a weight."""
    read = weights != 0
    counts = np.broadcast_to(np.asarray(1 if episodes is None else episodes, dtype=np.float64), rates.shape)
    unknown = (what,) if episodes is None and read.any() else ()
    around = np.full(rates.shape, np.nan) if spreads is None else spreads
    return Terms(weights[read], rates[read], counts[read], around[read], unknown)
