"""What became of each task in the runs of a group, and which drops are more than chance."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from vla_cl.metrics import ScoreMatrix
from vla_cl.metrics.significance import (
    LEVEL,
    Cell,
    fisher,
    holm,
    holm_level,
    smallest_visible_mean,
    smallest_visible_share,
    welch,
)
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import cell_count, cell_score, last_row
from vla_cl.scores import Measure


@dataclass(frozen=True)
class TaskCourse:
    """What became of one task in one run.

    Attributes:
        run: Label of the run.
        task: Its id.
        after: Right after the experience that taught it, the last one if several did.
        final: After the last evaluated experience.
        best: Best score in the whole matrix.
        old: Something was learnt after it, so that it can be forgotten.
        p: Corrected for all tests of the group; NaN without a test.
        visible: From which drop on the test would have called it more than chance; infinite: none; NaN: no test.
    """

    run: str
    task: str
    after: Cell
    final: Cell
    best: float
    old: bool
    p: float = math.nan
    visible: float = math.nan

    def drop(self, measure: Measure) -> float:
        """How much was lost; the worse, the larger."""
        return measure.sign * (self.after.score - self.final.score)

    def forgot(self, measure: Measure) -> bool:
        """Whether it lost more than chance explains."""
        return self.p <= LEVEL and self.drop(measure) > 0

    @property
    def tested(self) -> bool:
        """Whether there is a test."""
        return not math.isnan(self.p)


def courses_of(runs: Sequence[RunRecord], measure: Measure) -> list[TaskCourse]:
    """Every task of every run that was taught and evaluated then and at the end, tested together.

    Args:
        runs: The runs of a group.
        measure: What their matrices hold.
    """
    courses = [course for run in runs for course in _courses(run, measure)]
    raw = {place: p for place, course in enumerate(courses) if not math.isnan(p := _p(course, measure))}
    corrected = dict(zip(raw, holm(list(raw.values())), strict=True))
    for place, p in corrected.items():
        level = holm_level([other for at, other in raw.items() if at != place])
        courses[place] = replace(courses[place], p=p, visible=_visible(courses[place], measure, level))
    return courses


def _courses(run: RunRecord, measure: Measure) -> list[TaskCourse]:
    matrix = run.matrix
    end = last_row(matrix) if matrix is not None else None
    if matrix is None or end is None:
        return []
    courses = []
    for column, task in enumerate(matrix.tasks):
        taught = [row for row, (_, tasks) in enumerate(run.experiences[: end + 1]) if task in tasks]
        if not taught:
            continue
        after, final = _cell(matrix, taught[-1], column), _cell(matrix, end, column)
        if after is not None and final is not None:
            scores = [cell_score(matrix, row, column) for row in range(end + 1)]
            measured = [score for score in scores if score is not None]
            best = max(measured) if measure.sign > 0 else min(measured)
            courses.append(TaskCourse(run.label, task, after, final, best, taught[-1] < end))
    return courses


def _cell(matrix: ScoreMatrix, row: int, column: int) -> Cell | None:
    score = cell_score(matrix, row, column)
    spread = math.nan if matrix.spread is None else float(matrix.spread[row, column])
    return None if score is None else Cell(score, cell_count(matrix, row, column), spread)


def _p(course: TaskCourse, measure: Measure) -> float:
    """Before the correction; NaN where there is nothing to test, or nothing to test it with."""
    if not course.old or not course.after.count or not course.final.count or measure.kind == "statistic":
        return math.nan
    return (fisher if measure.kind == "proportion" else welch)(course.after, course.final)


def _visible(course: TaskCourse, measure: Measure, level: float) -> float:
    if measure.kind == "proportion":
        return smallest_visible_share(course.after, course.final.count, level, measure.sign)
    return smallest_visible_mean(course.after, course.final, level)


def name_of_test(measure: Measure) -> str:
    """The test of one task's drop, by name."""
    return "Fisher's exact test" if measure.kind == "proportion" else "Welch's t-test"
