"""The columns of a table of trials, and what its rows mean."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from vla_cl.scores import Measure, Trial

TRIALS = "trials.parquet"
"""The table of a run's evaluator, unless that names another file."""


class TableLayout(ABC):
    """How trials are written down; every layout has the columns experience, step, split and task."""

    file: str
    """Name of the table in a run's folder."""

    title: str
    """What messages call the table."""

    unit: str
    """The column that numbers the trials of a task."""

    measures: tuple[Measure, ...]
    """What can be read from a row; the first is what reports show."""

    columns: Mapping[str, str]
    """Name to arrow type (``int64``, ``float64``, ``string``), in order."""

    may_be_empty: tuple[str, ...]
    """Columns that may hold nothing."""

    @abstractmethod
    def of_trial(self, trial: Trial) -> dict[str, Any]:
        """The columns of a trial, less experience, step, split and task."""

    @abstractmethod
    def value(self, row: Mapping[str, Any], measure: Measure) -> float:
        """What a row says of a measure; its worst value where the trial could not be carried out."""

    @abstractmethod
    def failed(self, row: Mapping[str, Any]) -> bool:
        """Whether the trial could not be carried out."""

    @abstractmethod
    def strange(self, row: Mapping[str, Any]) -> str:
        """What a row says that no trial can say, in words; empty for nothing."""


class TrialLayout(TableLayout):
    """A column for each measure, empty where a trial could not be carried out, and those of the evaluator.

    Args:
        measures: As of `Evaluator`.
        columns: What else the evaluator notes of a trial: name to arrow type.
        file: Name of the table in a run's folder.
    """

    title = "the table of trials"
    unit = "unit"

    def __init__(self, measures: Sequence[Measure], columns: Mapping[str, str], file: str = TRIALS) -> None:
        self.file = file
        self.measures = tuple(measures)
        own = {"experience": "int64", "step": "int64", "split": "string", "task": "string", "unit": "int64"}
        scores = {measure.name: "float64" for measure in measures}
        self.columns = {**own, "status": "string", **scores, **columns, "seconds": "float64", "error": "string"}
        self.may_be_empty = ("error", *scores, *columns)

    def of_trial(self, trial: Trial) -> dict[str, Any]:
        """Unit, status, time, scores and notes."""
        given = {name: float(value) for name, value in trial.values.items()}
        scores = {measure.name: given.get(measure.name) for measure in self.measures}
        own = {
            self.unit: int(trial.unit),
            "status": trial.status,
            "seconds": float(trial.seconds),
            "error": trial.error,
        }
        return own | scores | dict(trial.columns)

    def value(self, row: Mapping[str, Any], measure: Measure) -> float:
        """The column of the measure."""
        return measure.worst if self.failed(row) else float(row[measure.name])

    def failed(self, row: Mapping[str, Any]) -> bool:
        """By its status."""
        return bool(row["status"] == "error")

    def strange(self, row: Mapping[str, Any]) -> str:
        """Another status, or a trial that was carried out and has no score."""
        if row["status"] not in ("ok", "error"):
            return f"the status {row['status']}"
        missing = [measure.name for measure in self.measures if row["status"] == "ok" and row[measure.name] is None]
        return f"no {missing[0]}" if missing else ""
