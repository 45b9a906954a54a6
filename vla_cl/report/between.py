"""Methods against each other over training seeds: one test for each pair, and a correction for their number."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from vla_cl.metrics.significance import LEVEL, Cell, holm, welch
from vla_cl.report.groups import ENOUGH, RunGroup
from vla_cl.scores import Measure

COMPARED = "final_average"
"""The metric of the tests."""


@dataclass(frozen=True)
class Pair:
    """Two methods.

    Attributes:
        better: Label of the one with the better mean; the first given where they are equal.
        worse: Label of the other.
        difference: By how much, not negative.
        p: Welch's t-test over seeds, corrected by Holm for the number of pairs; NaN where all seeds of each are equal.
    """

    better: str
    worse: str
    difference: float
    p: float

    @property
    def told_apart(self) -> bool:
        """Whether the difference is more than the seeds explain."""
        return self.p <= LEVEL


def enough_seeds(group: RunGroup) -> bool:
    """Whether there are seeds enough for a test, all evaluated to the end."""
    values = group.values(COMPARED)
    return (
        group.finished and len(values) >= ENOUGH and len(values) == len(group.runs) and all(map(math.isfinite, values))
    )


def pairs_of(groups: Sequence[RunGroup], measure: Measure) -> list[Pair]:
    """Every pair of groups with enough seeds."""
    able = [group for group in groups if enough_seeds(group)]
    cells = {group.label: _cell(group.values(COMPARED)) for group in able}
    found = []
    for one, other in combinations(cells, 2):
        gain = measure.sign * (cells[one].score - cells[other].score)
        better, worse = (one, other) if gain >= 0 else (other, one)
        found.append((better, worse, abs(gain), welch(cells[one], cells[other])))
    tested = [place for place, (*_, p) in enumerate(found) if not math.isnan(p)]
    corrected = dict(zip(tested, holm([found[place][3] for place in tested]), strict=True))
    return [
        Pair(better, worse, difference, corrected.get(place, math.nan))
        for place, (better, worse, difference, _) in enumerate(found)
    ]


def _cell(values: Sequence[float]) -> Cell:
    spread = float(np.std(values, ddof=1))
    # Equal seeds may differ in the last bit: that is no spread.
    return Cell(float(np.mean(values)), len(values), spread if spread > 1e-9 * max(1.0, *map(abs, values)) else 0.0)
