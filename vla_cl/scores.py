"""What an evaluation is asked for and what it gives: measures, requests, trials. No torch here."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from vla_cl.types import Split, Task


@dataclass(frozen=True)
class Measure:
    """What an evaluation measures of each trial.

    Attributes:
        name: In files and settings: ``success``, ``exact_match``, ``loss``.
        direction: Whether higher or lower values are better.
        kind: ``proportion``, of trials that each give 0 or 1; ``mean``, of any numbers; ``statistic``, one number of a
            whole task (an FID), which has no interval.
        low: Its least value.
        high: Its greatest value.
        title: In reports, with its unit: ``loss (nats)``.
        note: How to read it, in one or two sentences; reports show it.
    """

    name: str
    direction: Literal["higher", "lower"]
    kind: Literal["proportion", "mean", "statistic"]
    low: float = -math.inf
    high: float = math.inf
    title: str = ""
    note: str = ""

    @property
    def words(self) -> str:
        """What it is called within a sentence."""
        return self.title or self.name

    @property
    def sign(self) -> int:
        """1 where higher is better, -1 where lower is: a score times this is the better the higher it is."""
        return 1 if self.direction == "higher" else -1

    @property
    def worst(self) -> float:
        """What a trial counts that could not be carried out; infinite where the values have no bound."""
        return self.low if self.direction == "higher" else self.high


SUCCESS = Measure("success", "higher", "proportion", 0.0, 1.0, "success")
"""Whether an episode reached its goal."""


@dataclass(frozen=True)
class Trial:
    """One evaluated unit: an episode, a question, an image.

    Attributes:
        task: Id of its task.
        unit: Which one: the number of an initial state, of a test row, of a prompt; -1: the task as a whole.
        status: ``error`` if it could not be carried out; it counts as the worst value where there is one.
        values: Name of a measure to its value.
        columns: What else is noted of it, by the columns that its evaluator declares.
        seconds: How long it took.
        error: What happened, if it could not be carried out.
    """

    task: str
    unit: int
    status: Literal["ok", "error"]
    values: Mapping[str, float]
    columns: Mapping[str, object] = field(default_factory=dict)
    seconds: float = 0.0
    error: str | None = None


def _ignored(trial: Trial) -> None:
    """Nobody writes it down."""


@dataclass(frozen=True)
class EvaluationRequest:
    """What is to be evaluated, and when in the stream.

    Attributes:
        tasks: Which tasks, in this order.
        experience: After (or in) which experience of the stream; -1: before any learning.
        step: Optimizer steps since the start of the stream.
        split: ``report`` for reported numbers, ``select`` for learning curves.
        count: Trials of each task.
        known: Task and unit of trials that a run of before has already: they need not be made again.
        write_down: Called with a trial as soon as it is made, so that a kill does not lose it. An evaluator whose
            trials are quick need not call it.
    """

    tasks: tuple[Task, ...]
    experience: int
    step: int
    split: Split
    count: int
    known: frozenset[tuple[str, int]] = frozenset()
    write_down: Callable[[Trial], None] = _ignored

    def missing(self, task: Task, units: Sequence[int]) -> list[int]:
        """Those units of a task that are not known yet."""
        return [unit for unit in units if (task.id, unit) not in self.known]
