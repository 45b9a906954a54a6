"""How the report shows scores of a measure: words, numbers, shades of the heat map, the axis of plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from vla_cl.metrics import Estimate, ScoreMatrix, wilson_interval
from vla_cl.metrics.interval import means_interval
from vla_cl.report.claims import Shown
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import percent, percent_range
from vla_cl.scores import SUCCESS, Measure
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError


@dataclass(frozen=True)
class Scale:
    """The measure of all runs of a report.

    Attributes:
        measure: What they measured.
        low: Lower end of axes: the measure's own, or the least that was measured.
        high: Upper end.
    """

    measure: Measure
    low: float
    high: float

    @classmethod
    def of(cls, runs: Sequence[RunRecord]) -> Scale:
        """The scale of runs that measured the same.

        Raises:
            ConfigurationError: They measured different things.
        """
        matrices = [run.matrix for run in runs if run.matrix is not None]
        measures = list(dict.fromkeys(matrix.measure for matrix in matrices)) or [SUCCESS]
        if len(measures) > 1:
            raise ConfigurationError(
                "expected runs of one measure, but these have "
                f"{' and '.join(sorted(harmless(measure.name, 40) for measure in measures))}; write one report for each"
            )
        measure = measures[0]
        measured = [value for matrix in matrices for value in _values(matrix) if math.isfinite(value)] or [0.0]
        low = measure.low if math.isfinite(measure.low) else min(measured)
        high = measure.high if math.isfinite(measure.high) else max(measured)
        return cls(measure, low, high if high > low else low + 1)

    @property
    def is_success(self) -> bool:
        """Whether it is success in rollouts."""
        return self.measure.name == SUCCESS.name

    @property
    def in_percent(self) -> bool:
        """Whether scores are shares of trials."""
        return self.measure.kind == "proportion"

    @property
    def word(self) -> str:
        """What the score is called within a sentence."""
        return harmless(self.measure.words, 60)

    @property
    def title(self) -> str:
        """What the score is called where a sentence begins."""
        return self.word[:1].upper() + self.word[1:]

    @property
    def trials(self) -> str:
        """What a score is the mean of."""
        return "episodes" if self.is_success else "trials"

    @property
    def better(self) -> str:
        """``higher`` or ``lower``."""
        return self.measure.direction

    @property
    def fall(self) -> str:
        """What forgetting does to a score."""
        return "drop" if self.better == "higher" else "rise"

    def verb(self, gained: bool) -> str:
        """What an old task did, in front of a difference."""
        if self.better == "higher":
            return "gained" if gained else "lost"
        return "got better by" if gained else "got worse by"

    def text(self, value: float) -> str:
        """``37 %``; of other measures three digits."""
        if self.in_percent or math.isnan(value):
            return percent(value)
        return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")

    def shown(self, value: float) -> Shown:
        """A score in a sentence."""
        return Shown(value, self.text(value))

    def drop(self, value: float, up: bool = False) -> Shown:
        """A difference of scores in a sentence: ``17 points``; of other measures three digits.

        Args:
            value: Not negative.
            up: Rounded up and not to the nearest, where a sentence speaks of all that are larger.
        """
        if not self.in_percent:
            text = f"{value:.3g}"
            if up and float(text) < value:
                text = f"{value + 10 ** (math.floor(math.log10(value)) - 2) / 2:.3g}"
            return Shown(value, text)
        points = math.ceil(round(100 * value, 6)) if up else round(100 * value)
        return Shown(value, f"{points} point{'' if points == 1 else 's'}")

    def change(self, value: float) -> Shown:
        """A difference that may have either sign, without its unit."""
        text = "" if math.isnan(value) else f"{round(100 * value)}" if self.in_percent else f"{value:.3g}"
        return Shown(value, text.replace("-", "\N{MINUS SIGN}"))

    def range_text(self, estimate: Estimate) -> str:
        """``25–50 %``; empty if there is no interval."""
        if self.in_percent:
            return percent_range(estimate)
        if math.isnan(estimate.low) or math.isnan(estimate.high):
            return ""
        return f"{self.text(estimate.low)} to {self.text(estimate.high)}"

    def cell_text(self, value: float | None) -> str:
        """In a cell of the heat map, whose legend has the unit."""
        if value is None:
            return ""
        return f"{100 * value:.0f}" if self.in_percent else self.text(value)

    def shade(self, value: float) -> float:
        """From 0, the worst, to 1, the best."""
        share = min(1.0, max(0.0, (value - self.low) / (self.high - self.low)))
        return share if self.better == "higher" else 1 - share

    @property
    def ends(self) -> tuple[str, str]:
        """The worst and the best of the scale."""
        low, high = self.text(self.low), self.text(self.high)
        return (low, high) if self.better == "higher" else (high, low)

    @property
    def ticks(self) -> list[tuple[float, str]]:
        """Where an axis is labelled."""
        return [(value, self.text(value)) for value in (self.low, (self.low + self.high) / 2, self.high)]

    def cell_interval(self, matrix: ScoreMatrix, row: int, column: int) -> tuple[float, float] | None:
        """The 95 % interval of a cell; None where the file does not say what it rests on."""
        score = float(matrix.scores[row, column])
        count = 0 if matrix.counts is None else int(matrix.counts[row, column])
        if math.isnan(score) or not count:
            return None
        if self.in_percent:
            low, high = wilson_interval(round(score * count), count)
            return low, high
        spread = math.nan if matrix.spread is None else float(matrix.spread[row, column])
        if self.measure.kind != "mean" or not spread > 0:
            return None
        ends = means_interval(*(np.array([number]) for number in (1.0, score, count, spread)))
        return max(self.measure.low, float(ends[0])), min(self.measure.high, float(ends[1]))


def _values(matrix: ScoreMatrix) -> Iterable[float]:
    yield from matrix.scores.ravel().tolist()
    for curve in matrix.curves.values():
        yield from curve[:, 1].tolist()
    if matrix.baseline is not None:
        yield from matrix.baseline.tolist()
