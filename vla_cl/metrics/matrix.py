"""The score matrix of a run and its file, ``matrix.json``."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from vla_cl.files import write_json
from vla_cl.metrics import plain
from vla_cl.metrics.checks import (
    check_bounds,
    check_count,
    check_curve_experiences,
    check_rates,
    check_spread,
    check_stream,
    nearest,
)
from vla_cl.metrics.plain import CELLS, FloatArray, IntArray
from vla_cl.scores import SUCCESS, Measure
from vla_cl.storage.manifest import of_run, require_of_run, require_readable_run, require_seal, seal
from vla_cl.trust.reading import read_json, read_json_object
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

_OPTIONAL = (
    *("experiences", "curves", "baseline", "stream", "curve_experiences"),
    *("measure", "spread", "baseline_spread"),
)
MATRIX = "matrix.json"
"""The file of the measure that is shown, in a run's folder."""

_FURTHER = "matrix-"
_BYTES = 64 * 2**20


@dataclass(frozen=True, eq=False)
class ScoreMatrix:
    """What was measured in one run. The arrays are copied and read-only.

    Rows are experiences, columns are tasks, each once. A joint run has one row. An independent run (one policy per
    task) has only the cells of the tasks that each experience brought. ``stream`` says which these were, so a stream
    may bring tasks in another order than that of the columns, and a task more than once (`positions`).

    Attributes:
        tasks: Ids of the T tasks, the columns.
        experiences: Names of the R experiences, the rows.
        scores: Mean of the measure over the trials of task j after experience i, shape (R, T); NaN = not evaluated. Of
            robots the fraction of successful episodes.
        counts: How many trials are behind each cell, shape (R, T); at least 1 where ``scores`` is a number. None =
            unknown: then nothing that reads ``scores`` has an interval.
        curves: Task id to its learning curve, shape (n, 2): optimizer step, score on the task. It covers the
            experience that brings the task, from before its first step to after its last; if several do, one after the
            other (`learning_curve`).
        baseline: Score of the untrained model (the warm start) on each task, shape (T,), or None.
        curve_count: Trials behind each point of a curve; None = unknown, then what reads curves has no interval.
        baseline_count: Trials behind each number of the baseline; None = unknown, as above.
        stream: Task ids of every experience of the stream, those not yet learnt included. None = unknown: then a square
            matrix is taken to bring task k with experience k, and any other matrix no task that one could tell.
        curve_experiences: Of a task that the stream repeats, for each point of its curve the experience (from 0) in
            which it was measured.
        measure: What the cells hold.
        spread: Standard deviation of the trials of each cell, shape (R, T), divided by n - 1; NaN where there are not
            two. None = unknown. Only means have intervals that rest on it: a proportion's follows from its count.
        baseline_spread: The same of the baseline, shape (T,).

    Raises:
        ConfigurationError: Shapes do not fit, a number is out of range, or a name is unknown or used twice.
    """

    tasks: tuple[str, ...]
    experiences: tuple[str, ...]
    scores: FloatArray
    counts: IntArray | None
    curves: Mapping[str, FloatArray] = field(default_factory=dict)
    baseline: FloatArray | None = None
    curve_count: int | None = None
    baseline_count: int | None = None
    stream: tuple[tuple[str, ...], ...] | None = None
    curve_experiences: Mapping[str, IntArray] = field(default_factory=dict)
    measure: Measure = SUCCESS
    spread: FloatArray | None = None
    baseline_spread: FloatArray | None = None

    def __post_init__(self) -> None:
        # A frozen dataclass can only be normalised through object.__setattr__.
        put = object.__setattr__
        put(self, "tasks", tuple(self.tasks))
        put(self, "experiences", tuple(self.experiences))
        put(self, "scores", _frozen(self.scores, np.float64))
        if self.counts is not None:
            put(self, "counts", _frozen(self.counts, np.int64))
        put(self, "curves", {task: _frozen(curve, np.float64) for task, curve in self.curves.items()})
        for name in ("baseline", "spread", "baseline_spread"):
            if getattr(self, name) is not None:
                put(self, name, _frozen(getattr(self, name), np.float64))
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
        told, trials = score_key(self.measure), count_key(self.measure)
        for what, array in ((told, self.scores), (trials, self.counts), ("spread", self.spread)):
            if array is not None and array.shape != shape:
                raise ConfigurationError(
                    f"{what!r} must be {plain.by(shape)}, one row per experience and one column per task, "
                    f"but is {plain.by(array.shape)}"
                )
        check_bounds(told, self.scores, self.measure)
        check_spread("spread", self.spread)
        if self.counts is None:
            return
        if np.any(self.counts < 0):
            raise ConfigurationError(f"{trials!r} must not be negative, but one is {self.counts.min()}")
        hollow = np.argwhere(~np.isnan(self.scores) & (self.counts == 0))
        if len(hollow):
            row, column = hollow[0]
            raise ConfigurationError(
                f"{told}[{row}][{column}] is {self.scores[row, column]:g} but {trials}[{row}][{column}] is 0; "
                "a cell that was not evaluated must be null"
            )

    def _check_curves(self) -> None:
        for task, curve in self.curves.items():
            if task not in self.tasks:
                raise ConfigurationError(f"'curves' has the unknown task {task!r}{nearest(task, self.tasks)}")
            if curve.ndim != 2 or curve.shape[1] != 2:
                raise ConfigurationError(
                    f"the curve of {task!r} must be a list of [step, score] pairs, but is {plain.by(curve.shape)}"
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
            check_bounds(f"the curve of {task!r}", curve[:, 1], self.measure)
        if unknown := sorted(self.curve_experiences.keys() - self.curves.keys()):
            raise ConfigurationError(f"'curve_experiences' has {unknown[0]!r}, which has no curve")
        check_count(f"curve_{count_key(self.measure)}", self.curve_count)

    def _check_stream(self) -> None:
        rows = len(self.experiences)
        if self.stream is not None:
            check_stream(self.stream, self.tasks, rows)
        check_curve_experiences(self.curve_experiences, self.stream, rows)

    def _check_baseline(self) -> None:
        check_count(f"baseline_{count_key(self.measure)}", self.baseline_count)
        if self.baseline is None:
            return
        if self.baseline.shape != (len(self.tasks),):
            raise ConfigurationError(
                f"'baseline' must have one number per task, {len(self.tasks)}, but is {plain.by(self.baseline.shape)}"
            )
        check_bounds("baseline", self.baseline, self.measure)
        check_spread("baseline_spread", self.baseline_spread)

    @classmethod
    def from_json(cls, path: Path | str) -> ScoreMatrix:
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
    def _from_object(cls, raw: object) -> ScoreMatrix:
        if not isinstance(raw, dict):
            raise ConfigurationError(f"expected a JSON object with tasks and success, but found {plain.kind(raw)}")
        measure = plain.measure_of(raw.get("measure"))
        told, trials = score_key(measure), count_key(measure)
        _require_keys(raw, ("tasks", told), trials)
        curves = raw.get("curves") or {}
        if not isinstance(curves, dict):
            raise ConfigurationError(
                f"'curves' must be an object from task id to [[step, score], ...], but is {plain.kind(curves)}"
            )
        tasks, scores = plain.names("tasks", raw["tasks"]), plain.table(told, raw[told])
        if scores.size > CELLS:
            raise ConfigurationError(f"{told!r} has {scores.size} cells, at most {CELLS} are read")
        given = {key: raw.get(key) for key in (trials, "baseline", "spread", "baseline_spread")}
        matrix = cls(
            tasks=tasks,
            experiences=plain.experiences(raw.get("experiences"), tasks, len(scores)),
            scores=scores,
            counts=None if given[trials] is None else plain.counts(trials, given[trials]),
            curves={task: plain.table(f"curves[{task!r}]", curve, columns=2) for task, curve in curves.items()},
            baseline=None if given["baseline"] is None else np.array(plain.row("baseline", given["baseline"])),
            curve_count=raw.get(f"curve_{trials}"),
            baseline_count=raw.get(f"baseline_{trials}"),
            stream=plain.stream(raw.get("stream")),
            curve_experiences=plain.rows_of_points(raw.get("curve_experiences") or {}),
            measure=measure,
            spread=None if given["spread"] is None else plain.table("spread", given["spread"]),
            baseline_spread=None
            if given["baseline_spread"] is None
            else np.array(plain.row("baseline_spread", given["baseline_spread"])),
        )
        if measure.kind == "proportion":
            check_rates(told, matrix.scores, matrix.counts)
        return matrix

    def to_json(self) -> dict[str, object]:
        """What ``matrix.json`` holds, as plain data; NaN becomes None. Optional keys are left out where unknown."""
        trials = count_key(self.measure)
        content: dict[str, object] = {
            "tasks": list(self.tasks),
            "experiences": list(self.experiences),
            **({} if self.measure == SUCCESS else {"measure": plain.plain_measure(self.measure)}),
            score_key(self.measure): [plain.nulls(row) for row in self.scores],
            **({} if self.counts is None else {trials: self.counts.tolist()}),
            "curves": {task: [plain.nulls(point) for point in curve] for task, curve in self.curves.items()},
        }
        if self.spread is not None:
            content["spread"] = [plain.nulls(row) for row in self.spread]
        for key, values in (("baseline", self.baseline), ("baseline_spread", self.baseline_spread)):
            if values is not None:
                content[key] = plain.nulls(values)
        for key, count in (("curve", self.curve_count), ("baseline", self.baseline_count)):
            if count is not None:
                content[f"{key}_{trials}"] = count
        if self.stream is not None:
            content["stream"] = [list(tasks) for tasks in self.stream]
        if self.curve_experiences:
            content["curve_experiences"] = {task: rows.tolist() for task, rows in self.curve_experiences.items()}
        return content

    def write(self, path: Path | str) -> None:
        """Write ``matrix.json`` atomically: a reader, or a crash, sees the old file or the new one, never a part."""
        write_json(Path(path), seal(of_run(self.to_json(), Path(path).parent)))


def matrix_file(measure: Measure, shown: bool) -> str:
    """The file of a measure in a run's folder: ``matrix.json`` of the shown one, else ``matrix-<name>.json``."""
    return MATRIX if shown else f"{_FURTHER}{measure.name}.json"


def score_key(measure: Measure) -> str:
    """Under which key a file has the scores; success has been there under its own name before there were others."""
    return "success" if measure.name == SUCCESS.name else "scores"


def count_key(measure: Measure) -> str:
    """Under which key a file has the number of trials."""
    return "episodes" if measure.name == SUCCESS.name else "trials"


def _require_keys(raw: Mapping[str, object], required: Sequence[str], trials: str) -> None:
    """What must be there is, and no key is one that almost is another: it would be lost silently."""
    missing = [key for key in required if key not in raw]
    if missing:
        found = harmless(", ".join(sorted(raw)) or "none", 80)
        raise ConfigurationError(f"the key {missing[0]!r} is missing; found {found}")
    optional = (*_OPTIONAL, trials, f"curve_{trials}", f"baseline_{trials}")
    for key in raw:  # other unknown keys are somebody's notes
        close = difflib.get_close_matches(key, optional, n=1, cutoff=0.8)
        if key not in (*required, *optional) and close:
            raise ConfigurationError(f"unknown key {harmless(key, 40)!r}; did you mean {close[0]!r}?")


def load_matrix(path: Path | str, measure: str | None = None) -> ScoreMatrix:
    """Read a ``matrix.json``, or the one inside a run folder.

    Args:
        path: The file, or the folder.
        measure: Name of the measure whose matrix is read; by default the one that the run shows.

    Raises:
        ConfigurationError: There is none, it is broken, or the run is of a format that this version does not know.
    """
    path = Path(path)
    if not path.is_dir():
        if path.name == MATRIX:
            require_readable_run(path.parent)
        return of_measure([ScoreMatrix.from_json(path)], measure, short(path))
    require_readable_run(path)
    inside = next(iter([*path.glob(MATRIX), *sorted(path.glob(f"{_FURTHER}*.json"))]), path / MATRIX)
    if not inside.exists() and (why := rollouts_skipped(path)) is not None:
        raise ConfigurationError(f"{path} has no metrics: {why}")
    if not inside.exists():
        raise ConfigurationError(
            f"the folder {short(path)} holds no matrix.json; give a run folder or a matrix.json file"
        )
    if measure is None:
        return ScoreMatrix.from_json(inside)
    return of_measure(load_matrices(path), measure, short(path))


def load_matrices(run: Path) -> list[ScoreMatrix]:
    """The matrix of every measure of a run; first the one that it shows, then the others by name.

    Raises:
        ConfigurationError: A file is broken.
    """
    further = [(file, ScoreMatrix.from_json(file)) for file in sorted(run.glob(f"{_FURTHER}*.json"))]
    own = [matrix for file, matrix in further if file.name == matrix_file(matrix.measure, shown=False)]
    return [*([ScoreMatrix.from_json(run / MATRIX)] if (run / MATRIX).exists() else []), *own]


def of_measure(matrices: Sequence[ScoreMatrix], measure: str | None, where: str) -> ScoreMatrix:
    """The matrix of a measure; without one, the first.

    Raises:
        ConfigurationError: There is none of that measure.
    """
    known = {matrix.measure.name: matrix for matrix in matrices}
    if measure is None:
        return matrices[0]
    if measure not in known:
        names = ", ".join(harmless(name, 40) for name in known)
        raise ConfigurationError(f"{where} has no measure {harmless(repr(measure), 60)}; it has {names}")
    return known[measure]


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
