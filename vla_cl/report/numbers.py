"""Reading cells of a score matrix, and writing numbers the way the report shows them."""

from __future__ import annotations

import math

from vla_cl.metrics import Estimate, ScoreMatrix
from vla_cl.storage import names
from vla_cl.trust.text import harmless

UNDEFINED = "–"


def cell_score(matrix: ScoreMatrix, row: int, column: int) -> float | None:
    """Score on a task after an experience; None if not evaluated."""
    value = float(matrix.scores[row][column])
    return None if math.isnan(value) else value


def cell_count(matrix: ScoreMatrix, row: int, column: int) -> int:
    """How many trials are behind a cell; 0 also where nobody knows."""
    return 0 if matrix.counts is None else int(matrix.counts[row][column])


def last_row(matrix: ScoreMatrix) -> int | None:
    """The last row in which anything was evaluated; None if nothing was."""
    columns = range(len(matrix.tasks))
    measured = [
        row
        for row in range(len(matrix.experiences))
        if any(cell_score(matrix, row, column) is not None for column in columns)
    ]
    return measured[-1] if measured else None


def task_name(task: str) -> str:
    """The part of a task's id after the suite."""
    return harmless(names.task_name(task))


def percent(fraction: float) -> str:
    """``37 %``, with a space that does not break."""
    return UNDEFINED if math.isnan(fraction) else f"{100 * fraction:.0f}\u00a0%"


def percent_range(estimate: Estimate) -> str:
    """``25–50 %``; empty if there is no interval."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return ""
    return f"{100 * estimate.low:.0f}–{100 * estimate.high:.0f}\u00a0%"


def decimal(value: float) -> str:
    """Three decimals, with a minus sign and not a hyphen; a dash where undefined."""
    if math.isnan(value):
        return UNDEFINED
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "−")  # adding zero turns -0.0 into 0.0


def decimal_range(estimate: Estimate) -> str:
    """``[0.250, 0.501]``; ``no interval: too high`` where there is a value without one; empty without a value."""
    if math.isnan(estimate.low) or math.isnan(estimate.high):
        return no_interval(estimate)
    return f"[{decimal(estimate.low)}, {decimal(estimate.high)}]"


def no_interval(estimate: Estimate) -> str:
    """``no interval: too high``, the reason in few words; empty where there is an interval, or no value."""
    if math.isnan(estimate.value) or not estimate.why:
        return ""
    return f"no interval: {estimate.why.partition(':')[0]}"


def memory_size(size: object) -> str:
    """Bytes in a readable unit; ``none`` for zero."""
    if not isinstance(size, int | float):
        return UNDEFINED
    if size == 0:
        return "none"
    power = min(int(math.log(size, 1024)), 4)
    return f"{size / 1024**power:.3g}\u00a0{('bytes', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def duration(seconds: object) -> str:
    """``45 s``, ``2 min 21 s``, ``3 h 05 min``."""
    if not isinstance(seconds, int | float):
        return UNDEFINED
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60:02d}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60:02d}\u00a0min"
