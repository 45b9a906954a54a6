"""Why a metric is undefined, in words: what its formula needs and the run does not have.

Each function looks at one thing that a formula needs. It gives an empty text where that is there, else the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics.matrix import ScoreMatrix
from vla_cl.metrics.measurements import Measurements, covered_steps
from vla_cl.scores import SUCCESS, Measure
from vla_cl.trust.text import harmless

Need = Callable[[Measurements], str]

UNKNOWN_REASON = "something that the formula needs was not measured"
NO_CURVES = "there are no learning curves (evaluation.curve_points=5 measures them)"
NO_REFERENCE = "there is no independent run as a reference (give one with --reference, or among the runs of a report)"
_SEVERAL = "an experience brings several tasks, and the formula needs one task per experience"
_MOST = 60  # characters of a task's id


def why_undefined(needs: Sequence[Need], measured: Measurements) -> str:
    """The first reason among ``needs``, or that something was not measured."""
    return next((reason for need in needs if (reason := need(measured))), UNKNOWN_REASON)


def positions(measured: Measurements) -> str:
    """One task per experience, and all experiences evaluated."""
    return _no_positions(measured.matrix)


def several(measured: Measurements) -> str:
    """At least two positions."""
    one = measured.positions is not None and len(measured.positions) == 1
    return "with one task only, nothing can be forgotten or transferred" if one else ""


def last_row(measured: Measurements) -> str:
    """Success on every task at the end."""
    missing = np.isnan(measured.scores[-1]).any()
    return "not every task was evaluated after the last experience" if missing else ""


def diagonal(measured: Measurements) -> str:
    """Success on each task just after learning it."""
    missing = np.isnan(np.diagonal(measured.by_position)).any()
    return "not every task was evaluated just after learning it" if missing else ""


def seen_so_far(measured: Measurements) -> str:
    """Success on all tasks learnt so far, after each experience."""
    matrix = measured.by_position
    missing = np.isnan(matrix[np.tri(len(matrix), dtype=bool)]).any()
    return "earlier tasks were not evaluated after every later experience" if missing else ""


def above_diagonal(measured: Measurements) -> str:
    """Success on each task just before learning it."""
    missing = np.isnan(np.diagonal(measured.by_position, offset=1))
    if not missing.any():
        return ""
    which = "no task" if missing.all() else "not every task"
    return f"{which} was evaluated just before learning it, above the diagonal (evaluation.future_tasks=true does so)"


def untrained(measured: Measurements) -> str:
    """Success of the untrained policy."""
    missing = np.isnan(measured.baseline[1:]).any()
    return "the untrained policy was not evaluated (evaluation.untrained=true does so)" if missing else ""


def curves(measured: Measurements) -> str:
    """A learning curve for each position."""
    found = measured.curves
    if not any(len(curve) for curve in found):
        return NO_CURVES
    if not all(len(curve) for curve in found):
        return "not every experience has a learning curve of its task"
    return "a learning curve has points without a value" if any(np.isnan(curve).any() for curve in found) else ""


def reference(measured: Measurements) -> str:
    """A reference whose learning curves cover as many steps, with room above them."""
    if measured.reference is None:
        return NO_REFERENCE
    if not np.isfinite(measured.best):
        return f"{measured.measure.name} has no best value, so there is no room that could be measured"
    return why_unfit(measured.matrix, measured.reference)


def why_unfit(matrix: ScoreMatrix, alone: ScoreMatrix) -> str:
    """Why a run cannot be the reference of another in `cw_forward_transfer`; empty if it can.

    Args:
        matrix: The run. Where its experiences bring several tasks, no reference is at fault.
        alone: An independent run.
    """
    if why := _no_positions(alone):
        return f"in the reference, {why}"
    reasons = (
        _unlike(matrix, alone, position, matrix.tasks[column]) for position, column in enumerate(matrix.positions or ())
    )
    return next((why for why in reasons if why), "")


def _unlike(matrix: ScoreMatrix, alone: ScoreMatrix, position: int, task: str) -> str:
    """Why the reference's curve of one task cannot be compared with that of the run."""
    name = harmless(task, _MOST)
    if task not in alone.tasks:
        return f"the reference did not learn {name}"
    column = alone.tasks.index(task)
    if alone.positions is None or column not in alone.positions:
        return f"the reference did not learn {name}"
    curve, own = alone.learning_curve(alone.positions.index(column)), matrix.learning_curve(position)
    if not len(curve):
        return f"the reference has no learning curve of {name}"
    if len(own) and covered_steps(own) != covered_steps(curve):
        return (
            f"the learning curve of {name} covers {covered_steps(own):g} steps, that of the reference "
            f"{covered_steps(curve):g}"
        )
    return _no_room(curve[:, 1], name, matrix.measure)


def _no_room(scores: NDArray[np.float64], name: str, measure: Measure) -> str:
    if np.isnan(scores).any():
        return f"the reference's learning curve of {name} has points without a value"
    best = measure.high if measure.sign > 0 else measure.low
    if scores.mean() != best:
        return ""
    always = "always succeeds" if measure.name == SUCCESS.name else "is always at its best"
    return f"the reference {always} on {name}, so there is nothing to gain"


def _no_positions(matrix: ScoreMatrix) -> str:
    if matrix.positions is not None:
        return ""
    if matrix.stream is None:
        return "the file does not say which tasks each experience brought, and the matrix is not square"
    if any(len(tasks) != 1 for tasks in matrix.stream):
        return _SEVERAL
    return f"only {len(matrix.experiences)} of {len(matrix.stream)} experiences have been evaluated"
