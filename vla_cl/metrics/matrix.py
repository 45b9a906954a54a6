"""The success matrix of a run and its file, ``matrix.json``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vla_cl.files import write_json
from vla_cl.manifest import of_run, require_of_run, require_readable_run, require_seal, seal
from vla_cl.metrics.checks import (
    check_count,
    check_curve_experiences,
    check_fractions,
    check_rates,
    check_stream,
    nearest,
)
from vla_cl.trust.reading import read_json, read_json_object
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_REQUIRED = ("tasks", "success")
_OPTIONAL = (
    *("experiences", "episodes", "curves", "baseline", "curve_episodes", "baseline_episodes"),
    *("stream", "curve_experiences"),
)
_FILE = "matrix.json"
_BYTES = 64 * 2**20
_CELLS = 1_000_000  # 1,000 tasks one after another


@dataclass(frozen=True, eq=False)
class SuccessMatrix:
    """What was measured in one run. The arrays are copied and read-only.

    Rows are experiences, columns are tasks, each once. A joint run has one row. An independent run (one policy per
    task) has only the cells of the tasks that each experience brought. ``stream`` says which these were, so a stream
    may bring tasks in another order than that of the columns, and a task more than once (`positions`).

    Attributes:
        tasks: Ids of the T tasks, the columns.
        experiences: Names of the R experiences, the rows.
        success: Fraction of successful episodes on task j after experience i, shape (R, T); NaN = not evaluated.
        episodes: How many episodes are behind each cell, shape (R, T); at least 1 where ``success`` is a number. None =
            unknown: then nothing that reads ``success`` has an interval.
        curves: Task id to its learning curve, shape (n, 2): optimizer step, success on the task. It covers the
            experience that brings the task, from before its first step to after its last; if several do, one after the
            other (`learning_curve`).
        baseline: Success of the untrained policy (the warm start) on each task, shape (T,), or None.
        curve_episodes: Episodes behind each point of a curve; None = unknown, then what reads curves has no interval.
        baseline_episodes: Episodes behind each number of the baseline; None = unknown, as above.
        stream: Task ids of every experience of the stream, those not yet learnt included. None = unknown: then a square
            matrix is taken to bring task k with experience k, and any other matrix no task that one could tell.
        curve_experiences: Of a task that the stream repeats, for each point of its curve the experience (from 0) in
            which it was measured.

    Raises:
        ConfigurationError: Shapes do not fit, a number is out of range, or a name is unknown or used twice.
    """

    tasks: tuple[str, ...]
    experiences: tuple[str, ...]
    success: FloatArray
    episodes: IntArray | None
    curves: Mapping[str, FloatArray] = field(default_factory=dict)
    baseline: FloatArray | None = None
    curve_episodes: int | None = None
    baseline_episodes: int | None = None
    stream: tuple[tuple[str, ...], ...] | None = None
    curve_experiences: Mapping[str, IntArray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        # A frozen dataclass can only be normalised through object.__setattr__.
        put = object.__setattr__
        put(self, "tasks", tuple(self.tasks))
        put(self, "experiences", tuple(self.experiences))
        put(self, "success", _frozen(self.success, np.float64))
        if self.episodes is not None:
            put(self, "episodes", _frozen(self.episodes, np.int64))
        put(self, "curves", {task: _frozen(curve, np.float64) for task, curve in self.curves.items()})
        if self.baseline is not None:
            put(self, "baseline", _frozen(self.baseline, np.float64))
        if self.stream is not None:
            put(self, "stream", tuple(tuple(tasks) for tasks in self.stream))
        put(self, "curve_experiences", {task: _frozen(rows, np.int64) for task, rows in self.curve_experiences.items()})
        self._check_names()
        self._check_cells()
        self._check_curves()
        self._check_baseline()
        self._check_stream()

    @property
    def positions(self) -> tuple[int, ...] | None:
        """The column of the task that each experience brought; None if that is not one task each, or not all yet."""
        rows = len(self.experiences)
        if self.stream is None:
            return tuple(range(rows)) if rows == len(self.tasks) else None
        if len(self.stream) != rows or any(len(tasks) != 1 for tasks in self.stream):
            return None
        return tuple(self.tasks.index(task) for (task,) in self.stream)

    def learning_curve(self, position: int) -> FloatArray:
        """The curve of the task that an experience brought while it did so, shape (n, 2); n = 0 if it is not known.

        Raises:
            ValueError: The matrix has no positions.
        """
        if self.positions is None:
            raise ValueError("expected a matrix whose experiences bring one task each")
        column = self.positions[position]
        curve = self.curves.get(self.tasks[column], np.empty((0, 2)))
        if self.positions.count(column) == 1:
            return curve
        rows = self.curve_experiences.get(self.tasks[column])
        return curve[rows == position] if rows is not None else np.empty((0, 2))

    def _check_names(self) -> None:
        for what, names in (("tasks", self.tasks), ("experiences", self.experiences)):
            if not names:
                raise ConfigurationError(f"a success matrix needs at least one of {what!r}, but got none")
        twice = sorted({task for task in self.tasks if self.tasks.count(task) > 1})
        if twice:
            raise ConfigurationError(f"'tasks' must name each task once, but {', '.join(twice)} appears more than once")

    def _check_cells(self) -> None:
        shape = (len(self.experiences), len(self.tasks))
        for what, array in (("success", self.success), ("episodes", self.episodes)):
            if array is not None and array.shape != shape:
                raise ConfigurationError(
                    f"{what!r} must be {_by(shape)}, one row per experience and one column per task, "
                    f"but is {_by(array.shape)}"
                )
        check_fractions("success", self.success)
        if self.episodes is None:
            return
        if np.any(self.episodes < 0):
            raise ConfigurationError(f"'episodes' must not be negative, but one is {self.episodes.min()}")
        hollow = np.argwhere(~np.isnan(self.success) & (self.episodes == 0))
        if len(hollow):
            row, column = hollow[0]
            raise ConfigurationError(
                f"success[{row}][{column}] is {self.success[row, column]:g} but episodes[{row}][{column}] is 0; "
                "a cell that was not evaluated must be null"
            )

    def _check_curves(self) -> None:
        for task, curve in self.curves.items():
            if task not in self.tasks:
                raise ConfigurationError(f"'curves' has the unknown task {task!r}{nearest(task, self.tasks)}")
            if curve.ndim != 2 or curve.shape[1] != 2:
                raise ConfigurationError(
                    f"the curve of {task!r} must be a list of [step, success] pairs, but is {_by(curve.shape)}"
                )
            steps, rows = curve[:, 0], self.curve_experiences.get(task, np.zeros(len(curve), dtype=np.int64))
            if rows.shape != steps.shape or np.any(np.diff(rows) < 0) or np.any(rows < 0):
                raise ConfigurationError(
                    f"'curve_experiences' of {task!r} must be {len(steps)} ascending numbers from 0 on, one for each "
                    "point of its curve"
                )
            again = np.diff(rows) > 0  # an experience may begin at the step at which the one before ended
            too_small = np.where(again, np.diff(steps) < 0, np.diff(steps) <= 0)
            if not np.all(np.isfinite(steps)) or np.any(too_small) or np.any(steps < 0):
                raise ConfigurationError(f"the steps in the curve of {task!r} must be increasing numbers from 0 on")
            check_fractions(f"the curve of {task!r}", curve[:, 1])
        if unknown := sorted(self.curve_experiences.keys() - self.curves.keys()):
            raise ConfigurationError(f"'curve_experiences' has {unknown[0]!r}, which has no curve")
        check_count("curve_episodes", self.curve_episodes)

    def _check_stream(self) -> None:
        rows = len(self.experiences)
        if self.stream is not None:
            check_stream(self.stream, self.tasks, rows)
        check_curve_experiences(self.curve_experiences, self.stream, rows)

    def _check_baseline(self) -> None:
        check_count("baseline_episodes", self.baseline_episodes)
        if self.baseline is None:
            return
        if self.baseline.shape != (len(self.tasks),):
            raise ConfigurationError(
                f"'baseline' must have one number per task, {len(self.tasks)}, but is {_by(self.baseline.shape)}"
            )
        check_fractions("baseline", self.baseline)

    @classmethod
    def from_json(cls, path: Path | str) -> SuccessMatrix:
        """Read ``matrix.json``; null becomes NaN.

        Raises:
            ConfigurationError: The file is missing, is not JSON, lacks a key or holds something else than it should.
        """
        raw = read_json(Path(path), "the success matrix", "expected the matrix.json of a run", _BYTES)
        try:
            if isinstance(raw, dict):
                require_seal(raw, "the matrix", "restore it, or delete its key 'seal' if it was edited on purpose")
                require_of_run(raw, Path(path).parent, "the matrix", "give the run's command again: it writes it anew")
            return cls._from_object(raw)
        except ConfigurationError as error:
            raise ConfigurationError(f"{short(path)}: {harmless(str(error), 200)}") from error

    @classmethod
    def _from_object(cls, raw: object) -> SuccessMatrix:
        if not isinstance(raw, dict):
            raise ConfigurationError(f"expected a JSON object with {', '.join(_REQUIRED)}, but found {_kind(raw)}")
        missing = [key for key in _REQUIRED if key not in raw]
        if missing:
            found = harmless(", ".join(sorted(raw)) or "none", 80)
            raise ConfigurationError(f"the key {missing[0]!r} is missing; found {found}")
        for key in raw:
            # Other unknown keys are somebody's notes; one that almost names an optional key would be lost silently.
            close = difflib.get_close_matches(key, _OPTIONAL, n=1, cutoff=0.8)
            if key not in _REQUIRED + _OPTIONAL and close:
                raise ConfigurationError(f"unknown key {harmless(key, 40)!r}; did you mean {close[0]!r}?")
        curves = raw.get("curves") or {}
        if not isinstance(curves, dict):
            raise ConfigurationError(
                f"'curves' must be an object from task id to [[step, success], ...], but is {_kind(curves)}"
            )
        baseline = raw.get("baseline")
        tasks, success = _names("tasks", raw["tasks"]), _table("success", raw["success"])
        if success.size > _CELLS:
            raise ConfigurationError(f"'success' has {success.size} cells, at most {_CELLS} are read")
        episodes = raw.get("episodes")
        matrix = cls(
            tasks=tasks,
            experiences=_experiences(raw.get("experiences"), tasks, len(success)),
            success=success,
            episodes=None if episodes is None else _counts(episodes),
            curves={task: _table(f"curves[{task!r}]", curve, columns=2) for task, curve in curves.items()},
            baseline=None if baseline is None else np.array(_row("baseline", baseline)),
            curve_episodes=raw.get("curve_episodes"),
            baseline_episodes=raw.get("baseline_episodes"),
            stream=_stream(raw.get("stream")),
            curve_experiences=_rows_of_points(raw.get("curve_experiences") or {}),
        )
        check_rates("success", matrix.success, matrix.episodes)
        return matrix

    def to_json(self) -> dict[str, object]:
        """What ``matrix.json`` holds, as plain data; NaN becomes None. Optional keys are left out where unknown."""
        content: dict[str, object] = {
            "tasks": list(self.tasks),
            "experiences": list(self.experiences),
            "success": [_nulls(row) for row in self.success],
            **({} if self.episodes is None else {"episodes": self.episodes.tolist()}),
            "curves": {task: [_nulls(point) for point in curve] for task, curve in self.curves.items()},
        }
        if self.baseline is not None:
            content["baseline"] = _nulls(self.baseline)
        for key, count in (("curve_episodes", self.curve_episodes), ("baseline_episodes", self.baseline_episodes)):
            if count is not None:
                content[key] = count
        if self.stream is not None:
            content["stream"] = [list(tasks) for tasks in self.stream]
        if self.curve_experiences:
            content["curve_experiences"] = {task: rows.tolist() for task, rows in self.curve_experiences.items()}
        return content

    def write(self, path: Path | str) -> None:
        """Write ``matrix.json`` atomically: a reader, or a crash, sees the old file or the new one, never a part."""
        write_json(Path(path), seal(of_run(self.to_json(), Path(path).parent)))


def load_matrix(path: Path | str) -> SuccessMatrix:
    """Read a ``matrix.json``, or the one inside a run folder.

    Raises:
        ConfigurationError: There is none, it is broken, or the run is of a format that this version does not know.
    """
    path = Path(path)
    if not path.is_dir():
        if path.name == _FILE:
            require_readable_run(path.parent)
        return SuccessMatrix.from_json(path)
    require_readable_run(path)
    inside = path / _FILE
    if not inside.exists() and (why := rollouts_skipped(path)) is not None:
        raise ConfigurationError(f"{path} has no metrics: {why}")
    if not inside.exists():
        raise ConfigurationError(
            f"the folder {short(path)} holds no matrix.json; give a run folder or a matrix.json file"
        )
    return SuccessMatrix.from_json(inside)


def rollouts_skipped(run: Path) -> str | None:
    """Why a run has no success matrix, in the words of its ``run.json``; None if that does not say."""
    summary = run / "run.json"
    if not summary.is_file():
        return None
    rollouts = read_json_object(summary, "the run's summary", "restore it or run again").get("rollouts")
    why = rollouts.get("skipped") if isinstance(rollouts, dict) else None
    return harmless(why) if isinstance(why, str) else None


def _frozen(values: object, dtype: DTypeLike) -> NDArray[Any]:
    array: NDArray[Any] = np.array(values, dtype=dtype)
    array.setflags(write=False)
    return array


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape)) or "a single number"


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _names(what: str, values: object) -> tuple[str, ...]:
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigurationError(
            f"{what!r} must be a list of names, but is {_kind(values)} or holds something else than text"
        )
    return tuple(values)


def _row(what: str, values: object) -> list[float]:
    if not isinstance(values, list):
        raise ConfigurationError(f"{what} must be a list of numbers, but is {_kind(values)}")
    for index, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigurationError(f"{what}[{index}] must be a number or null, but is {value!r}")
    return [np.nan if value is None else float(value) for value in values]


def _table(what: str, values: object, columns: int | None = None) -> FloatArray:
    """Rows of equal length as an array; ``columns`` is the length asked for (None: that of the first row)."""
    if not isinstance(values, list):
        raise ConfigurationError(f"{what} must be a list of lists, but is {_kind(values)}")
    rows = [_row(f"{what}[{index}]", row) for index, row in enumerate(values)]
    width = columns if columns is not None else len(rows[0]) if rows else 0
    for index, row in enumerate(rows):
        if len(row) != width:
            raise ConfigurationError(f"{what}[{index}] must have {width} numbers, but has {len(row)}")
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def _experiences(values: object, tasks: Sequence[str], rows: int) -> tuple[str, ...]:
    """Names of the rows; other software leaves them out, and one task after another is then what a square means."""
    if values is not None:
        return _names("experiences", values)
    return tuple(tasks) if rows == len(tasks) else tuple(f"row {number + 1}" for number in range(rows))


def _stream(values: object) -> tuple[tuple[str, ...], ...] | None:
    if values is None:
        return None
    if not isinstance(values, list):
        raise ConfigurationError(f"'stream' must be a list of lists of task ids, but is {_kind(values)}")
    return tuple(_names("stream", tasks) for tasks in values)


def _rows_of_points(values: object) -> dict[str, IntArray]:
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"'curve_experiences' must be an object from task id to [experience, ...], but is {_kind(values)}"
        )
    found = {task: np.array(_row(f"curve_experiences[{task!r}]", rows)) for task, rows in values.items()}
    for task, rows in found.items():
        if not np.all(np.isfinite(rows) & (rows == np.floor(rows)) & (np.abs(rows) < _CELLS)):
            raise ConfigurationError(f"'curve_experiences' of {task!r} must be whole numbers")
    return {task: rows.astype(np.int64) for task, rows in found.items()}


def _counts(values: object) -> IntArray:
    table = _table("episodes", values)
    if not np.all(np.isfinite(table) & (table == np.floor(table)) & (np.abs(table) < 2**53)):
        raise ConfigurationError("'episodes' must be whole numbers; a cell that was not evaluated has 0 episodes")
    return table.astype(np.int64)


def _nulls(values: FloatArray) -> list[float | None]:
    return [None if np.isnan(value) else value + 0.0 for value in values.tolist()]  # + 0.0: no "-0.0"
