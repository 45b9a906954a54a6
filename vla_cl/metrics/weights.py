"""The metrics that are weighted sums of success rates, as their weights. Each formula stands here once.

A weight of 0 means that the cell is not read, so a NaN there does no harm. Weights are NaN where the formula is
undefined: the matrix is not square, or one task is too few for it. Rows are experiences, columns the tasks that they
brought; ``K`` is the number of columns.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Weights = Callable[[int, int], FloatArray]
"""Number of rows and columns to weights, shape (rows, columns)."""


def weighted_sum(success: FloatArray, weights: Weights) -> FloatArray:
    """Sum of weight x success, shape (..., R, T) to (...); NaN if a cell with a weight was not measured."""
    success = np.asarray(success, dtype=np.float64)
    of_cells = weights(*success.shape[-2:])
    read = of_cells != 0  # true for NaN
    return np.asarray(np.where(read, of_cells * np.where(read, success, 0.0), 0.0).sum(axis=(-2, -1)))


def last_row(rows: int, columns: int) -> FloatArray:
    """Mean of the last row; any shape."""
    weights = np.zeros((rows, columns))
    weights[-1] = 1 / columns
    return weights


def seen_so_far(rows: int, columns: int) -> FloatArray:
    """``1/K sum_i 1/i sum_{j<=i} R[i, j]``."""
    return _if_square(rows, columns, np.tri(rows, columns) / np.arange(1, rows + 1)[:, None] / columns)


def diagonal(rows: int, columns: int) -> FloatArray:
    """``1/K sum_k R[k, k]``."""
    return _if_square(rows, columns, np.eye(rows, columns) / columns)


def later_drops(rows: int, columns: int) -> FloatArray:
    """``1/(K-1) sum_{k<K} 1/(K-k) sum_{tau>k} (R[k, k] - R[tau, k])``."""
    later = np.maximum(columns - 1 - np.arange(columns), 1)
    weights = np.eye(rows, columns) - np.tri(rows, columns, k=-1) / later
    weights[-1, -1] = 0  # nothing comes after the last task
    return _of_old_tasks(rows, columns, weights)


def later_drops_by_all(rows: int, columns: int) -> FloatArray:
    """`later_drops` divided by all K tasks instead of by the K - 1 that can be forgotten."""
    return later_drops(rows, columns) * (columns - 1) / columns


def kept(rows: int, columns: int) -> FloatArray:
    """``1/K sum_k 1/(K-k+1) sum_{tau>=k} R[tau, k]``."""
    return _if_square(rows, columns, np.tri(rows, columns) / np.arange(columns, 0, -1) / columns)


def later_share(rows: int, columns: int) -> FloatArray:
    """``1/K sum_k 1/(K-k+1) sum_{tau>k} R[tau, k]``: `kept` without the diagonal."""
    return np.asarray(kept(rows, columns) * np.tri(rows, columns, k=-1))


def end_drops(rows: int, columns: int) -> FloatArray:
    """``1/(K-1) sum_{k<K} (R[k, k] - R[K, k])``."""
    weights = np.eye(rows, columns)
    weights[-1] -= 1
    weights[-1, -1] = 0  # the last task has just been learnt
    return _of_old_tasks(rows, columns, weights)


def end_drops_by_all(rows: int, columns: int) -> FloatArray:
    """`end_drops` divided by all K tasks."""
    return end_drops(rows, columns) * (columns - 1) / columns


def next_task(rows: int, columns: int) -> FloatArray:
    """``1/(K-1) sum_{k>1} R[k-1, k]``."""
    return _of_old_tasks(rows, columns, np.eye(rows, columns, k=1))


def _of_old_tasks(rows: int, columns: int, weights: FloatArray) -> FloatArray:
    """Divided by the K - 1 tasks that can be forgotten or transferred to; undefined for one task."""
    return _if_square(rows, columns, weights / (columns - 1) if columns > 1 else np.full_like(weights, np.nan))


def _if_square(rows: int, columns: int, weights: FloatArray) -> FloatArray:
    return np.asarray(weights if rows == columns else np.full((rows, columns), np.nan))
