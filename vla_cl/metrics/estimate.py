"""Every metric of a run: its value, and a 95% interval or the reason why there is none.

A metric that is a weighted sum of scores has the interval of `vla_cl.metrics.interval`. One that takes the best
of several evaluations (`chaudhry_forgetting`, `tail_fwt`) has none: the best of noisy values is too high, so that an
interval around it misses the truth more often than it says, and the more tasks there are the oftener. Its entry in the
table says which way it is off.

A sum over several evaluations of one task has none either (`average_incremental`, `clare_auc`): every row of a
run is rolled out on the same initial states, and a state that is hard for one row's policy is hard for the next one's.
On six tasks of Meta-World the outcomes on a state in two rows correlate with .2; for PackNet, whose old outputs do not
change, with 1. In differences (forgetting) what is shared cancels, so that their intervals are rather too wide.

The episodes of learning curves and of the baseline must be known (``curve_episodes``, ``baseline_episodes``) for what
reads them to have an interval.

The interval covers the luck of the evaluation episodes only. It says nothing about another training seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from vla_cl.metrics.interval import means_interval, weighted_interval
from vla_cl.metrics.matrix import ScoreMatrix
from vla_cl.metrics.measurements import Measurements
from vla_cl.metrics.reasons import why_undefined
from vla_cl.metrics.table import METRICS, Metric
from vla_cl.metrics.terms import Terms
from vla_cl.scores import Measure

SHARED_STATES = "shared: it adds up scores of the same trials in several evaluations, whose luck is partly the same"
"""Why a sum over several evaluations of one task has no interval; tables show the word before the colon."""


@dataclass(frozen=True)
class Estimate:
    """A metric's value and its 95% interval; NaN where undefined.

    Attributes:
        value: The metric.
        low: Lower end of the interval.
        high: Its upper end.
        why: Why a value has no interval, or why it is undefined itself, in words; empty where there are both.
    """

    value: float
    low: float
    high: float
    why: str = ""


def compute_all(
    matrix: ScoreMatrix, reference: ScoreMatrix | None = None, *, metrics: Sequence[Metric] = METRICS
) -> dict[str, Estimate]:
    """Every metric of a run by name, in the order of ``metrics``.

    Args:
        matrix: The run.
        reference: A run that learns each task on its own (``independent``), for `cw_forward_transfer`.
        metrics: Which metrics.

    Raises:
        ConfigurationError: The reference is not an independent run of one task per experience, or shares no task with
            the run.
    """
    return compute_many([(matrix, reference)], metrics=metrics)[0]


def compute_many(
    runs: Sequence[tuple[ScoreMatrix, ScoreMatrix | None]], *, metrics: Sequence[Metric] = METRICS
) -> list[dict[str, Estimate]]:
    """`compute_all` for many runs with their references, all intervals at once.

    Raises:
        ConfigurationError: As `compute_all`.
    """
    found = [[_measure(metric, Measurements(*run)) for metric in metrics] for run in runs]
    measures = [matrix.measure for matrix, _ in runs]
    sums = [
        (terms, measure)
        for run, measure in zip(found, measures, strict=True)
        for _, terms in run
        if isinstance(terms, Terms)
    ]
    intervals = iter(_intervals(sums))
    return [
        {
            metric.name: _shown(
                _estimate(value, terms, *next(intervals))
                if isinstance(terms, Terms)
                else Estimate(value, math.nan, math.nan, terms),
                metric,
                measure,
            )
            for metric, (value, terms) in zip(metrics, run, strict=True)
        }
        for run, measure in zip(found, measures, strict=True)
    ]


def _measure(metric: Metric, measured: Measurements) -> tuple[float, Terms | str]:
    """A metric's value, and the sum that its interval is made of, or why there is none."""
    value = float(metric.compute(measured))
    if math.isnan(value):
        return value, why_undefined(metric.needs, measured)
    if metric.terms is None:
        return value, metric.bias_of(measured.measure)
    terms = metric.terms(measured)
    if terms.unknown:
        return value, f"no counts: the file does not say how many trials are behind {terms.unknown[0]}"
    if terms.shared:
        return value, SHARED_STATES
    kind = measured.measure.kind
    if kind == "statistic":
        return value, f"one number: {measured.measure.name} is computed of a task as a whole, not of each trial"
    if kind == "mean" and np.isnan(terms.spreads).any():
        few = (terms.episodes < 2).any()
        return value, f"no spread: {'a cell has one trial' if few else 'the file does not say how much trials differ'}"
    if kind == "mean" and not terms.spreads.any():
        return value, "no spread: all trials of a cell are equal, which says nothing of chance"
    return value, terms


def _intervals(sums: Sequence[tuple[Terms, Measure]]) -> list[tuple[float, float]]:
    """The interval of each sum; sums of one length are computed together."""
    found: dict[int, tuple[float, float]] = {}
    together: dict[tuple[int, bool], list[int]] = {}
    for number, (terms, measure) in enumerate(sums):
        together.setdefault((len(terms.weights), measure.kind == "mean"), []).append(number)
    for (_, means), numbers in together.items():
        weights, rates, episodes, spreads = (
            np.stack([getattr(sums[number][0], name) for number in numbers])
            for name in ("weights", "rates", "episodes", "spreads")
        )
        low, high = (
            means_interval(weights, rates, episodes, spreads) if means else weighted_interval(weights, rates, episodes)
        )
        found |= dict(zip(numbers, zip(low.tolist(), high.tolist(), strict=True), strict=True))
    return [found[number] for number in range(len(sums))]


def _estimate(value: float, terms: Terms, low: float, high: float) -> Estimate:
    # A ratio is linear only around its value, so its interval is moved there; for a sum nothing moves.
    moved = value - float((terms.weights * terms.rates).sum())
    return Estimate(value, min(value, low + moved), max(value, high + moved))


def _shown(estimate: Estimate, metric: Metric, measure: Measure) -> Estimate:
    """Within the metric's bounds; a level in the measure's own direction."""
    if metric.turned(measure):
        estimate = Estimate(-estimate.value, -estimate.high, -estimate.low, estimate.why)
    if math.isnan(estimate.low):
        return estimate
    low, high = metric.bounds(measure)
    return replace(estimate, low=max(low, estimate.low), high=min(high, estimate.high))
