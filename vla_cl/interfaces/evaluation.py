"""What scores a model: trials of tasks, each with the values of some measures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Self

from vla_cl.interfaces.layout import TRIALS, TableLayout, TrialLayout
from vla_cl.interfaces.model import Model
from vla_cl.scores import EvaluationRequest, Measure, Trial
from vla_cl.types import Split, Task


class Evaluator(AbstractContextManager["Evaluator"], ABC):
    """Gives trials for a model on tasks; knows neither methods nor the stream.

    What it needs while it works (simulators, files) lives from ``with`` to the end of the block.
    """

    measures: tuple[Measure, ...]
    """What it measures; the first is what reports show."""

    columns: Mapping[str, str] = {}
    """What else it notes of each trial: name to arrow type."""

    file: str = TRIALS
    """Name of its table in a run's folder; a family's further evaluators need other names."""

    @property
    def layout(self) -> TableLayout:
        """Of the table that its trials are kept in."""
        return TrialLayout(self.measures, self.columns, self.file)

    def __enter__(self) -> Self:
        """Make ready."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Free what was made ready."""

    @abstractmethod
    def units(self, task: Task, split: Split, count: int) -> Sequence[int]:
        """Which trials of a task a request asks for, as `Trial.unit` numbers them; empty if it cannot be evaluated."""

    @abstractmethod
    def evaluate(self, model: Model, request: EvaluationRequest) -> list[Trial]:
        """The trials of every task that can be evaluated, in the order of the request.

        A trial is a function of weights, task, split and unit, not of batch, workers or order. Those that
        `EvaluationRequest.known` names may be left out.
        """

    def fits(self, model: Model) -> None:
        """Refuse a model that cannot be evaluated here, before its first step.

        Raises:
            ConfigurationError: It cannot.
        """

    def why_nothing(self) -> str | None:
        """Why no task of the stream is evaluated, in a sentence; None if some are."""
        return None
