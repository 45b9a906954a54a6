"""What the numbers of a success matrix must satisfy, each in one sentence."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vla_cl.scores import Measure
from vla_cl.types import ConfigurationError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_ROUNDING = 0.02
"""How far a success rate may lie from k / n, whatever digits it has: rates in papers are cut or rounded to percent."""


def nearest(name: str, allowed: Sequence[str]) -> str:
    """What may have been meant, or what is allowed."""
    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else f"; allowed are {', '.join(allowed)}"


def check_bounds(what: str, values: FloatArray, measure: Measure) -> None:
    """Scores lie within the bounds of their measure, and are finite.

    Raises:
        ConfigurationError: One does not.
    """
    outside = values[(values < measure.low) | (values > measure.high) | np.isinf(values)]  # false for NaN
    if not len(outside):
        return
    if measure.kind == "proportion":
        raise ConfigurationError(f"{what} must be fractions between 0 and 1, or null, but one is {outside[0]:g}")
    raise ConfigurationError(
        f"{what} must be finite numbers from {measure.low:g} to {measure.high:g}, or null, but one is {outside[0]:g}"
    )


def check_spread(what: str, values: FloatArray | None) -> None:
    """Standard deviations are not negative, and finite.

    Raises:
        ConfigurationError: One is.
    """
    if values is not None and len(outside := values[(values < 0) | np.isinf(values)]):
        raise ConfigurationError(f"{what!r} must be standard deviations from 0 on, or null, but one is {outside[0]:g}")


def check_count(what: str, count: object) -> None:
    """A number of episodes is a whole number from 1 on.

    Raises:
        ConfigurationError: It is not.
    """
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or count < 1):
        raise ConfigurationError(f"{what!r} must be a number of episodes from 1 on, or null, but is {count!r}")


def check_rates(what: str, rates: FloatArray, episodes: IntArray | None) -> None:
    """A success rate of n episodes is k / n for a whole k, as far as its digits show.

    Args:
        what: How the rates are called.
        rates: Any shape; NaN = not evaluated.
        episodes: n, of the same shape; None = unknown, then nothing is checked.

    Raises:
        ConfigurationError: A rate cannot come from its number of episodes.
    """
    if episodes is None:
        return
    for rate, count in zip(
        rates.ravel().tolist(), np.broadcast_to(episodes, rates.shape).ravel().tolist(), strict=True
    ):
        if np.isnan(rate):
            continue
        successes = round(rate * count)
        if abs(rate * count - successes) > max(_ROUNDING, _half_unit(rate)) * count:
            raise ConfigurationError(
                f"{what} is {rate:g} where there {'is 1 episode' if count == 1 else f'are {count} episodes'}, which no "
                f"number of successes gives (the nearest gives {successes / count:.3g}); correct the one or the other"
            )


def check_stream(stream: Sequence[Sequence[str]], tasks: Sequence[str], rows: int) -> None:
    """Each experience of the stream brings at least one task, each task once.

    Raises:
        ConfigurationError: One does not, a task is unknown, or there are fewer experiences than rows.
    """
    if unknown := sorted({task for brought in stream for task in brought} - set(tasks)):
        raise ConfigurationError(f"'stream' has the unknown task {unknown[0]!r}{nearest(unknown[0], tasks)}")
    if len(stream) < rows:
        raise ConfigurationError(
            f"'stream' must list the tasks of at least {rows} experiences, as there are rows, but lists {len(stream)}"
        )
    for number, brought in enumerate(stream):
        if not brought:
            raise ConfigurationError(f"stream[{number}] must name at least one task that the experience brings")
        if twice := [task for task in brought if brought.count(task) > 1]:
            raise ConfigurationError(f"stream[{number}] must name each task once, but names {twice[0]!r} twice")


def check_curve_experiences(
    curve_experiences: Mapping[str, IntArray], stream: Sequence[Sequence[str]] | None, rows: int
) -> None:
    """The points of a task's curve were measured in experiences that brought the task.

    Args:
        curve_experiences: As in `ScoreMatrix`.
        stream: As there; None = unknown, then only the number of experiences is checked.
        rows: Rows of the matrix.

    Raises:
        ConfigurationError: An experience does not exist, or did not bring the task.
    """
    most = rows if stream is None else len(stream)
    for task, experiences in curve_experiences.items():
        for experience in dict.fromkeys(experiences.tolist()):
            if experience >= most:
                raise ConfigurationError(
                    f"'curve_experiences' of {task!r} has the experience {experience}, but there are only {most}, "
                    f"counted from 0"
                )
            if stream is not None and task not in stream[experience]:
                raise ConfigurationError(
                    f"'curve_experiences' of {task!r} has the experience {experience}, but that one brings "
                    f"{', '.join(stream[experience])}"
                )


def _half_unit(rate: float) -> float:
    """Half a unit of the last digit with which a number is written: 0.05 for 0.3."""
    mantissa, _, exponent = repr(rate).partition("e")
    digits = len(mantissa.partition(".")[2]) - int(exponent or 0)
    return float(0.5 * 10.0**-digits)
