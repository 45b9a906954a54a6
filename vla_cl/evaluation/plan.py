"""What a run evaluates, and when."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class EvaluationPlan:
    """What a run evaluates, and when.

    Attributes:
        count: Reported trials of each task.
        future_tasks: Also tasks that have not been learnt yet.
        untrained: Also the model before any learning.
        curve_points: Evaluations while a task is learnt, on the selection split.
        curve_count: Trials of each of those.
    """

    count: int
    future_tasks: bool = False
    untrained: bool = False
    curve_points: int = 0
    curve_count: int = 10


def curve_steps(total: int, points: int) -> set[int]:
    """Where a learning curve is measured: step 0 and ``points`` equal parts up to the end; nowhere for 0 points."""
    return {round(total * number / points) for number in range(points + 1)} if points else set()
