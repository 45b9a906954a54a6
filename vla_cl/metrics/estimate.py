"""Every metric of a run, each with a 95% interval.

The interval is a parametric bootstrap from the episode counts. The plain one, Binomial(n, k/n)/n, has width zero at
0/20 and at 20/20, the commonest cells of a success matrix. So each cell with k successes in n episodes is drawn,
independently of the others, from its Jeffreys posterior B ~ Beta(k + 1/2, n - k + 1/2), rescaled to
((n + 1) B - 1/2) / n. Rescaled because B alone is pulled towards 1/2, by little in one cell but in the same direction
in all that are near 0 or 1: of the intervals for the mean of ten such cells only 60% to 80% then contain the truth. The
mean of the rescaled draw is the measured k/n, and 90% to 100% do. The interval of a metric runs between the 2.5% and
the 97.5% quantile of the draws, moved so that their median is the metric's value and cut to the metric's range.

The points of learning curves and the baseline are drawn in the same way if the file says how many episodes are behind
them (``curve_episodes``, ``baseline_episodes``). If it does not, metrics that read them have a value and no interval.

A metric that takes the best of several evaluations (`mammoth_forgetting`, `tail_fwt`) is too high by their noise, and
so is its interval: with few episodes it can miss a forgetting of 0.

The interval covers the luck of the evaluation episodes only. It says nothing about another training seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics import definitions
from vla_cl.metrics.matrix import SuccessMatrix
from vla_cl.random_numbers import Purpose
from vla_cl.random_numbers import generator as random_generator
from vla_cl.types import ConfigurationError

FloatArray = NDArray[np.float64]

_SEED = 20230605  # any fixed number: the same matrix always prints the same interval
_NORMAL_95 = 1.959963984540054  # 97.5% quantile of the normal distribution


@dataclass(frozen=True)
class Measurements:
    """What the formulas read, either as measured or resampled; ``...`` is empty or (resamples,).

    Attributes:
        success: Shape (..., R, T).
        baseline: Shape (..., T); NaN where unknown.
        curves: For each task the success along its learning curve, shape (..., n); n = 0 where there is none.
        reference: The same from runs that learn one task each.
    """

    success: FloatArray
    baseline: FloatArray
    curves: tuple[FloatArray, ...]
    reference: tuple[FloatArray, ...]

    @property
    def task_fwt(self) -> FloatArray:
        """LIBERO's FWT_k, shape (..., T)."""
        return np.stack([definitions.libero_task_fwt(curve) for curve in self.curves], axis=-1)

    @property
    def curve_best(self) -> FloatArray:
        """Best success along the learning curve, shape (..., T)."""
        return np.stack([_reduce(np.max, curve) for curve in self.curves], axis=-1)

    @property
    def curve_means(self) -> FloatArray:
        """Mean success along the learning curve, shape (..., T)."""
        return np.stack([_reduce(np.mean, curve) for curve in self.curves], axis=-1)

    @property
    def reference_means(self) -> FloatArray:
        """Mean success along the reference's learning curve, shape (..., T)."""
        return np.stack([_reduce(np.mean, curve) for curve in self.reference], axis=-1)


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics.

    Attributes:
        name: The function in `vla_cl.metrics.definitions`; includes the convention.
        compute: Value from measurements, shape (...).
        direction: Which way is better.
        meaning: One line.
        source: Paper, and who else means the same by the word.
        lowest: The least value it can take; the greatest is always 1.
    """

    name: str
    compute: Callable[[Measurements], FloatArray]
    direction: Literal["higher", "lower"]
    meaning: str
    source: str
    lowest: float = 0.0


@dataclass(frozen=True)
class Estimate:
    """A metric's value and its 95% interval; NaN where undefined."""

    value: float
    low: float
    high: float


_LIBERO = "Liu et al. 2023 (LIBERO), arXiv 2306.03310; LOTUS, DMPEL"
_CLARE = "CLARE, arXiv 2601.09512; OrthoSkillVLA"
_CW = "Wolczyk et al. 2021 (Continual World), arXiv 2105.10919"
_TAIL = "Liu et al. 2024 (TAIL), arXiv 2310.05905; PPL"
_ISCIL = "Lee et al. 2024 (IsCiL); SIL-C"
_GEM = "Lopez-Paz and Ranzato 2017 (GEM), arXiv 1706.08840"

# One line per metric, so that the table reads as a table.
# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("final_average_success", lambda m: definitions.final_average_success(m.success), "higher",
           "success on all tasks at the end", _GEM + ", as ACC; ASR, AP, AVG elsewhere"),
    Metric("average_incremental_success", lambda m: definitions.average_incremental_success(m.success), "higher",
           "success on the tasks seen so far", "Rebuffi et al. 2017 (iCaRL), arXiv 1611.07725; MAA"),
    Metric("learning_accuracy", lambda m: definitions.learning_accuracy(m.success), "higher",
           "success just after learning each task", "Riemer et al. 2019 (MER), arXiv 1810.11910; MFT elsewhere"),
    Metric("libero_fwt", lambda m: definitions.libero_fwt(_if_square(m, m.task_fwt)), "higher",
           "area under the learning curve, best held", _LIBERO),
    Metric("libero_nbt", lambda m: definitions.libero_nbt(m.success), "lower",
           "mean drop over later experiences, / K", _LIBERO, -1.0),
    Metric("libero_auc", lambda m: definitions.libero_auc(m.success, m.task_fwt), "higher",
           "learning curve and retention together", _LIBERO),
    Metric("clare_fwt", lambda m: definitions.clare_fwt(m.success), "higher",
           "success just after learning each task", _CLARE),
    Metric("clare_nbt", lambda m: definitions.clare_nbt(m.success), "lower",
           "mean drop over later experiences, / (K-1)", _CLARE, -1.0),
    Metric("clare_auc", lambda m: definitions.clare_auc(m.success), "higher",
           "success from learning a task to the end", _CLARE),
    Metric("gem_bwt", lambda m: definitions.gem_bwt(m.success), "higher",
           "change from learning to the end", _GEM + "; AlphaBrain", -1.0),
    Metric("gem_fwt", lambda m: definitions.gem_fwt(m.success, m.baseline), "higher",
           "gain on a task before it is learnt", _GEM, -1.0),
    Metric("chaudhry_forgetting", lambda m: definitions.chaudhry_forgetting(m.success), "lower",
           "drop from the best earlier value to the end",
           "Chaudhry et al. 2018 (RWalk), arXiv 1801.10112; AlphaBrain", -1.0),
    Metric("mammoth_forgetting", lambda m: definitions.mammoth_forgetting(m.success), "lower",
           "the same, the end included: never negative", "Buzzega et al. 2020 (mammoth), utils/metrics.py"),
    Metric("cw_performance", lambda m: definitions.cw_performance(m.success), "higher",
           "success on all tasks at the end", _CW),
    Metric("cw_forgetting", lambda m: definitions.cw_forgetting(m.success), "lower",
           "drop from learning to the end, / K", _CW, -1.0),
    Metric("cw_forward_transfer",
           lambda m: definitions.cw_forward_transfer(_if_square(m, m.curve_means), m.reference_means), "higher",
           "faster than learning each task alone", _CW, -math.inf),
    Metric("simple_recipe_nbt", lambda m: definitions.simple_recipe_nbt(m.success), "lower",
           "drop from learning to the end, / (K-1)", "Hu et al. 2026 (Simple Recipe Works), arXiv 2603.11653", -1.0),
    Metric("tail_fwt", lambda m: definitions.tail_fwt(_if_square(m, m.curve_best)), "higher",
           "best success while learning each task", _TAIL),
    Metric("tail_bwt", lambda m: definitions.tail_bwt(m.success, m.curve_best), "higher",
           "change of old tasks against their best", _TAIL, -1.0),
    Metric("iscil_fwt", lambda m: definitions.iscil_fwt(m.success), "higher",
           "success just after learning each task", _ISCIL),
    Metric("iscil_bwt", lambda m: definitions.iscil_bwt(m.success), "higher",
           "mean change over later experiences, / K", _ISCIL, -1.0),
    Metric("iscil_auc", lambda m: definitions.iscil_auc(m.success), "higher",
           "success from learning a task to the end", _ISCIL),
)
# fmt: on


def compute_all(
    matrix: SuccessMatrix,
    reference: SuccessMatrix | None = None,
    *,
    metrics: Sequence[Metric] = METRICS,
    resamples: int = 2000,
) -> dict[str, Estimate]:
    """Every metric of a run by name, in the order of ``metrics``. The same input gives the same intervals.

    Args:
        matrix: The run.
        reference: A run that learns each task on its own (``independent``), for `cw_forward_transfer`.
        metrics: Which metrics.
        resamples: Draws behind the intervals.

    Raises:
        ConfigurationError: The reference is not an independent run, or shares no task with the run.
    """
    references = _reference_curves(matrix, reference)
    measured = Measurements(
        success=matrix.success,
        baseline=np.full(len(matrix.tasks), np.nan) if matrix.baseline is None else matrix.baseline,
        curves=tuple(_curve(matrix, task) for task in matrix.tasks),
        reference=references,
    )
    drawn = _resample(matrix, measured, reference.curve_episodes if reference else None, resamples)
    return {metric.name: _estimate(metric, measured, drawn) for metric in metrics}


def wilson_interval(successes: int, episodes: int) -> tuple[float, float]:
    """95% interval of the success rate behind one cell (Wilson 1927); NaN without episodes.

    Raises:
        ValueError: The counts are negative, or there are more successes than episodes.
    """
    if not 0 <= successes <= episodes:
        raise ValueError(f"expected 0 <= successes <= episodes, but got {successes} successes in {episodes} episodes")
    if episodes == 0:
        return math.nan, math.nan
    rate, spread = successes / episodes, _NORMAL_95**2 / episodes
    centre = (rate + spread / 2) / (1 + spread)
    half = math.sqrt(spread * rate * (1 - rate) + spread**2 / 4) / (1 + spread)
    # At the ends the formula is exactly 0 or 1, but for rounding.
    return (0.0 if successes == 0 else centre - half), (1.0 if successes == episodes else centre + half)


def _reduce(function: Callable[..., FloatArray], curve: FloatArray) -> FloatArray:
    return function(curve, axis=-1) if curve.shape[-1] else np.full(curve.shape[:-1], np.nan)


def _if_square(measurements: Measurements, per_task: FloatArray) -> FloatArray:
    """NaN where experiences do not bring one task each: there is no "while learning task k" in joint training."""
    rows, columns = measurements.success.shape[-2:]
    return per_task if rows == columns else np.full_like(per_task, np.nan)


def _curve(matrix: SuccessMatrix, task: str) -> FloatArray:
    curve = matrix.curves.get(task)
    return np.empty(0) if curve is None else curve[:, 1]


def _reference_curves(matrix: SuccessMatrix, reference: SuccessMatrix | None) -> tuple[FloatArray, ...]:
    """Learning curves of the tasks learnt alone; empty where there is none or it covers another number of steps."""
    if reference is None:
        return tuple(np.empty(0) for _ in matrix.tasks)
    rows, columns = reference.success.shape
    alone = rows == columns and np.isnan(reference.success[~np.eye(rows, dtype=bool)]).all()
    if not alone:
        raise ConfigurationError(
            "the reference must be an independent run, a square matrix with only its diagonal evaluated, "
            f"but this one is {rows} x {columns} and not so; run the same tasks as an independent stream"
        )
    if not set(matrix.tasks) & set(reference.tasks):
        raise ConfigurationError(
            f"the reference shares no task with the run: {', '.join(reference.tasks)} against {', '.join(matrix.tasks)}"
        )
    return tuple(
        _curve(reference, task) if _steps(matrix, task) == _steps(reference, task) else np.empty(0)
        for task in matrix.tasks
    )


def _steps(matrix: SuccessMatrix, task: str) -> float:
    """How many steps a learning curve covers: areas compare only if it is equal. NaN, unequal to all, without one."""
    curve = matrix.curves.get(task)
    return math.nan if curve is None or not len(curve) else float(curve[-1, 0] - curve[0, 0])


def _resample(
    matrix: SuccessMatrix, measured: Measurements, reference_episodes: int | None, resamples: int
) -> Measurements:
    """Draws of all that was measured. Cells come first, so their draws do not depend on which curves exist."""
    generator = random_generator(_SEED, Purpose.INTERVAL)

    def draw(rates: FloatArray, episodes: NDArray[np.int64] | int | None) -> FloatArray:
        if episodes is None:
            return np.full((resamples, *rates.shape), np.nan)
        known = ~np.isnan(rates)
        counts = np.where(known, episodes, 0)
        successes = np.where(known, rates, 0.0) * counts
        posterior = generator.beta(successes + 0.5, counts - successes + 0.5, size=(resamples, *rates.shape))
        return np.where(known, ((counts + 1) * posterior - 0.5) / np.maximum(counts, 1), np.nan)

    return Measurements(
        success=draw(measured.success, matrix.episodes),
        baseline=draw(measured.baseline, matrix.baseline_episodes),
        curves=tuple(draw(curve, matrix.curve_episodes) for curve in measured.curves),
        reference=tuple(draw(curve, reference_episodes) for curve in measured.reference),
    )


def _estimate(metric: Metric, measured: Measurements, drawn: Measurements) -> Estimate:
    value = float(metric.compute(measured))
    draws = metric.compute(drawn)
    if math.isnan(value) or np.isnan(draws).any():
        return Estimate(value, math.nan, math.nan)
    low, middle, high = np.quantile(draws, [0.025, 0.5, 0.975]).tolist()
    return Estimate(value, max(metric.lowest, value + low - middle), min(1.0, value + high - middle))
