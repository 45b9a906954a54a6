"""Score matrices as heat maps: one for each group, the mean of its seeds, and one for each seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vla_cl.metrics import ScoreMatrix
from vla_cl.report.groups import RunGroup
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import task_name
from vla_cl.report.scale import Scale
from vla_cl.trust.text import counted

STRONG = 0.55
"""From this shade on a heat map's cell is dark enough (light, in dark mode) for text of the opposite tone."""

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map.

    Attributes:
        shade: From 0, the worst, to 1, the best; None if not evaluated.
        text: The score.
        note: Under it: the trials behind it, or the range of the seeds; may be empty.
        taught: The row's experience teaches the column's task.
        strong: The text needs the opposite tone.
    """

    shade: float | None
    text: str
    note: str
    taught: bool
    strong: bool


@dataclass(frozen=True)
class HeatMap:
    """A score matrix: rows are experiences, columns tasks."""

    label: str
    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


@dataclass(frozen=True)
class GroupMaps:
    """The map of a group, and those of its seeds where there are several."""

    name: str
    map: HeatMap
    seeds: tuple[HeatMap, ...] = ()


def group_maps(groups: Sequence[RunGroup], scale: Scale) -> list[GroupMaps]:
    """The maps of every group that has been evaluated."""
    found = []
    for group in groups:
        runs = group.evaluated
        if not runs:
            continue
        single = [heat_map(run, _label(group, run), scale) for run in runs]
        if len(runs) > 1 and _alike(runs):
            found.append(GroupMaps(group.label, _mean_map(group, runs, scale), tuple(single)))
        else:
            found += [GroupMaps(one.label, one) for one in single]
    return found


def _label(group: RunGroup, run: RunRecord) -> str:
    seed = run.train_seed
    return group.label if len(group.runs) == 1 or seed is None else f"{group.label}, seed {seed}"


def _alike(runs: Sequence[RunRecord]) -> bool:
    """Whether the matrices have the same rows and columns."""
    return len({(run.matrix.tasks, run.matrix.experiences) for run in runs if run.matrix is not None}) == 1


def heat_map(run: RunRecord, label: str, scale: Scale) -> HeatMap:
    """The matrix of one run, with the trials behind each cell."""
    matrix = run.matrix
    assert matrix is not None  # the caller looked
    counts = np.zeros(matrix.scores.shape) if matrix.counts is None else matrix.counts
    notes = [[f"n {int(count)}" if count else "" for count in row] for row in counts]
    count = matrix.baseline_count
    untrained = None if matrix.baseline is None else (matrix.baseline, f"n {count}" if count else "")
    return _drawn(run, label, matrix.scores, notes, untrained, scale)


def _mean_map(group: RunGroup, runs: Sequence[RunRecord], scale: Scale) -> HeatMap:
    matrices = [run.matrix for run in runs if run.matrix is not None]
    scores = np.stack([matrix.scores for matrix in matrices])
    least, most = scores.min(axis=0), scores.max(axis=0)
    notes = [
        [_range(low, high, scale) for low, high in zip(lows, highs, strict=True)]
        for lows, highs in zip(least, most, strict=True)
    ]
    label = f"{group.label}, mean of {counted(len(runs), 'seed')}"
    return _drawn(runs[0], label, scores.mean(axis=0), notes, _mean_baseline(matrices), scale)


def _mean_baseline(matrices: Sequence[ScoreMatrix]) -> tuple[FloatArray, str] | None:
    baselines = [matrix.baseline for matrix in matrices if matrix.baseline is not None]
    return (np.mean(baselines, axis=0), "") if len(baselines) == len(matrices) else None


def _range(low: float, high: float, scale: Scale) -> str:
    if math.isnan(low) or math.isnan(high):
        return ""
    ends = [scale.cell_text(end) if scale.in_percent else f"{end:.2g}" for end in (low, high)]
    return "every seed" if ends[0] == ends[1] else f"{ends[0]}–{ends[1]}"


def _drawn(
    run: RunRecord,
    label: str,
    scores: FloatArray,
    notes: Sequence[Sequence[str]],
    untrained: tuple[FloatArray, str] | None,
    scale: Scale,
) -> HeatMap:
    matrix = run.matrix
    assert matrix is not None  # the callers looked
    rows = []
    if untrained is not None:
        values, note = untrained
        rows.append(("before learning", tuple(_cell(float(value), note, False, scale) for value in values)))
    for row, name in enumerate(matrix.experiences):
        taught = run.experiences[row][1] if row < len(run.experiences) else ()
        cells = [
            _cell(float(scores[row, column]), notes[row][column], task in taught, scale)
            for column, task in enumerate(matrix.tasks)
        ]
        rows.append((f"after {name}", tuple(cells)))
    return HeatMap(label, tuple(task_name(task) for task in matrix.tasks), tuple(rows))


def _cell(value: float, note: str, taught: bool, scale: Scale) -> HeatCell:
    if math.isnan(value):
        return HeatCell(None, "", "", taught, False)
    shade = scale.shade(value)
    return HeatCell(shade, scale.cell_text(value), note, taught, strong=shade >= STRONG)
