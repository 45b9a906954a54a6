"""The line plots: score on each task over the course of learning, and training loss."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.report.load import RunRecord, TrainingCurve
from vla_cl.report.numbers import cell_count, cell_score, task_name
from vla_cl.report.scale import Scale
from vla_cl.report.svg import RUN_STYLES, Panel, legend_swatch, marker, short_number

MAX_LOSS_POINTS = 160
"""Training curves are averaged down to this many points, so that long runs stay small files."""


@dataclass(frozen=True)
class Figure:
    """A plot with what is written above and below it."""

    title: str
    picture: Markup
    note: str = ""


def legend(runs: Sequence[RunRecord]) -> list[tuple[Markup, str]]:
    """Line style and label of every run."""
    flat = reference_runs(runs)
    return [
        (legend_swatch(index, run.arrangement if index in flat else None), run.label) for index, run in enumerate(runs)
    ]


def reference_runs(runs: Sequence[RunRecord]) -> set[int]:
    """Index of every run that is drawn as a level line.

    A joint or independent run is a reference for sequential ones; over their course it has nothing to show.
    """
    if not any(run.arrangement == "sequential" for run in runs):
        return set()
    return {index for index, run in enumerate(runs) if run.arrangement != "sequential"}


def scores_over_learning(runs: Sequence[RunRecord], tasks: Sequence[str], scale: Scale) -> list[Figure]:
    """One panel per task, one line per run; x is optimizer steps, or experiences where the steps are not known."""
    shown = [task for task in tasks if any(_is_measured(run, task) for run in runs)]
    return [_score_panel(runs, task, steps_are_known(runs), scale) for task in shown]


def _is_measured(run: RunRecord, task: str) -> bool:
    matrix = run.matrix
    if matrix is None or task not in matrix.tasks:
        return False
    column = matrix.tasks.index(task)
    return task in matrix.curves or any(
        cell_score(matrix, row, column) is not None for row in range(len(matrix.experiences))
    )


def steps_are_known(runs: Sequence[RunRecord]) -> bool:
    """Whether every evaluated run tells at which optimizer steps."""
    return all(run.boundaries is not None for run in runs if run.matrix is not None)


def _positions(run: RunRecord, in_steps: bool) -> tuple[float, ...]:
    """Where each row of the matrix lies on the x axis."""
    if in_steps and run.boundaries is not None:
        return run.boundaries
    return tuple(range(1, len(run.matrix.experiences) + 1)) if run.matrix is not None else ()


def _score_panel(runs: Sequence[RunRecord], task: str, in_steps: bool, scale: Scale) -> Figure:
    """Scores on one task."""
    flat = reference_runs(runs)
    drawn = [run for index, run in enumerate(runs) if index not in flat and run.matrix is not None]
    end = max((position for run in drawn for position in _positions(run, in_steps)), default=1.0)
    panel = Panel(340, 190, (0, end), (scale.low, scale.high))
    ticks = sorted({position for run in drawn for position in _positions(run, in_steps)})
    parts = [panel.band(*span, "learning") for span in _learning_spans(drawn, task, in_steps)]
    parts.append(panel.horizontal_grid(scale.ticks))
    parts.append(panel.x_labels([(0, "0"), *((tick, short_number(tick)) for tick in ticks)]))
    for index, run in enumerate(runs):
        if index in flat:
            parts.append(_reference_line(panel, run, index, task))
        elif run in drawn:
            aside = (drawn.index(run) - (len(drawn) - 1) / 2) * min(3, 12 / len(drawn))
            parts.append(_run_line(panel, run, index, task, in_steps, aside, scale))
    return Figure(
        task_name(task), panel.picture(f"{scale.title} on {task_name(task)} over the course of learning", parts)
    )


def _learning_spans(runs: Sequence[RunRecord], task: str, in_steps: bool) -> tuple[tuple[float, float], ...]:
    """The stretches in which the task is learnt, one for each time; none where sequential runs do not agree on them.

    A run that is not finished agrees if it does as far as it went.
    """
    spans: list[tuple[tuple[float, float], ...]] = []
    for run in runs:
        positions = _positions(run, in_steps)
        taught = [index for index, (_, tasks) in enumerate(run.experiences[: len(positions)]) if task in tasks]
        spans.append(tuple((positions[index - 1] if index else 0.0, positions[index]) for index in taught))
    longest = max(spans, key=len, default=())
    agree = all(longest[: len(span)] == span for span in spans)
    return longest if agree and len(runs[0].experiences) > 1 else ()


def _run_line(
    panel: Panel, run: RunRecord, index: int, task: str, in_steps: bool, aside: float, scale: Scale
) -> Markup:
    """The course of one run: measured cells with their intervals, joined through the finer curve where there is one.

    Markers are moved ``aside`` by a few pixels, so that the whiskers of several runs do not hide each other.
    """
    matrix = run.matrix
    if matrix is None or task not in matrix.tasks:
        return Markup("")
    column = matrix.tasks.index(task)
    cells = [(row, position, cell_score(matrix, row, column)) for row, position in enumerate(_positions(run, in_steps))]
    measured = [(row, position, score) for row, position, score in cells if score is not None]
    points = [(position, score) for _, position, score in measured]
    if in_steps:
        rows = {position for position, _ in points}
        points += [(step, score) for step, score in matrix.curves.get(task, []) if step not in rows]
    parts = [panel.line(sorted(points), f"line run-{index % RUN_STYLES}")]
    if matrix.baseline is not None and math.isfinite(matrix.baseline[column]):
        untrained = float(matrix.baseline[column])
        title = f"{run.label}: {scale.text(untrained)} before learning"
        parts.append(marker(index, panel.x(0), panel.y(untrained), title, "untrained"))
    for row, position, score in measured:
        interval, count = scale.cell_interval(matrix, row, column), cell_count(matrix, row, column)
        title = f"{run.label}: {scale.text(score)} after {short_number(position)}"
        if interval is not None:
            low, high = map(scale.text, interval)
            title += f" ({count} {scale.trials}, 95 % interval {low} to {high})"
        parts.append(_measured_point(panel, index, panel.x(position) + aside, score, interval, title))
    return Markup("").join(parts)


def _measured_point(
    panel: Panel, index: int, x: float, score: float, interval: tuple[float, float] | None, title: str
) -> Markup:
    """A marker with its 95 % interval as a whisker."""
    whisker = Markup("")
    if interval is not None:
        low, high = (min(max(end, panel.y_range[0]), panel.y_range[1]) for end in interval)
        whisker = Markup('<line class="whisker run-{}" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
            index % RUN_STYLES, panel.y(low), panel.y(high), x=x
        )
    return whisker + marker(index, x, panel.y(score), title)


def _reference_line(panel: Panel, run: RunRecord, index: int, task: str) -> Markup:
    """A level line at the score that a reference reached on the task."""
    matrix = run.matrix
    if matrix is None or task not in matrix.tasks:
        return Markup("")
    column = matrix.tasks.index(task)
    values = [cell_score(matrix, row, column) for row in range(len(matrix.experiences))]
    reached = [value for value in values if value is not None]
    if not reached:
        return Markup("")
    ends = [(panel.x_range[0], reached[-1]), (panel.x_range[1], reached[-1])]
    return panel.line(ends, f"line {run.arrangement} run-{index % RUN_STYLES}")


def borders_are_drawn(runs: Sequence[RunRecord]) -> bool:
    """Whether a training curve has more than one experience."""
    return any(run.training is not None and ((run.boundaries or ())[:-1] or run.borders) for run in runs)


def training_curves(runs: Sequence[RunRecord]) -> list[Figure]:
    """Loss over optimizer steps, one panel per run on a common logarithmic scale where all losses are positive."""
    averaged = {index: _averaged(run.training) for index, run in enumerate(runs) if run.training is not None}
    curves = {index: curve for index, curve in averaged.items() if curve}
    if not curves:
        return []
    values = [loss for curve in curves.values() for _, low, _, high in curve for loss in (low, high)]
    logarithmic = min(values) > 0 and max(values) > 5 * min(values)
    wide = len(curves) == 1
    return [
        _training_panel(runs[index], index, curve, (min(values), max(values)), logarithmic, wide)
        for index, curve in curves.items()
    ]


def _averaged(curve: TrainingCurve) -> list[tuple[float, float, float, float]]:
    """Step, lowest, mean and highest loss of each of at most `MAX_LOSS_POINTS` stretches.

    Losses that are not finite are left out.
    """
    points = [(step, loss) for step, loss in zip(curve.steps, curve.losses, strict=True) if math.isfinite(loss)]
    size = max(1, math.ceil(len(points) / MAX_LOSS_POINTS))
    stretches = [points[start : start + size] for start in range(0, len(points), size)]
    return [
        (
            stretch[0][0],
            min(loss for _, loss in stretch),
            sum(loss for _, loss in stretch) / len(stretch),
            max(loss for _, loss in stretch),
        )
        for stretch in stretches
    ]


def _training_panel(
    run: RunRecord,
    index: int,
    curve: Sequence[tuple[float, float, float, float]],
    value_range: tuple[float, float],
    logarithmic: bool,
    wide: bool,
) -> Figure:
    """One run's loss: the mean as a line, lowest to highest as a band, borders between experiences as thin lines."""
    scale = math.log10 if logarithmic else float
    boundaries = run.boundaries or ()
    end = max([step for step, *_ in curve] + list(boundaries))
    borders = boundaries[:-1] or run.borders
    panel = Panel(700 if wide else 340, 210 if wide else 190, (0, end), (scale(value_range[0]), scale(value_range[1])))
    style = f"run-{index % RUN_STYLES}"
    parts = [panel.horizontal_grid([(scale(tick), f"{tick:g}") for tick in _loss_ticks(value_range, logarithmic)])]
    parts += [panel.vertical_line(boundary, "border") for boundary in borders]
    parts.append(
        panel.x_labels([(0, "0"), *((tick, short_number(tick)) for tick in _step_ticks([*borders, end], end))])
    )
    lower, upper = (
        [(step, scale(low)) for step, low, _, _ in curve],
        [(step, scale(high)) for step, _, _, high in curve],
    )
    parts.append(panel.area(lower, upper, f"spread {style}"))
    parts.append(panel.line([(step, scale(mean)) for step, _, mean, _ in curve], f"line solid {style}"))
    return Figure(run.label, panel.picture(f"Training loss of {run.label}", parts, "plot wide" if wide else "plot"))


def _step_ticks(boundaries: Sequence[float], end: float) -> list[float]:
    """The borders between experiences, or quarters of the run if there are none."""
    return list(boundaries) if len(boundaries) > 1 else [end * quarter / 4 for quarter in range(1, 5)]


def _loss_ticks(value_range: tuple[float, float], logarithmic: bool) -> list[float]:
    """Round numbers inside the range: 1, 2 and 5 times powers of ten, or about four even steps."""
    low, high = value_range
    if logarithmic:
        powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
        factors = (1.0, 2.0, 5.0) if high < 100 * low else (1.0,)
        return [tick for power in powers for factor in factors if low <= (tick := float(f"{factor}e{power}")) <= high]
    step = float(f"1e{math.floor(math.log10((high - low) or 1))}")
    step *= 0.5 if (high - low) / step < 3 else 2 if (high - low) / step > 6 else 1
    return [tick * step for tick in range(math.ceil(low / step), math.floor(high / step) + 1)]
