"""The table of all metrics: formula, direction, meaning, source, and what its interval rests on."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics import definitions, reasons, weights
from vla_cl.metrics.measurements import Measurements
from vla_cl.metrics.reasons import Need
from vla_cl.metrics.terms import Terms, along_curves, of_baseline, of_positions, of_tasks
from vla_cl.scores import Measure

FloatArray = NDArray[np.float64]

HEADLINE_FORGETTING = "simple_recipe_nbt"
"""What "forgetting" is where only one figure is shown: points lost per old task, from just after learning to the end.

It has no bias, because nothing in it is a maximum, and its interval holds the truth as often as it says. It is GEM's
BWT with the sign turned, the figure most of the field reports, under the name (NBT, less is better) that work on robot
policies uses. It reads as it stands: .30 means that 30 points were lost. LIBERO's NBT is as unbiased, but averages over
all later experiences and counts the last task, which cannot be forgotten; Continual World's counts that one too.
"""

HEADLINE = ("final_average", HEADLINE_FORGETTING, "learning_accuracy")
"""The metrics that are shown unless others are asked for; the first one sorts."""


Direction = Literal["higher", "lower"]
Kind = Literal["level", "change", "loss", "relative"]


@dataclass(frozen=True)
class Metric:
    """A row of the table of metrics.

    Attributes:
        name: The function in `vla_cl.metrics.definitions`; includes the convention.
        compute: Value of what was measured, shape ().
        direction: Which way is better, where higher scores are; of a level it turns round where lower scores are.
        meaning: One line.
        source: Paper, and who else means the same by the word.
        kind: ``level``, a score itself, shown as the scores are; ``change``, a difference of scores, and ``loss``, one
            that is never negative, both turned so that worse scores count alike for every measure; ``relative``, a
            share of what there was to gain.
        terms: The metric as a weighted sum of scores, which its interval is made of; None: it has no interval.
        bias: Which way the value is off on average, and why; empty for none. A metric without ``terms`` has one.
        needs: What the formula needs, in the order in which it is looked for when the value is undefined.
    """

    name: str
    compute: Callable[[Measurements], FloatArray]
    direction: Direction
    meaning: str
    source: str
    kind: Kind = "level"
    terms: Callable[[Measurements], Terms] | None = None
    bias: str = ""
    needs: tuple[Need, ...] = ()

    def turned(self, measure: Measure) -> bool:
        """Whether it is shown with the sign that scores of this measure have, against that of its formula."""
        return self.kind == "level" and measure.sign < 0

    def better(self, measure: Measure) -> Direction:
        """Which way is better of a matrix of this measure."""
        other: Direction = "lower" if self.direction == "higher" else "higher"
        return other if self.turned(measure) else self.direction

    def bias_of(self, measure: Measure) -> str:
        """Which way the value is off, as shown, and why; empty for none."""
        for word, other in (("too high", "too low"), ("too low", "too high")):
            if self.turned(measure) and self.bias.startswith(word):
                return other + self.bias.removeprefix(word)
        return self.bias

    def bounds(self, measure: Measure) -> tuple[float, float]:
        """The least and the greatest value that it can take, as shown."""
        width = measure.high - measure.low
        ranges = {
            "level": (measure.low, measure.high),
            "change": (-width, width),
            "loss": (0.0, width),
            "relative": (-math.inf, 1.0),
        }
        return ranges[self.kind]


_LIBERO = "Liu et al. 2023 (LIBERO), arXiv 2306.03310; LOTUS, DMPEL"
_CLARE = "CLARE, arXiv 2601.09512; OrthoSkillVLA"
_CW = "Wolczyk et al. 2021 (Continual World), arXiv 2105.10919"
_TAIL = "Liu et al. 2024 (TAIL), arXiv 2310.05905; PPL"
_ISCIL = "Lee et al. 2024 (IsCiL); SIL-C"
_GEM = "Lopez-Paz and Ranzato 2017 (GEM), arXiv 1706.08840"

_MAXIMUM = "too high: a maximum of noisy values; without any forgetting it is above 0"
_BEST_HELD = "too high: it takes the best of noisy evaluations"
_AGAINST_BEST = "too low: it is measured against the best of noisy evaluations"
_RATIO = "too low: it divides by a measured number; little if the reference is not near 1"

_END = (reasons.last_row,)
_SEEN = (reasons.positions, reasons.seen_so_far)
_LEARNT = (reasons.positions, reasons.diagonal)
_CURVES = (reasons.positions, reasons.curves)
_SEEN_OF_SEVERAL = (reasons.positions, reasons.several, reasons.seen_so_far)
_CURVES_AND_SEEN = (reasons.positions, reasons.curves, reasons.seen_so_far)
_LEARNT_AND_END = (reasons.positions, reasons.several, reasons.diagonal, reasons.last_row)
_BEFORE_LEARNING = (reasons.positions, reasons.several, reasons.above_diagonal, reasons.untrained)
_CURVES_AND_REFERENCE = (reasons.positions, reasons.curves, reasons.reference)
_CURVES_AND_SEVERAL = (reasons.positions, reasons.several, reasons.curves, reasons.seen_so_far)


def _transfer(measured: Measurements) -> FloatArray:
    return definitions.cw_forward_transfer(measured.curve_means, measured.reference_means, measured.best)


def _gem_fwt_terms(measured: Measurements) -> Terms:
    return of_positions(measured, weights.next_task) + of_baseline(measured)


# One line per metric, so that the table reads as a table.
# fmt: off
METRICS: tuple[Metric, ...] = (
    Metric("final_average", lambda m: definitions.final_average(m.scores), "higher",
           "score on all tasks at the end", _GEM + ", as ACC; ASR, AP, AVG elsewhere",
           terms=lambda m: of_tasks(m, weights.last_row), needs=_END),
    Metric("average_incremental", lambda m: definitions.average_incremental(m.by_position), "higher",
           "score on the tasks seen so far", "Rebuffi et al. 2017 (iCaRL), arXiv 1611.07725; MAA",
           terms=lambda m: of_positions(m, weights.seen_so_far), needs=_SEEN),
    Metric("learning_accuracy", lambda m: definitions.learning_accuracy(m.by_position), "higher",
           "score just after learning each task", "Riemer et al. 2019 (MER), arXiv 1810.11910; MFT elsewhere",
           terms=lambda m: of_positions(m, weights.diagonal), needs=_LEARNT),
    Metric("libero_fwt", lambda m: definitions.libero_fwt(m.task_fwt), "higher",
           "area under the learning curve, best held", _LIBERO, bias=_BEST_HELD, needs=_CURVES),
    Metric("libero_nbt", lambda m: definitions.libero_nbt(m.by_position), "lower",
           "mean drop over later experiences, / K", _LIBERO, "change",
           terms=lambda m: of_positions(m, weights.later_drops_by_all), needs=_SEEN_OF_SEVERAL),
    Metric("libero_auc", lambda m: definitions.libero_auc(m.by_position, m.task_fwt), "higher",
           "learning curve and retention together", _LIBERO, bias=_BEST_HELD, needs=_CURVES_AND_SEEN),
    Metric("clare_fwt", lambda m: definitions.clare_fwt(m.by_position), "higher",
           "score just after learning each task", _CLARE,
           terms=lambda m: of_positions(m, weights.diagonal), needs=_LEARNT),
    Metric("clare_nbt", lambda m: definitions.clare_nbt(m.by_position), "lower",
           "mean drop over later experiences, / (K-1)", _CLARE, "change",
           terms=lambda m: of_positions(m, weights.later_drops), needs=_SEEN_OF_SEVERAL),
    Metric("clare_auc", lambda m: definitions.clare_auc(m.by_position), "higher",
           "score from learning a task to the end", _CLARE,
           terms=lambda m: of_positions(m, weights.kept), needs=_SEEN),
    Metric("gem_bwt", lambda m: definitions.gem_bwt(m.by_position), "higher",
           "change from learning to the end", _GEM + "; AlphaBrain", "change",
           terms=lambda m: of_positions(m, weights.end_drops, sign=-1), needs=_LEARNT_AND_END),
    Metric("gem_fwt", lambda m: definitions.gem_fwt(m.by_position, m.baseline), "higher",
           "gain on a task before it is learnt", _GEM, "change", terms=_gem_fwt_terms, needs=_BEFORE_LEARNING),
    Metric("chaudhry_forgetting", lambda m: definitions.chaudhry_forgetting(m.by_position), "lower",
           "drop from the best earlier value to the end",
           "Chaudhry et al. 2018 (RWalk), arXiv 1801.10112; AlphaBrain", "change", bias=_MAXIMUM,
           needs=_SEEN_OF_SEVERAL),
    Metric("mammoth_forgetting", lambda m: definitions.mammoth_forgetting(m.by_position), "lower",
           "the same, the end included: never negative", "Buzzega et al. 2020 (mammoth), utils/metrics.py", "loss",
           bias=_MAXIMUM, needs=_SEEN_OF_SEVERAL),
    Metric("cw_performance", lambda m: definitions.cw_performance(m.scores if m.positions is None else m.by_position),
           "higher", "score at the end, on each position's task", _CW,
           terms=lambda m: (of_tasks if m.positions is None else of_positions)(m, weights.last_row), needs=_END),
    Metric("cw_forgetting", lambda m: definitions.cw_forgetting(m.by_position), "lower",
           "drop from learning to the end, / K", _CW, "change",
           terms=lambda m: of_positions(m, weights.end_drops_by_all), needs=_LEARNT_AND_END),
    Metric("cw_forward_transfer", _transfer, "higher", "faster than learning each task alone", _CW,
           "relative", terms=along_curves, bias=_RATIO,
           needs=_CURVES_AND_REFERENCE),
    Metric("simple_recipe_nbt", lambda m: definitions.simple_recipe_nbt(m.by_position), "lower",
           "drop from learning to the end, / (K-1)", "Hu et al. 2026 (Simple Recipe Works), arXiv 2603.11653", "change",
           terms=lambda m: of_positions(m, weights.end_drops), needs=_LEARNT_AND_END),
    Metric("tail_fwt", lambda m: definitions.tail_fwt(m.curve_best), "higher",
           "best score while learning each task", _TAIL, bias=_BEST_HELD, needs=_CURVES),
    Metric("tail_bwt", lambda m: definitions.tail_bwt(m.by_position, m.curve_best), "higher",
           "change of old tasks against their best", _TAIL, "change", bias=_AGAINST_BEST, needs=_CURVES_AND_SEVERAL),
    Metric("iscil_fwt", lambda m: definitions.iscil_fwt(m.by_position), "higher",
           "score just after learning each task", _ISCIL,
           terms=lambda m: of_positions(m, weights.diagonal), needs=_LEARNT),
    Metric("iscil_bwt", lambda m: definitions.iscil_bwt(m.by_position), "higher",
           "mean change over later experiences, / K", _ISCIL, "change",
           terms=lambda m: of_positions(m, weights.later_drops_by_all, sign=-1), needs=_SEEN_OF_SEVERAL),
    Metric("iscil_auc", lambda m: definitions.iscil_auc(m.by_position), "higher",
           "score from learning a task to the end", _ISCIL,
           terms=lambda m: of_positions(m, weights.kept), needs=_SEEN),
)
# fmt: on
