"""The line plots of scores: each task over the course of learning, one line per method."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.report.groups import RunGroup
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import cell_count, cell_score, task_name
from vla_cl.report.scale import Scale
from vla_cl.report.svg import RUN_STYLES, Panel, legend_swatch, marker, moved, short_number
from vla_cl.trust.text import counted


@dataclass(frozen=True)
class Figure:
    """A plot with what is written above and below it."""

    title: str
    picture: Markup
    note: str = ""


def legend(groups: Sequence[RunGroup]) -> list[tuple[Markup, str]]:
    """Line style and label of every group."""
    flat = reference_groups(groups)
    return [
        (
            legend_swatch(group.index, group.arrangement if group.index in flat else None),
            group.label if len(group.runs) == 1 else f"{group.label}, mean and range of {len(group.runs)} seeds",
        )
        for group in groups
    ]


def reference_groups(groups: Sequence[RunGroup]) -> set[int]:
    """Index of every group that is drawn as a level line.

    A joint or independent run is a reference for sequential ones; over their course it has nothing to show.
    """
    if not any(group.arrangement == "sequential" for group in groups):
        return set()
    return {group.index for group in groups if group.arrangement != "sequential"}


def scores_over_learning(groups: Sequence[RunGroup], tasks: Sequence[str], scale: Scale) -> list[Figure]:
    """One panel per task, one line per group; x is optimizer steps, or experiences where the steps are not known."""
    runs = [run for group in groups for run in group.runs]
    shown = [task for task in tasks if any(_is_measured(run, task) for run in runs)]
    return [_score_panel(groups, task, steps_are_known(runs), scale) for task in shown]


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


def _score_panel(groups: Sequence[RunGroup], task: str, in_steps: bool, scale: Scale) -> Figure:
    """Scores on one task."""
    flat = reference_groups(groups)
    drawn = [group for group in groups if group.index not in flat and group.evaluated]
    runs = [run for group in drawn for run in group.evaluated]
    end = max((position for run in runs for position in _positions(run, in_steps)), default=1.0)
    room = 10 + 6.4 * max(len(text) for _, text in scale.ticks)  # for the labels of the axis
    panel = Panel(340, 190, (0, end), (scale.low, scale.high), left=max(40, room), inset=9)
    ticks = sorted({position for run in runs for position in _positions(run, in_steps)})
    parts = [panel.band(*span, "learning") for span in _learning_spans(runs, task, in_steps)]
    parts.append(panel.horizontal_grid(scale.ticks))
    parts.append(panel.x_labels([(0, "0"), *((tick, short_number(tick)) for tick in ticks)]))
    parts += [_reference_line(panel, group, task) for group in groups if group.index in flat]
    for place, group in enumerate(drawn):
        # A few pixels aside, so that equal lines do not hide each other.
        aside = place - (len(drawn) - 1) / 2
        shapes = _group_shapes(panel, group, task, in_steps, scale)
        parts.append(moved(shapes, aside * min(3, 12 / len(drawn)), aside * min(1.6, 7 / len(drawn))))
    title = f"{scale.title} on {task_name(task)} over the course of learning"
    return Figure(task_name(task), panel.picture(title, parts))


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
    return longest if runs and agree and len(runs[0].experiences) > 1 else ()


def _group_shapes(panel: Panel, group: RunGroup, task: str, in_steps: bool, scale: Scale) -> list[Markup]:
    """One run with the intervals of its cells; several as their mean, with their range as a band."""
    runs = [run for run in group.evaluated if run.matrix is not None and task in run.matrix.tasks]
    if not runs:
        return []
    courses = [_course(run, task, in_steps) for run in runs]
    common = sorted(set(courses[0]).intersection(*courses[1:]))
    if len(runs) == 1 or not common:
        return [shape for run in runs for shape in _run_shapes(panel, group, run, task, in_steps, scale)]
    style = f"run-{group.index % RUN_STYLES}"
    scores = {position: [course[position] for course in courses] for position in common}
    lower, upper = ([(position, end(found)) for position, found in scores.items()] for end in (min, max))
    shapes = [
        panel.area(lower, upper, f"spread {style}"),
        panel.line([(position, sum(found) / len(found)) for position, found in scores.items()], f"line {style}"),
    ]
    shapes += _untrained(panel, group, runs, task, scale)
    measured = set(_positions(runs[0], in_steps)) & set(common)
    for position in sorted(measured):
        found = scores[position]
        mean = sum(found) / len(found)
        ends = f"{scale.text(min(found))} to {scale.text(max(found))}"
        title = f"{group.label}: {scale.text(mean)} after {short_number(position)}"
        title += f" (mean of {counted(len(found), 'seed')}, {ends})"
        shapes.append(_point(panel, group.index, position, mean, (min(found), max(found)), title))
    return shapes


def _course(run: RunRecord, task: str, in_steps: bool) -> dict[float, float]:
    """Position to score: the cells of the matrix, and the finer curve where there is one."""
    matrix = run.matrix
    assert matrix is not None  # the caller looked
    column = matrix.tasks.index(task)
    finer = {float(step): float(score) for step, score in matrix.curves.get(task, [])} if in_steps else {}
    cells = {
        position: score
        for row, position in enumerate(_positions(run, in_steps))
        if (score := cell_score(matrix, row, column)) is not None
    }
    return {position: score for position, score in (finer | cells).items() if math.isfinite(score)}


def _run_shapes(panel: Panel, group: RunGroup, run: RunRecord, task: str, in_steps: bool, scale: Scale) -> list[Markup]:
    """The course of one run: measured cells with their intervals, joined through the finer curve where there is one."""
    matrix = run.matrix
    assert matrix is not None  # the caller looked
    column = matrix.tasks.index(task)
    shapes = [panel.line(sorted(_course(run, task, in_steps).items()), f"line run-{group.index % RUN_STYLES}")]
    shapes += _untrained(panel, group, [run], task, scale)
    for row, position in enumerate(_positions(run, in_steps)):
        score = cell_score(matrix, row, column)
        if score is None:
            continue
        interval, count = scale.cell_interval(matrix, row, column), cell_count(matrix, row, column)
        title = f"{run.label}: {scale.text(score)} after {short_number(position)}"
        if interval is not None:
            low, high = map(scale.text, interval)
            title += f" ({count} {scale.trials}, 95 % interval {low} to {high})"
        shapes.append(_point(panel, group.index, position, score, interval, title))
    return shapes


def _untrained(panel: Panel, group: RunGroup, runs: Sequence[RunRecord], task: str, scale: Scale) -> list[Markup]:
    """An open marker where the model began, if that was measured in all runs."""
    values = [
        float(run.matrix.baseline[run.matrix.tasks.index(task)])
        for run in runs
        if run.matrix is not None and run.matrix.baseline is not None
    ]
    if len(values) < len(runs) or not all(map(math.isfinite, values)):
        return []
    mean = sum(values) / len(values)
    title = f"{group.label}: {scale.text(mean)} before learning"
    return [marker(group.index, panel.x(0), panel.y(mean), title, "untrained")]


def _point(
    panel: Panel, index: int, position: float, score: float, interval: tuple[float, float] | None, title: str
) -> Markup:
    """A marker with its interval, or the range of the seeds, as a whisker."""
    whisker, x = Markup(""), panel.x(position)
    if interval is not None:
        low, high = (min(max(end, panel.y_range[0]), panel.y_range[1]) for end in interval)
        whisker = Markup('<line class="whisker run-{}" x1="{x}" x2="{x}" y1="{}" y2="{}"/>').format(
            index % RUN_STYLES, panel.y(low), panel.y(high), x=x
        )
    return whisker + marker(index, x, panel.y(score), title)


def _reference_line(panel: Panel, group: RunGroup, task: str) -> Markup:
    """A level line at the mean score that a reference reached on the task."""
    reached = []
    for run in group.evaluated:
        matrix = run.matrix
        if matrix is not None and task in matrix.tasks:
            column = matrix.tasks.index(task)
            values = [cell_score(matrix, row, column) for row in range(len(matrix.experiences))]
            reached += [value for value in values if value is not None][-1:]
    if not reached:
        return Markup("")
    mean = sum(reached) / len(reached)
    ends = [(panel.x_range[0], mean), (panel.x_range[1], mean)]
    return panel.line(ends, f"line {group.arrangement} run-{group.index % RUN_STYLES}")
