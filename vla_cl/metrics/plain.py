"""Plain data of a ``matrix.json`` to names and numbers, and back; every refusal is a sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.scores import SUCCESS, Measure
from vla_cl.trust.text import harmless
from vla_cl.types import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

CELLS = 1_000_000  # 1,000 tasks one after another
"""Most cells of a matrix."""


def by(shape: Sequence[int]) -> str:
    """A shape in words."""
    return " x ".join(map(str, shape)) or "a single number"


def kind(value: object) -> str:
    """What a JSON value is, in words."""
    words = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return words.get(type(value), "a number")


def names(what: str, values: object) -> tuple[str, ...]:
    """A list of names."""
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise ConfigurationError(
            f"{what!r} must be a list of names, but is {kind(values)} or holds something else than text"
        )
    return tuple(values)


def row(what: str, values: object) -> list[float]:
    """A list of numbers; null becomes NaN."""
    if not isinstance(values, list):
        raise ConfigurationError(f"{what} must be a list of numbers, but is {kind(values)}")
    for index, value in enumerate(values):
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise ConfigurationError(f"{what}[{index}] must be a number or null, but is {value!r}")
    return [np.nan if value is None else float(value) for value in values]


def table(what: str, values: object, columns: int | None = None) -> FloatArray:
    """Rows of equal length as an array; ``columns`` is the length asked for (None: that of the first row)."""
    if not isinstance(values, list):
        raise ConfigurationError(f"{what} must be a list of lists, but is {kind(values)}")
    rows = [row(f"{what}[{index}]", numbers) for index, numbers in enumerate(values)]
    width = columns if columns is not None else len(rows[0]) if rows else 0
    for index, numbers in enumerate(rows):
        if len(numbers) != width:
            raise ConfigurationError(f"{what}[{index}] must have {width} numbers, but has {len(numbers)}")
    return np.array(rows, dtype=np.float64).reshape(len(rows), width)


def experiences(values: object, tasks: Sequence[str], rows: int) -> tuple[str, ...]:
    """Names of the rows; other software leaves them out, and one task after another is then what a square means."""
    if values is not None:
        return names("experiences", values)
    return tuple(tasks) if rows == len(tasks) else tuple(f"row {number + 1}" for number in range(rows))


def stream(values: object) -> tuple[tuple[str, ...], ...] | None:
    """The task ids of every experience; None where they are not told."""
    if values is None:
        return None
    if not isinstance(values, list):
        raise ConfigurationError(f"'stream' must be a list of lists of task ids, but is {kind(values)}")
    return tuple(names("stream", tasks) for tasks in values)


def rows_of_points(values: object) -> dict[str, IntArray]:
    """The experience of each point of the curves."""
    if not isinstance(values, dict):
        raise ConfigurationError(
            f"'curve_experiences' must be an object from task id to [experience, ...], but is {kind(values)}"
        )
    found = {task: np.array(row(f"curve_experiences[{task!r}]", places)) for task, places in values.items()}
    for task, rows in found.items():
        if not np.all(np.isfinite(rows) & (rows == np.floor(rows)) & (np.abs(rows) < CELLS)):
            raise ConfigurationError(f"'curve_experiences' of {task!r} must be whole numbers")
    return {task: rows.astype(np.int64) for task, rows in found.items()}


def counts(what: str, values: object) -> IntArray:
    """Whole numbers, one for each cell."""
    found = table(what, values)
    if not np.all(np.isfinite(found) & (found == np.floor(found)) & (np.abs(found) < 2**53)):
        raise ConfigurationError(f"{what!r} must be whole numbers; a cell that was not evaluated has 0")
    return found.astype(np.int64)


def measure_of(raw: object) -> Measure:
    """What the cells hold; success where the file does not say."""
    if raw is None:
        return SUCCESS
    choices = {"direction": ("higher", "lower"), "kind": ("proportion", "mean", "statistic")}
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str) or not raw["name"]:
        raise ConfigurationError(f"'measure' must be an object with a name, but is {kind(raw)}")
    for key, allowed in choices.items():
        if raw.get(key) not in allowed:
            raise ConfigurationError(
                f"'measure.{key}' must be one of {', '.join(allowed)}; got {str(raw.get(key))[:40]!r}"
            )
    low, high = (_bound(raw, key, default) for key, default in (("low", -np.inf), ("high", np.inf)))
    if not low < high:
        raise ConfigurationError(f"'measure.low' must be below 'measure.high', but they are {low:g} and {high:g}")
    title = raw.get("title") or raw["name"]
    if not isinstance(title, str):
        raise ConfigurationError(f"'measure.title' must be text, but is {kind(title)}")
    note = raw.get("note") or ""
    if not isinstance(note, str):
        raise ConfigurationError(f"'measure.note' must be text, but is {kind(note)}")
    return Measure(raw["name"], raw["direction"], raw["kind"], low, high, title, harmless(note, 300))


def plain_measure(measure: Measure) -> dict[str, Any]:
    """A measure as plain data; a bound that there is not is None."""
    bounds = {"low": measure.low, "high": measure.high}
    own = {"name": measure.name, "direction": measure.direction, "kind": measure.kind, "title": measure.title}
    own |= {"note": measure.note} if measure.note else {}
    return own | {key: None if np.isinf(value) else value for key, value in bounds.items()}


def _bound(raw: Mapping[str, Any], key: str, default: float) -> float:
    value = raw.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not np.isfinite(value):
        raise ConfigurationError(f"'measure.{key}' must be a number or null; got {str(value)[:40]!r}")
    return float(value)


def nulls(values: FloatArray) -> list[float | None]:
    """A list of numbers; NaN becomes None."""
    return [None if np.isnan(value) else value + 0.0 for value in values.tolist()]  # + 0.0: no "-0.0"
