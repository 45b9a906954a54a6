"""What a run evaluates, and when."""

from __future__ import annotations

from dataclasses import dataclass

from vla_cl.types import ConfigurationError


@dataclass(frozen=True)
class EvaluationPlan:
    """What a run evaluates, and when.

    Attributes:
        count: Reported trials of each task.
        future_tasks: Also tasks that have not been learnt yet.
        untrained: Also the model before any learning.
        curve_points: Evaluations while a task is learnt, on the selection split.
        curve_count: Trials of each of those.

    Raises:
        ConfigurationError: A number is too small.
    """

    count: int
    future_tasks: bool = False
    untrained: bool = False
    curve_points: int = 0
    curve_count: int = 10

    def __post_init__(self) -> None:
        for name, least in (("count", 1), ("curve_points", 0), ("curve_count", 1)):
            if type(value := getattr(self, name)) is not int or value < least:
                raise ConfigurationError(
                    f"{name} of an evaluation plan must be a whole number from {least} on; got {value}"
                )


def curve_steps(total: int, points: int) -> set[int]:
    """Where a learning curve is measured: step 0 and ``points`` equal parts up to the end; nowhere for 0 points."""
    return {round(total * number / points) for number in range(points + 1)} if points else set()
