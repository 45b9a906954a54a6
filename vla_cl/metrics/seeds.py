"""A metric over several training seeds: its mean, and an interval that covers the luck of training as well."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from vla_cl.metrics.estimate import Estimate

TWO_SEEDS = "two seeds: too few to say how far seeds lie apart; use three or more"
"""Why a metric over two seeds has no interval; tables show the words before the colon."""


def over_seeds(estimates: Sequence[Estimate], lowest: float, highest: float = 1.0) -> Estimate:
    """Mean over seeds with Student's 95 % interval, never narrower than the intervals of single seeds are on average.

    The spread of the seeds' values holds the luck of training, but of the luck of the evaluation episodes only the part
    in which seeds differ: all of them are rolled out on the same initial states, and a hard one is hard for all (on six
    tasks of Meta-World two seeds' outcomes on a state correlate with .4). More seeds make that part no smaller. Also,
    few seeds may agree by chance, or all be at the end of the range. So each end is the farther one of two: Student's,
    from the spread of the seeds, and the mean distance of the seeds' own ends. One seed has the second alone. Two seeds
    have no interval: two values do not tell how far seeds lie apart as a rule, so it would be narrow or wide by luck.

    Args:
        estimates: The metric of each seed's run, each with its interval from the episodes.
        lowest: The least value that the metric can take.
        highest: The greatest.

    Returns:
        NaN, and why, if the metric is undefined in one of the runs; an interval of NaN if one of the runs has none: a
        metric that is too high in each run is so in their mean, however well the seeds agree.

    Raises:
        ValueError: There are no estimates.
    """
    if not estimates:
        raise ValueError("expected the estimates of at least one seed, got none")
    values = np.array([estimate.value for estimate in estimates])
    ends = np.array([(estimate.low, estimate.high) for estimate in estimates])
    mean, count = float(values.mean()), len(values)
    if math.isnan(mean) or np.isnan(ends).any():
        open_ones = [estimate for estimate in estimates if math.isnan(estimate.value) == math.isnan(mean)]
        return Estimate(mean, math.nan, math.nan, next((found.why for found in open_ones if found.why), ""))
    if count == 2:
        return Estimate(mean, math.nan, math.nan, TWO_SEEDS)
    below, above = np.abs(values[:, None] - ends).mean(axis=0).tolist()
    student = _student_95(count - 1) * float(values.std(ddof=1)) / math.sqrt(count) if count > 1 else 0.0
    return Estimate(mean, max(lowest, mean - max(below, student)), min(highest, mean + max(above, student)))


def _student_95(degrees: int) -> float:
    """97.5 % quantile of Student's distribution."""
    from scipy.stats import t  # where it is needed: it takes longer to import than all the rest of the metrics

    return float(t.ppf(0.975, degrees))
