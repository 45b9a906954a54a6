"""The table of trials: one row for every evaluated trial of a run, kept as a parquet file."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from vla_cl.files import replacing
from vla_cl.interfaces.layout import TableLayout
from vla_cl.scores import Measure, Trial
from vla_cl.storage.manifest import require_of_run, run_key
from vla_cl.trust.tables import open_table, read_rows
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, Split

if TYPE_CHECKING:
    import pyarrow

_PYTHON: dict[str, type | tuple[type, ...]] = {"int64": int, "float64": (int, float), "string": str}
_REMEDY = "restore it, or move it away"
TABLE_BYTES = 1024 * 2**20
"""Most bytes of a table: a million episodes, some with a traceback."""

_SEAL = "vla_cl.rows"
_RUN = "vla_cl.run"
_WHEN = ("experience", "step", "split", "task")


@dataclass(frozen=True)
class Cell:
    """One cell of the score matrix.

    Attributes:
        value: Mean of the trials. A trial that could not be carried out counts with the measure's worst value: leaving
            it out would make a policy that breaks the simulator look better. It is counted apart as well. Where the
            measure has no worst value it is left out; NaN if nothing is left.
        count: Trials that the mean is of.
        errors: Those that could not be carried out.
        spread: Standard deviation of the trials, divided by n - 1; NaN of a single one.
    """

    value: float
    count: int
    errors: int
    spread: float


class TrialTable:
    """Rows in the order of first appearance, with the columns of a layout.

    Experience, step, split, task and unit identify a trial: recording it again, as after a resume, replaces its row.

    Args:
        layout: Columns and measures.
        rows: Column name to value.
    """

    def __init__(self, layout: TableLayout, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self.layout = layout
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            self._put(row)

    def __len__(self) -> int:
        """Number of trials."""
        return len(self._rows)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every row, column name to value."""
        return [dict(row) for row in self._rows.values()]

    def append(self, trial: Trial, *, experience: int, step: int, split: Split) -> None:
        """Record one trial.

        Args:
            trial: With the columns of the layout.
            experience: The position in the stream after (or in) which it was evaluated.
            step: Optimizer steps since the start of the stream.
            split: Of its unit.

        Raises:
            ConfigurationError: The trial lacks a score, or a column is of another type than its evaluator declares.
        """
        when = {"experience": experience, "step": step, "split": split, "task": trial.task}
        row = when | self.layout.of_trial(trial)
        lacking = [name for name in self.layout.columns if name not in row]
        if lacking:
            raise ConfigurationError(
                f"a trial of {trial.task} lacks {lacking[0]}, which its evaluator declares; add it"
            )
        _require_row({name: row[name] for name in self.layout.columns}, self.layout, f"a trial of {trial.task}")
        self._put(row)

    def reported(self, experience: int) -> set[tuple[str, int]]:
        """Task and unit of every trial that is reported after an experience."""
        return {
            (row["task"], row[self.layout.unit])
            for row in self._rows.values()
            if row["experience"] == experience and row["split"] == "report"
        }

    def cells(
        self, experience: int, split: Split = "report", step: int | None = None, measure: Measure | None = None
    ) -> dict[str, Cell]:
        """One row of the score matrix: task id to cell, for the tasks that were evaluated.

        Args:
            experience: Which row.
            split: Units that select are not units that report; only one kind is counted.
            step: Optimizer step of the evaluation; by default the last one recorded for this experience and split.
            measure: By default the first.
        """
        rows = [row for row in self._rows.values() if row["experience"] == experience and row["split"] == split]
        if step is None:
            step = max((row["step"] for row in rows), default=0)
        by_task: dict[str, list[dict[str, Any]]] = {}
        for row in rows:
            if row["step"] == step:
                by_task.setdefault(row["task"], []).append(row)
        return {task: self._cell(found, measure) for task, found in by_task.items()}

    def curves(self, split: Split = "report", measure: Measure | None = None) -> dict[str, list[tuple[int, int, Cell]]]:
        """The score of each task over the course of learning: task id to (experience, step, cell), in that order."""
        by_task: dict[str, dict[tuple[int, int], list[dict[str, Any]]]] = {}
        for row in self._rows.values():
            if row["split"] == split:
                by_task.setdefault(row["task"], {}).setdefault((row["experience"], row["step"]), []).append(row)
        return {
            task: [(*place, self._cell(found, measure)) for place, found in sorted(by_place.items())]
            for task, by_place in by_task.items()
        }

    def write(self, path: Path) -> None:
        """Write the parquet file, replacing an older one atomically."""
        import pyarrow
        from pyarrow import parquet

        rows = list(self._rows.values())
        key = run_key(path.parent)
        schema = _schema(self.layout).with_metadata(
            {_SEAL: rows_seal(self.layout.columns, rows)} | ({_RUN: key} if key else {})
        )
        table = pyarrow.Table.from_pylist(rows, schema=schema)
        with replacing(path) as temporary:
            parquet.write_table(table, temporary)

    @classmethod
    def read(cls, path: Path, layout: TableLayout) -> TrialTable:
        """Read what `write` wrote.

        Raises:
            ConfigurationError: The file is damaged, or is not of this layout.
        """
        require_rows_seal(path, layout.title)
        rows = read_rows(path, layout.title, _REMEDY, tuple(layout.columns), TABLE_BYTES)
        for number, row in enumerate(rows):
            _require_row(row, layout, f"row {number} of {short(path)}")
        return cls(layout, rows)

    def _cell(self, rows: Sequence[Mapping[str, Any]], measure: Measure | None) -> Cell:
        chosen = measure or self.layout.measures[0]
        values = np.array([self.layout.value(row, chosen) for row in rows])
        values = values[np.isfinite(values)]
        spread = float(values.std(ddof=1)) if len(values) > 1 else math.nan
        mean = float(values.mean()) if len(values) else math.nan
        return Cell(mean, len(values), sum(map(self.layout.failed, rows)), spread)

    def _put(self, row: Mapping[str, Any]) -> None:
        key = tuple(row[name] for name in (*_WHEN, self.layout.unit))
        self._rows[key] = {name: row[name] for name in self.layout.columns}


def _require_row(row: Mapping[str, Any], layout: TableLayout, what: str) -> None:
    """Refuse a row that `TrialTable.append` would not have written."""
    for name, value in row.items():
        kind = _PYTHON[layout.columns[name]]
        empty = value is None and name in layout.may_be_empty
        if not empty and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ConfigurationError(f"{what} has {harmless(repr(value), 60)} as {name}; {_REMEDY}")
    if (strange := layout.strange(row)) or row["split"] not in get_args(Split):
        came = harmless(strange or f"the split {row['split']}", 60)
        raise ConfigurationError(f"{what} has {came}, which is none; {_REMEDY}")


def rows_seal(columns: Iterable[str], rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the rows' values, however a file encodes them."""
    names = tuple(columns)
    values = [[row[name] for name in names] for row in rows]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def require_rows_seal(path: Path, title: str) -> None:
    """Refuse a table whose rows have changed since `TrialTable.write`; one of other software has no seal.

    Args:
        path: The table, of any layout.
        title: What it is called in messages.

    Raises:
        ConfigurationError: They have, the table is that of another run, or the file cannot be read.
    """
    with open_table(path, title, _REMEDY, (), TABLE_BYTES) as table:
        notes, columns = table.file.metadata.metadata or {}, tuple(table.schema.names)
    found, run = notes.get(_SEAL.encode()), notes.get(_RUN.encode())
    if found is None:
        return
    if run is not None:
        of = {"run": run.decode(errors="replace")}
        require_of_run(of, path.parent, short(path), "give the run's command again: it writes the file anew")
    rows = read_rows(path, title, _REMEDY, columns, TABLE_BYTES)
    if found.decode(errors="replace") != rows_seal(columns, rows):
        raise ConfigurationError(f"{short(path)} is damaged: its rows do not fit their seal; {_REMEDY}")


def _schema(layout: TableLayout) -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in layout.columns.items()])
