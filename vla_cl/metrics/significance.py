"""Whether a difference is more than chance: one test for each kind of score, one correction for several tests.

* Two cells of shares: Fisher's exact test, two-sided (Fisher 1935; of the tables with the same margins, those
  count that are at most as likely as the measured one).
* Two cells of means, and two methods over seeds: Welch's t-test, two-sided (Welch 1947, Biometrika 34:28-35).
* Several tests at once: Holm's correction (Holm 1979, Scandinavian Journal of Statistics 6:65-70).

All seeds and rows are evaluated on the same initial states, so two cells are less independent than the tests assume.
What the cells share makes their difference more certain, not less: the tests then reject too seldom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb

LEVEL = 0.05
"""Level of all tests, after the correction."""


@dataclass(frozen=True)
class Cell:
    """What is known of one cell of a score matrix.

    Attributes:
        score: Mean over its trials.
        count: Trials, at least 1.
        spread: Their standard deviation, divided by n - 1; NaN where it is not known.
    """

    score: float
    count: int
    spread: float = math.nan

    @property
    def successes(self) -> int:
        """Of a share: how many trials gave 1."""
        return round(self.score * self.count)


def fisher(one: Cell, other: Cell) -> float:
    """Two-sided p-value of Fisher's exact test that two shares are equal. Exact: all sums are whole numbers."""
    together = one.successes + other.successes
    first = range(max(0, together - other.count), min(one.count, together) + 1)
    ways = [comb(one.count, k) * comb(other.count, together - k) for k in first]
    measured = ways[one.successes - first.start]
    return sum(way for way in ways if way <= measured) / sum(ways)


def welch(one: Cell, other: Cell) -> float:
    """Two-sided p-value of Welch's t-test that two means are equal; NaN where no spread is known, or all is equal."""
    half = _half_width(one, other, LEVEL)
    if math.isnan(half):
        return math.nan
    from scipy.stats import t  # where it is needed: it takes longer to import than all the rest of the metrics

    variance, degrees = _error(one, other)
    return float(2 * t.sf(abs(one.score - other.score) / math.sqrt(variance), degrees))


def holm(values: Sequence[float]) -> list[float]:
    """P-values after Holm's correction for their number, in the same order, at most 1."""
    order = sorted(range(len(values)), key=lambda place: values[place])
    corrected, largest = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        largest = max(largest, min(1.0, (len(values) - rank) * values[place]))
        corrected[place] = largest
    return corrected


def holm_level(others: Sequence[float]) -> float:
    """What a p-value may be at most for Holm's procedure to reject it beside others; before any correction.

    The procedure goes from the smallest on. Those of the others that it rejects make the level of the next one wider.
    """
    count = len(others) + 1
    passed = 0
    for value in sorted(others):
        if value > LEVEL / (count - passed):
            break
        passed += 1
    return LEVEL / (count - passed)


def smallest_visible_share(before: Cell, count: int, level: float, sign: int) -> float:
    """From which drop on Fisher's test would have called it more than chance; infinite where it could call none so.

    Args:
        before: The share it falls from.
        count: Trials behind the share it falls to.
        level: What the p-value may be at most.
        sign: 1 where higher is better, -1 where lower is.
    """
    visible = math.inf
    drops = sorted(((sign * (before.score - k / count), k) for k in range(count + 1)), reverse=True)
    for drop, k in drops:  # from the largest, which has the smallest p-value
        if drop <= 0 or fisher(before, Cell(k / count, count)) > level:
            break
        visible = drop
    return visible


def smallest_visible_mean(before: Cell, after: Cell, level: float) -> float:
    """The same of two means and Welch's test, with the spreads as they were measured; NaN where they are not known."""
    return _half_width(before, after, level)


def _half_width(one: Cell, other: Cell, level: float) -> float:
    if min(one.count, other.count) < 2 or math.isnan(one.spread) or math.isnan(other.spread):
        return math.nan
    variance, degrees = _error(one, other)
    if variance == 0:
        return math.nan
    from scipy.stats import t

    return float(t.isf(level / 2, degrees) * math.sqrt(variance))


def _error(one: Cell, other: Cell) -> tuple[float, float]:
    """Variance of the difference, and its degrees of freedom (Satterthwaite)."""
    parts = [cell.spread**2 / cell.count for cell in (one, other)]
    variance = sum(parts)
    if variance == 0:
        return 0.0, math.nan
    # As shares of the whole: squares of small variances would underflow.
    uncertain = sum((part / variance) ** 2 / (cell.count - 1) for part, cell in zip(parts, (one, other), strict=True))
    return variance, 1 / uncertain
