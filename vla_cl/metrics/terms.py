"""A metric as a weighted sum of measured success rates, each with its episodes: what an interval is made of."""

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
        rates: Measured success, shape (n,).
        episodes: Behind each rate, shape (n,).
        unknown: What of it has no known number of episodes, in words; then there is no interval.
        shared: Whether it adds up success on the same initial states in several evaluations. Their luck is partly the
            same, so that the sum is less certain than one of independent cells; then there is no interval. Where such
            cells are subtracted from each other, what they share cancels.
    """

    weights: FloatArray
    rates: FloatArray
    episodes: FloatArray
    unknown: tuple[str, ...] = ()
    shared: bool = False

    def __add__(self, other: Terms) -> Terms:
        """Both sums together; they share no rate."""
        return Terms(
            np.concatenate([self.weights, other.weights]),
            np.concatenate([self.rates, other.rates]),
            np.concatenate([self.episodes, other.episodes]),
            self.unknown + other.unknown,
            self.shared or other.shared,
        )


def of_tasks(measured: Measurements, weights: Weights) -> Terms:
    """A formula over the matrix whose columns are tasks."""
    return _cells(measured, weights(*measured.success.shape))


def of_positions(measured: Measurements, weights: Weights, sign: int = 1) -> Terms:
    """A formula over the matrix whose columns are positions.

    Two positions with one task read the same episodes, so their weights are added: they are no independent cells.
    """
    positions = measured.positions or ()
    by_position = sign * weights(len(positions), len(positions)) if positions else np.zeros((0, 0))
    by_task = np.zeros(measured.success.shape)
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
    return _read(weights, baseline, measured.matrix.baseline_episodes, _BASELINE)


def along_curves(measured: Measurements) -> Terms:
    """Continual World's forward transfer ``1/K sum_k (AUC_k - ref_k) / (1 - ref_k)``, linear around what was measured.

    The derivatives are ``1 / (1 - ref_k)`` for AUC_k and ``-(1 - AUC_k) / (1 - ref_k)^2`` for ref_k, each divided by
    the number of points that the mean is over. Positions with one task share its reference.
    """
    means, references = measured.curve_means, measured.reference_means
    count, nothing = len(means), _read(np.empty(0), np.empty(0), None, "")
    if not np.all(np.isfinite(means) & (references < 1)):  # also where there is none: NaN
        return nothing
    slopes = 1 / (1 - references) / count
    own, alone = nothing, nothing
    shared: dict[int, float] = {}
    for position, column in enumerate(measured.positions or ()):
        curve = measured.curves[position]
        weights = np.full(len(curve), slopes[position] / len(curve))
        points = _read(weights, curve, measured.matrix.curve_episodes, _CURVES)
        own += replace(points, shared=len(curve) > 1)  # all points are of the selection states
        slope = -slopes[position] * (1 - means[position]) / (1 - references[position])
        shared[column] = shared.get(column, 0.0) + slope
    episodes = None if measured.reference is None else measured.reference.curve_episodes
    for column, slope in shared.items():
        curve = measured.reference_curves[(measured.positions or ()).index(column)]
        alone += _read(np.full(len(curve), slope / len(curve)), curve, episodes, _REFERENCE)
    return own + alone


def _cells(measured: Measurements, weights: FloatArray) -> Terms:
    found = _read(weights, measured.success, measured.matrix.episodes, _CELLS)
    # Fully shared luck gives a task's cells the variance (sum w)^2, independent luck sum w^2.
    added_up = weights.sum(axis=0) ** 2 > (weights**2).sum(axis=0) * (1 + 1e-9)
    return replace(found, shared=bool(added_up.any()))


def _read(weights: FloatArray, rates: FloatArray, episodes: NDArray[np.int64] | int | None, what: str) -> Terms:
    """The rates that have a weight."""
    read = weights != 0
    counts = np.broadcast_to(np.asarray(1 if episodes is None else episodes, dtype=np.float64), rates.shape)
    unknown = (what,) if episodes is None and read.any() else ()
    return Terms(weights[read], rates[read], counts[read], unknown)
