"""The episode table: one row for every evaluated episode of a run, kept as ``episodes.parquet``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from vla_cl.files import replacing
from vla_cl.manifest import require_of_run, run_key
from vla_cl.trust.tables import open_table, read_rows
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError, Outcome, Split, Trial

if TYPE_CHECKING:
    import pyarrow

_COLUMNS = {
    "experience": "int64",
    "step": "int64",
    "split": "string",
    "task": "string",
    "initial_state": "int64",
    "outcome": "string",
    "env_steps": "int64",
    "decisions": "int64",
    "total_reward": "float64",
    "seconds": "float64",
    "error": "string",
    "video": "string",
    "render_profile": "string",
}
EVALUATOR_COLUMNS = {
    name: _COLUMNS[name] for name in ("outcome", "env_steps", "decisions", "total_reward", "video", "render_profile")
}
"""What rollouts note of an episode beside what every trial has."""

_PYTHON: dict[str, type | tuple[type, ...]] = {"int64": int, "float64": (int, float), "string": str}
_MAY_BE_EMPTY = ("error", "video", "render_profile")
_REMEDY = "restore it, or move it away"
TABLE_BYTES = 1024 * 2**20
"""Most bytes of a table: a million episodes, some with a traceback."""

_SEAL = "vla_cl.rows"
_RUN = "vla_cl.run"
_KEY = ("experience", "step", "split", "task", "initial_state")


@dataclass(frozen=True)
class SuccessCell:
    """One cell of the success matrix.

    Attributes:
        success: Successes / episodes. A crashed episode is in the denominator: leaving it out would make a policy that
            breaks the simulator look better; it is counted apart as well, so that nobody takes it for a failure.
        episodes: Successes, failures and errors together.
        errors: Crashed episodes among them.
    """

    success: float
    episodes: int
    errors: int


class EpisodeTable:
    """Rows in the order of first appearance; the columns are those of ``episodes.parquet``.

    Experience, step, split, task and initial state identify an episode: recording it again, as after a resume,
    replaces its row.
    """

    def __init__(self, rows: Iterable[Mapping[str, Any]] = ()) -> None:
        self._rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        for row in rows:
            self._put(row)

    def __len__(self) -> int:
        """Number of episodes."""
        return len(self._rows)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Every row, column name to value."""
        return [dict(row) for row in self._rows.values()]

    def append(self, trial: Trial, *, experience: int, step: int, split: Split) -> None:
        """Record one episode.

        Args:
            trial: What was rolled out, with `EVALUATOR_COLUMNS`.
            experience: The position in the stream after (or in) which it was rolled out.
            step: Optimizer steps since the start of the stream.
            split: Of its initial state.
        """
        when = {"experience": experience, "step": step, "split": split}
        what = {"task": trial.task, "initial_state": trial.unit, "seconds": trial.seconds, "error": trial.error}
        self._put(when | what | dict(trial.columns))

    def reported(self, experience: int) -> set[tuple[str, int]]:
        """Task and initial state of every episode that is reported after an experience."""
        rows = self._rows.values()
        return {
            (row["task"], row["initial_state"])
            for row in rows
            if row["experience"] == experience and row["split"] == "report"
        }

    def success_cells(
        self, experience: int, split: Split = "report", step: int | None = None
    ) -> dict[str, SuccessCell]:
        """One row of the success matrix: task id to cell, for the tasks that were evaluated.

        Args:
            experience: Which row.
            split: States that select are not states that report; only one kind is counted.
            step: Optimizer step of the evaluation; by default the last one recorded for this experience and split.
        """
        rows = [row for row in self._rows.values() if row["experience"] == experience and row["split"] == split]
        if step is None:
            step = max((row["step"] for row in rows), default=0)
        by_task: dict[str, list[str]] = {}
        for row in rows:
            if row["step"] == step:
                by_task.setdefault(row["task"], []).append(row["outcome"])
        return {task: _cell(outcomes) for task, outcomes in by_task.items()}

    def curves(self, split: Split = "report") -> dict[str, list[tuple[int, int, float]]]:
        """Success of each task over the course of learning: task id to (experience, step, success), in that order."""
        by_task: dict[str, dict[tuple[int, int], list[str]]] = {}
        for row in self._rows.values():
            if row["split"] == split:
                by_task.setdefault(row["task"], {}).setdefault((row["experience"], row["step"]), []).append(
                    row["outcome"]
                )
        return {
            task: [(*place, _cell(outcomes).success) for place, outcomes in sorted(by_place.items())]
            for task, by_place in by_task.items()
        }

    def write(self, path: Path) -> None:
        """Write ``episodes.parquet``, replacing an older one atomically."""
        import pyarrow
        from pyarrow import parquet

        rows = list(self._rows.values())
        key = run_key(path.parent)
        schema = _schema().with_metadata({_SEAL: rows_seal(rows)} | ({_RUN: key} if key else {}))
        table = pyarrow.Table.from_pylist(rows, schema=schema)
        with replacing(path) as temporary:
            parquet.write_table(table, temporary)

    @classmethod
    def read(cls, path: Path) -> EpisodeTable:
        """Read what `write` wrote.

        Raises:
            ConfigurationError: The file is damaged, or is not of this format.
        """
        require_rows_seal(path)
        rows = read_rows(path, "the episode table", _REMEDY, tuple(_COLUMNS), TABLE_BYTES)
        for number, row in enumerate(rows):
            _require_row(row, f"row {number} of {short(path)}")
        return cls(rows)

    def _put(self, row: Mapping[str, Any]) -> None:
        self._rows[tuple(row[name] for name in _KEY)] = {name: row[name] for name in _COLUMNS}


def _require_row(row: Mapping[str, Any], what: str) -> None:
    """Refuse a row that `EpisodeTable.append` would not have written."""
    for name, value in row.items():
        kind = _PYTHON[_COLUMNS[name]]
        empty = value is None and name in _MAY_BE_EMPTY
        if not empty and (not isinstance(value, kind) or isinstance(value, bool)):
            raise ConfigurationError(f"{what} has {harmless(repr(value), 60)} as {name}; {_REMEDY}")
    if row["outcome"] not in {outcome.value for outcome in Outcome} or row["split"] not in get_args(Split):
        came = harmless(f"{row['outcome']} in {row['split']}", 60)
        raise ConfigurationError(f"{what} has the outcome {came}, which is none; {_REMEDY}")


def rows_seal(rows: Sequence[Mapping[str, Any]]) -> str:
    """A hash of the rows' values, however a file encodes them."""
    values = [[row[name] for name in _COLUMNS] for row in rows]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()[:16]


def require_rows_seal(path: Path) -> None:
    """Refuse a table whose rows have changed since `EpisodeTable.write`; one of other software has no seal.

    Raises:
        ConfigurationError: They have, the table is that of another run, or the file cannot be read.
    """
    with open_table(path, "the episode table", _REMEDY, (), TABLE_BYTES) as table:
        notes = table.file.metadata.metadata or {}
    found, run = notes.get(_SEAL.encode()), notes.get(_RUN.encode())
    if found is None:
        return
    if run is not None:
        of = {"run": run.decode(errors="replace")}
        require_of_run(of, path.parent, short(path), "give the run's command again: it writes the file anew")
    rows = read_rows(path, "the episode table", _REMEDY, tuple(_COLUMNS), TABLE_BYTES)
    if found.decode(errors="replace") != rows_seal(rows):
        raise ConfigurationError(f"{short(path)} is damaged: its rows do not fit their seal; {_REMEDY}")


def _cell(outcomes: Sequence[str]) -> SuccessCell:
    successes, errors = outcomes.count(Outcome.SUCCESS), outcomes.count(Outcome.ERROR)
    return SuccessCell(successes / len(outcomes), len(outcomes), errors)


def _schema() -> pyarrow.Schema:
    import pyarrow

    return pyarrow.schema([(name, getattr(pyarrow, kind)()) for name, kind in _COLUMNS.items()])
