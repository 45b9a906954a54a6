"""Runs with any score matrix that a run can have, for tests that hold for all of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from vla_cl.metrics import ScoreMatrix
from vla_cl.report.load import RunRecord
from vla_cl.scores import SUCCESS, Measure

METHODS = ("er", "ewc", "sequential", "packnet")
MEASURES = (
    SUCCESS,
    Measure("error", "lower", "proportion", 0.0, 1.0, "error rate"),
    Measure("loss", "lower", "mean", 0.0, title="held-out loss"),
    Measure("return", "higher", "mean", title="return"),
    Measure("fid", "lower", "statistic", 0.0, title="FID of images"),
)


def _experiences(tasks: tuple[str, ...], order: list[int], arrangement: str) -> tuple[tuple[str, tuple[str, ...]], ...]:
    if arrangement == "joint":
        return (("all", tasks),)
    return tuple((f"step-{chr(97 + place)}", (tasks[column],)) for place, column in enumerate(order))


@st.composite
def matrices(
    draw: st.DrawFn, measure: Measure, tasks: tuple[str, ...], stream: Any, arrangement: str, rows: int,
    around: tuple[float, float] | None,
) -> ScoreMatrix:  # fmt: skip
    """The matrix after the first rows of a stream: what was taught is measured.

    With ``around``, a level between 0 and 1 and how far scores lie from it at most, all of it; else with some holes.
    """
    shape = (rows, len(tasks))
    most = draw(st.sampled_from([1, 3, 6, 20]))
    least = most if around is not None else max(1, most // 2)
    counts = np.array([[draw(st.integers(least, most)) for _ in tasks] for _ in range(rows)])
    if around is not None:
        level, width = around
        shares = st.floats(max(0.0, level - width), min(1.0, level + width))
    else:
        shares = st.sampled_from([0.0, 1.0]) if draw(st.booleans()) else st.floats(0, 1)
    drawn = np.array([[draw(shares) for _ in tasks] for _ in range(rows)])
    if measure.kind == "proportion":
        scores = np.round(counts * drawn) / counts
    else:
        scores = np.round(drawn * 3 if measure.low == 0 else drawn * 6 - 3, 2)
    seen: set[str] = set()
    for row in range(rows):
        brought = set(stream[row][1])
        seen = brought if arrangement == "independent" else seen | brought
        for column, task in enumerate(tasks):
            hole = around is None and draw(st.integers(0, 19)) == 0
            if task not in seen or hole:
                scores[row, column] = np.nan
    counts[np.isnan(scores)] = 0
    spread = None
    if measure.kind == "mean" and draw(st.booleans()):
        spread = np.array([[draw(st.sampled_from([0.0, 0.1, 1.0])) for _ in tasks] for _ in range(rows)])
        spread[counts < 2] = np.nan
    return ScoreMatrix(
        tasks,
        tuple(name for name, _ in stream[:rows]),
        scores.reshape(shape),
        draw(st.sampled_from([counts, counts, counts, None])),
        stream=tuple(brought for _, brought in stream),
        measure=measure,
        spread=spread,
    )


def _record(number: int, method: str, arrangement: str, seed: int, stream: Any, matrix: ScoreMatrix | None, rows: int,
            steps: int, boundaries: bool) -> RunRecord:  # fmt: skip
    finished = rows == len(stream)
    info = {
        "name": f"run-{number}", "method": method, "arrangement": arrangement, "stream": "a-stream", "format": 2,
        "status": "finished" if finished else "running", "seeds": {"train_seed": seed, "eval_seed": 0}, "family": "bed",
        "tasks": [], "experiences": [], "steps": steps, "memory_bytes": 0, "parameters": 1000,
        "versions": {"torch": "2.9"}, "seconds": {"train": 1.0},
    }  # fmt: skip
    return RunRecord(
        folder=Path(f"/runs/{number}"),
        label=f"label-{chr(97 + number)}",
        info=info,
        experiences=stream,
        matrix=matrix,
        boundaries=tuple(float(steps * (row + 1)) for row in range(rows))
        if boundaries and matrix is not None
        else None,
        borders=(),
        episodes=None,
        trials=None,
        training=None,
        config=f"method: {{name: {method}}}\ntrain_seed: {seed}\ntraining: {{steps: {steps}}}\n",
        missing=(),
    )


@st.composite
def reports(draw: st.DrawFn) -> list[RunRecord]:
    """1 to 8 runs of 1 to 4 methods, or 3 seeds of each, over the same tasks, with one measure."""
    measure = draw(st.sampled_from(MEASURES))
    tasks = tuple(f"suite/task-{letter}" for letter in "abcd"[: draw(st.integers(1, 4))])
    order = draw(st.permutations(range(len(tasks))))
    order = [*order, *order[: draw(st.sampled_from([0, 0, 0, 1, len(order)]))]]
    compared = draw(st.integers(0, 4)) == 0  # enough seeds of each, all of them to the end
    count = draw(st.integers(2, 4) if compared else st.integers(1, 4))
    methods = draw(st.permutations(METHODS))[:count]
    runs: list[RunRecord] = []
    for method in methods:
        arrangement = "sequential" if compared else draw(st.sampled_from(["sequential"] * 5 + ["joint", "independent"]))
        steps = draw(st.sampled_from([10, 10, 30]))
        around = (draw(st.sampled_from([0.1, 0.5, 0.9])), draw(st.sampled_from([0.0, 0.1]))) if compared else None
        for seed in range(3 if compared else draw(st.integers(1, 4))):
            if len(runs) == 8 and not compared:
                break
            stream = _experiences(tasks, order, arrangement)
            whole = compared or draw(st.integers(0, 7)) > 0
            rows = len(stream) if whole else draw(st.integers(0, len(stream)))
            matrix = draw(matrices(measure, tasks, stream, arrangement, rows, around)) if rows else None
            known = draw(st.booleans())
            runs.append(_record(len(runs), method, arrangement, seed, stream, matrix, rows, steps, known))
    return runs
