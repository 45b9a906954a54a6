"""Normalisation statistics, frozen before the first gradient step.

Recomputing them for each task changes what the old weights mean: on a real robot it took the average success of four
tasks from 93.5 to 23.7 (ContinualVLA, arXiv 2605.26820). So they are fixed once and travel with every checkpoint.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.frames import Frames

Statistics = dict[str, dict[str, NDArray[Any]]]

SPREAD_FLOOR = 0.1
"""Smallest spread of one dimension, as a share of the largest: a gripper that never moves in the first task would
otherwise be divided by almost nothing, and blow up in the second."""

_QUANTILES = {"q01": 0.01, "q10": 0.10, "q50": 0.50, "q90": 0.90, "q99": 0.99}
_REST = 1e-6  # spread, as a share of the largest value, below which nothing has moved
_PRECISION = 1e-5  # spread, as a share of the value it lies around, that single precision still resolves

PICTURE_MEAN = np.array([0.485, 0.456, 0.406], dtype=np.float32).reshape(3, 1, 1)
PICTURE_STD = np.array([0.229, 0.224, 0.225], dtype=np.float32).reshape(3, 1, 1)


def frozen_statistics(frames: Frames) -> Statistics:
    """Statistics of states and actions in LeRobot's layout.

    Pictures get ImageNet's, and the range of actions is the suite's where the recording tells it: neither depends on a
    task.
    """
    statistics: Statistics = {"action": _describe(frames.actions)}
    if frames.action_range is not None:  # a gripper that stays open in the first task closes in the second
        for name, values in zip(("min", "max"), frames.action_range, strict=True):
            statistics["action"][name] = np.asarray(values, dtype=np.float32)
    if frames.spec.state_size:
        statistics["observation.state"] = _describe(frames.states)
    for camera in frames.spec.cameras:
        statistics[camera] = {
            "mean": PICTURE_MEAN,
            "std": PICTURE_STD,
            "min": np.zeros((3, 1, 1), dtype=np.float32),
            "max": np.ones((3, 1, 1), dtype=np.float32),
        }
    return statistics


def _describe(values: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
    """Mean, spread, range and quantiles of each dimension; what a mode of LeRobot divides by is never (nearly) zero."""
    exact = values.astype(np.float64)
    mean, std = exact.mean(axis=0), exact.std(axis=0)
    described: dict[str, NDArray[Any]] = {"mean": mean, "std": np.maximum(std, _floor(std, mean))}
    low, high = exact.min(axis=0), exact.max(axis=0)
    quantiles = dict(zip(_QUANTILES, np.quantile(exact, list(_QUANTILES.values()), axis=0), strict=True))
    moved = high - low
    described["min"], described["max"] = _apart(low, high, _floor(moved, mean))
    for lower, upper in (("q01", "q99"), ("q10", "q90")):
        one, other = quantiles[lower], quantiles[upper]
        # A gripper that moves in few frames has equal quantiles, but is seen to move: its own range counts too.
        floor = np.maximum(_floor(other - one, mean), SPREAD_FLOOR * moved)
        described[lower], described[upper] = _apart(one, other, floor)
    described["q50"] = quantiles["q50"]
    return {name: np.asarray(value, dtype=np.float32) for name, value in described.items()}


def _floor(spread: NDArray[np.float64], middle: NDArray[np.float64]) -> NDArray[np.float64]:
    """Smallest allowed spread of each dimension.

    If nothing moves at all, there is no scale to compare with, and values keep their own. The statistics are stored in
    single precision, so a spread must also stand out from the value that it lies around.
    """
    largest = float(spread.max(initial=0.0))
    size = np.abs(middle)
    if largest <= _REST * max(1.0, float(size.max(initial=0.0))):
        return np.maximum(1.0, _PRECISION * size)
    return np.maximum(SPREAD_FLOOR * largest, _PRECISION * size)


def _apart(
    low: NDArray[np.float64], high: NDArray[np.float64], floor: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Both ends moved out evenly where they are nearer than the floor."""
    missing = np.maximum(floor - (high - low), 0.0)
    return low - missing / 2, high + missing / 2
