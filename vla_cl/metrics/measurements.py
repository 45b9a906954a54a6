"""What the formulas read: a matrix by task and by position, its learning curves, and those of a reference run.

The formulas are written for scores of which more is better, as success is. Where less is better, they are given the
scores with the sign turned, so that "lost" always means worse.

A metric that speaks of "task k" means the k-th position of the stream. Where a stream repeats tasks (Continual World's
CW20 is CW10 twice) the positions are more than the tasks: position k has the column of the task that experience k
brought, so cells of two positions may be the same episodes. Continual World's own code has a column for each of the
twenty positions (``results_processing/tables.py``), a curve for each, and a reference by the task's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics import definitions
from vla_cl.metrics.matrix import ScoreMatrix
from vla_cl.scores import Measure
from vla_cl.types import ConfigurationError

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class Measurements:
    """What the formulas read.

    Attributes:
        matrix: The run.
        reference: A run that learns each task on its own, or None.
    """

    matrix: ScoreMatrix
    reference: ScoreMatrix | None = None

    def __post_init__(self) -> None:
        if self.reference is not None:
            if self.reference.measure != self.measure:
                raise ConfigurationError(
                    f"the reference measures {self.reference.measure.name}, the run {self.measure.name}; give a "
                    "reference of the same measure"
                )
            _require_independent(self.matrix, self.reference)

    @property
    def positions(self) -> tuple[int, ...] | None:
        """The column of each position of the stream; None where experiences do not bring one task each."""
        return self.matrix.positions

    @property
    def measure(self) -> Measure:
        """What was measured."""
        return self.matrix.measure

    @property
    def scores(self) -> FloatArray:
        """Scores by task, the higher the better, shape (R, T)."""
        return self.measure.sign * self.matrix.scores

    @property
    def by_position(self) -> FloatArray:
        """Scores by position, shape (K, K); NaN, shape (T, T), where there are no positions."""
        if self.positions is None:
            return np.full((len(self.matrix.tasks),) * 2, np.nan)
        return np.asarray(self.scores[:, self.positions])

    @property
    def baseline(self) -> FloatArray:
        """Score of the untrained model by position, shape (K,); NaN where unknown."""
        if self.positions is None or self.matrix.baseline is None:
            return np.full(len(self.by_position), np.nan)
        return np.asarray(self.measure.sign * self.matrix.baseline[list(self.positions)])

    @property
    def best(self) -> float:
        """The best score that there can be, the higher the better; infinite where there is no bound."""
        return self.measure.high if self.measure.sign > 0 else -self.measure.low

    @property
    def curves(self) -> tuple[FloatArray, ...]:
        """Scores along the learning curve of each position, shape (n,); n = 0 where there is none."""
        if self.positions is None:
            return tuple(np.empty(0) for _ in self.matrix.tasks)
        sign = self.measure.sign
        return tuple(sign * self.matrix.learning_curve(position)[:, 1] for position in range(len(self.positions)))

    @property
    def reference_curves(self) -> tuple[FloatArray, ...]:
        """The same of the tasks learnt alone; n = 0 where there is none or it covers another number of steps."""
        if self.positions is None:
            return tuple(np.empty(0) for _ in self.matrix.tasks)
        return tuple(self._alone(position) for position in range(len(self.positions)))

    @property
    def task_fwt(self) -> FloatArray:
        """LIBERO's FWT_k, shape (K,)."""
        return np.stack([definitions.libero_task_fwt(curve) for curve in self.curves], axis=-1)

    @property
    def curve_best(self) -> FloatArray:
        """Best score along the learning curve, shape (K,)."""
        return _reduced(np.max, self.curves)

    @property
    def curve_means(self) -> FloatArray:
        """Mean score along the learning curve, shape (K,)."""
        return _reduced(np.mean, self.curves)

    @property
    def reference_means(self) -> FloatArray:
        """Mean score along the reference's learning curve, shape (K,)."""
        return _reduced(np.mean, self.reference_curves)

    def _alone(self, position: int) -> FloatArray:
        """The reference's curve of the task at a position, if it covers as many steps."""
        if self.reference is None or self.positions is None or self.reference.positions is None:
            return np.empty(0)
        task = self.matrix.tasks[self.positions[position]]
        if task not in self.reference.tasks:
            return np.empty(0)
        column = self.reference.tasks.index(task)
        alone = self.reference.learning_curve(self.reference.positions.index(column))
        own = self.matrix.learning_curve(position)
        fits = len(own) and len(alone) and covered_steps(own) == covered_steps(alone)
        return self.measure.sign * alone[:, 1] if fits else np.empty(0)


def covered_steps(curve: FloatArray) -> float:
    """How many steps a learning curve covers: areas compare only if it is equal."""
    return float(curve[-1, 0] - curve[0, 0])


def _reduced(function: Callable[[FloatArray], FloatArray], curves: tuple[FloatArray, ...]) -> FloatArray:
    return np.array([function(curve) if len(curve) else math.nan for curve in curves], dtype=np.float64)


def _require_independent(matrix: ScoreMatrix, reference: ScoreMatrix) -> None:
    """The reference learns each task alone; a run whose experiences bring several tasks is left to `reasons`."""
    rows, columns = reference.scores.shape
    brought = np.zeros((rows, columns), dtype=bool)
    for row, tasks in enumerate(_brought(reference)):
        brought[row, [reference.tasks.index(task) for task in tasks]] = True
    if not np.isnan(reference.scores[~brought]).all():
        raise ConfigurationError(
            "the reference must be an independent run, in which each experience is evaluated on its own task only, "
            f"but this one is {rows} x {columns} and not so; run the same tasks with arrangement=independent "
            "and without evaluation.future_tasks"
        )
    several = reference.stream is not None and any(len(tasks) > 1 for tasks in reference.stream)
    if several and matrix.positions is not None:
        raise ConfigurationError(
            "the reference has an experience of several tasks, but cw_forward_transfer needs one task per experience; "
            "give an independent run that learns each task in an experience of its own"
        )
    if not set(matrix.tasks) & set(reference.tasks):
        raise ConfigurationError(
            f"the reference shares no task with the run: {', '.join(reference.tasks)} against {', '.join(matrix.tasks)}"
        )


def _brought(matrix: ScoreMatrix) -> Sequence[tuple[str, ...]]:
    """The tasks that each row's experience brought; none where the file does not tell."""
    if matrix.stream is not None:
        return matrix.stream[: len(matrix.experiences)]
    return [(matrix.tasks[column],) for column in matrix.positions or ()]
