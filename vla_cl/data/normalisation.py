"""Normalisation statistics, frozen before the first gradient step.

Recomputing them for each task changes what the old weights mean: on a real robot it took the average success of four
tasks from 93.5 to 23.7 (ContinualVLA, arXiv 2605.26820). So they are fixed once and travel with every checkpoint.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vla_cl.data.frames import Frames

Statistics = dict[str, dict[str, NDArray[Any]]]

SPREAD_FLOOR = 0.1
"""Smallest spread of one dimension, as a share of the largest: a gripper that never moves in the first task would
otherwise be divided by almost nothing, and blow up in the second."""

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
    mean, std = values.mean(axis=0, dtype=np.float64), values.std(axis=0, dtype=np.float64)
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    std = np.maximum(std, SPREAD_FLOOR * max(float(std.max()), 1e-6))
    missing = np.maximum(SPREAD_FLOOR * max(float((high - low).max()), 1e-6) - (high - low), 0.0)
    described: Mapping[str, NDArray[Any]] = {
        "mean": mean,
        "std": std,
        "min": low - missing / 2,
        "max": high + missing / 2,
        "q01": np.quantile(values, 0.01, axis=0),
        "q10": np.quantile(values, 0.10, axis=0),
        "q50": np.quantile(values, 0.50, axis=0),
        "q90": np.quantile(values, 0.90, axis=0),
        "q99": np.quantile(values, 0.99, axis=0),
    }
    return {name: np.asarray(value, dtype=np.float32) for name, value in described.items()}
