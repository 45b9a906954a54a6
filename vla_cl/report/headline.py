"""The report's first paragraph: what happened, in plain words, derived from the numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

from vla_cl.metrics import HEADLINE_FORGETTING, Estimate, ScoreMatrix
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import cell_score, last_row, task_name
from vla_cl.report.scale import Scale
from vla_cl.trust.text import counted

LEARNT = 0.5
"""A task counts as learnt if at least this fraction of its episodes succeeds."""

MAX_NAMES = 4
"""Longer lists of tasks are cut with "and 3 more"."""


@dataclass(frozen=True)
class TaskCourse:
    """What became of one task in one run.

    Attributes:
        after: Score right after the experience that taught it, the last one if several did.
        best: Best score since it was first taught.
        final: Score after the last evaluated experience.
        forgot: Learnt, and the 95 % intervals of after and final do not overlap. Not of best and final: the best of
            many noisy values lies above the end where nothing was forgotten.
        told: Both intervals are known.
    """

    task: str
    after: float
    best: float
    final: float
    forgot: bool
    told: bool


def task_courses(run: RunRecord, scale: Scale) -> list[TaskCourse]:
    """The course of every task that was taught and evaluated both then and at the end."""
    matrix = run.matrix
    end = last_row(matrix) if matrix is not None else None
    if matrix is None or end is None:
        return []
    courses = []
    for column, task in enumerate(matrix.tasks):
        taught = [row for row, (_, tasks) in enumerate(run.experiences[: end + 1]) if task in tasks]
        final = cell_score(matrix, end, column)
        after = cell_score(matrix, taught[-1], column) if taught else None
        if after is not None and final is not None:
            courses.append(_course(matrix, task, taught, end, scale))
    return courses


def _course(matrix: ScoreMatrix, task: str, taught: Sequence[int], end: int, scale: Scale) -> TaskCourse:
    column = matrix.tasks.index(task)
    measured = {
        row: score for row in range(taught[0], end + 1) if (score := cell_score(matrix, row, column)) is not None
    }
    after, best = measured[taught[-1]], (max if scale.better == "higher" else min)(measured.values())
    before, now = (scale.cell_interval(matrix, row, column) for row in (taught[-1], end))
    apart = before is not None and now is not None and _worse(now, before, scale)
    forgot = apart and (not scale.in_percent or after >= LEARNT)
    return TaskCourse(task, after, best, measured[end], forgot, before is not None and now is not None)


def _worse(interval: tuple[float, float], other: tuple[float, float], scale: Scale) -> bool:
    """Whether an interval lies wholly on the worse side of another."""
    return interval[1] < other[0] if scale.better == "higher" else interval[0] > other[1]


def headline(runs: Sequence[RunRecord], estimates: Mapping[str, Mapping[str, Estimate]], scale: Scale) -> Markup:
    """One paragraph over all runs; ``estimates`` maps a run's label to its metrics."""
    chains = [run for run in runs if run.arrangement == "sequential"]
    references = [run for run in runs if run.arrangement != "sequential"]
    chains.sort(key=lambda run: _sort_value(estimates[run.label].get("final_average"), scale))
    sentences = []
    if chains:
        sentences.append(_opening(chains, estimates, scale))
        sentences += _overlap(chains, estimates, scale)
        sentences += [sentence for run in chains for sentence in _kept_and_forgotten(run, estimates[run.label], scale)]
    sentences += [_reference(run, estimates[run.label], scale, alone=not chains) for run in references]
    sentences += [_unfinished(run, scale) for run in runs if not run.finished]
    return Markup(" ").join(sentence for sentence in sentences if sentence)


def _sort_value(estimate: Estimate | None, scale: Scale) -> float:
    """The best first, what has no value last."""
    if estimate is None or math.isnan(estimate.value):
        return math.inf
    return -scale.measure.sign * estimate.value


def _opening(runs: Sequence[RunRecord], estimates: Mapping[str, Mapping[str, Estimate]], scale: Scale) -> Markup:
    """``On demo (3 tasks learnt one after another), er ends at 92 % average success, sequential at 37 %.``."""
    ends: list[Markup] = []
    for run in runs:
        estimate = estimates[run.label].get("final_average")
        if estimate is not None and not math.isnan(estimate.value):
            average = "" if ends else f" average {scale.word}"
            verb = "at" if ends else "ends at" if run.finished else "stands at"
            which = "" if ends else "95 % interval "
            interval = _in_brackets(estimate, scale, which)
            ends.append(
                Markup("<strong>{}</strong> {} <strong>{}</strong>{}{}").format(
                    run.label, verb, scale.text(estimate.value), average, interval
                )
            )
    if not ends:
        return Markup("")
    stream, learnt = run_text(runs[0], "stream"), _learnt(runs[0])
    return Markup("On {} ({}), {}.").format(stream, learnt, Markup(", ").join(ends))


def _in_brackets(estimate: Estimate, scale: Scale, which: str = "") -> Markup:
    """`` (25–50 %)``, which no line break tears; empty if there is no interval."""
    interval = scale.range_text(estimate)
    return Markup(' ({}<span class="whole">{}</span>)').format(which, interval) if interval else Markup("")


def _learnt(run: RunRecord) -> str:
    """``3 tasks learnt one after another``; where experiences bring several tasks, in how many of them."""
    tasks, brought = counted(len(run.tasks), "task"), [tasks for _, tasks in run.experiences]
    again = sum(map(len, brought)) > len(run.tasks)
    if all(len(tasks) == 1 for tasks in brought):
        order = f"{tasks} learnt one after another"
        return f"{order} in {len(brought)} experiences, some more than once" if again else order
    order = f"{tasks} learnt in {counted(len(brought), 'experience')}{' one after another' * (len(brought) > 1)}"
    return f"{order}, some tasks more than once" if again else order


def run_text(run: RunRecord, key: str) -> str:
    """A text of ``run.json``, or ``unknown``."""
    return str(run.info.get(key) or f"unknown {key}")


def _overlap(runs: Sequence[RunRecord], estimates: Mapping[str, Mapping[str, Estimate]], scale: Scale) -> list[Markup]:
    """A warning where the two best runs cannot be told apart."""
    known = [
        (run.label, estimate) for run in runs if (estimate := estimates[run.label].get("final_average")) is not None
    ]
    if len(known) < 2:
        return []
    (first, better), (second, worse) = known[:2]
    overlap = better.low <= worse.high if scale.better == "higher" else better.high >= worse.low
    if not overlap:  # also where an interval is not known
        return []
    return [Markup("The intervals of {} and {} overlap: their order may be chance.").format(first, second)]


def _kept_and_forgotten(run: RunRecord, estimates: Mapping[str, Estimate], scale: Scale) -> list[Markup]:
    """What a run forgot, what it kept, and what it did not learn."""
    courses = task_courses(run, scale)
    if not courses:
        return []
    forgotten = [course for course in courses if course.forgot]
    never = [course for course in courses if scale.in_percent and course.best < LEARNT]
    kept = [course for course in courses if course not in forgotten and course not in never]
    parts = []
    if forgotten:
        changes = [
            Markup("{} ({} → {})").format(task_name(c.task), scale.text(c.after), scale.text(c.final))
            for c in forgotten
        ]
        parts.append(Markup("forgot {}").format(_listing(changes)))
    elif len(courses) > 1 and kept:
        told = any(course.told for course in courses)
        parts.append((_forgot_no_single_task if told else _cannot_tell)(estimates.get(HEADLINE_FORGETTING), scale))
    if kept and forgotten and scale.in_percent:
        names = [Markup("{} ({})").format(task_name(c.task), scale.text(c.final)) for c in kept]
        parts.append(Markup("still does {}").format(_listing(names)))
    if never:
        names = [Markup("{} ({})").format(task_name(c.task), scale.text(c.best)) for c in never]
        parts.append(Markup("did not reach {} on {}").format(scale.text(LEARNT), _listing(names)))
    return [Markup("<strong>{}</strong> {}.").format(run.label, Markup("; it ").join(parts))] if parts else []


def _cannot_tell(forgetting: Estimate | None, scale: Scale) -> Markup:
    """Without intervals nobody knows what is chance."""
    if forgetting is None or math.isnan(forgetting.value):
        return Markup("has no intervals, so what it forgot cannot be told from chance")
    lost = f"{100 * forgetting.value:.0f} points" if scale.in_percent else f"{forgetting.value:.3g}"
    return Markup("lost {} on earlier tasks on average; without intervals that cannot be told from chance").format(lost)


def _forgot_no_single_task(forgetting: Estimate | None, scale: Scale) -> Markup:
    """Small losses on many tasks add up: the average can be beyond chance where no single task is."""
    if forgetting is None or not forgetting.low > 0:  # also where the interval is not known
        return Markup("forgot nothing beyond what chance explains")
    lost = f"{100 * forgetting.value:.0f} points" if scale.in_percent else f"{forgetting.value:.3g}"
    return Markup("lost {} on earlier tasks on average, though no single one beyond what chance explains").format(lost)


def _listing(items: Sequence[Markup]) -> Markup:
    """``a``, ``a and b``, ``a, b, c, d and 3 more``."""
    shown = list(items)
    if len(shown) > MAX_NAMES:
        shown = [*shown[:MAX_NAMES], escape(f"{len(shown) - MAX_NAMES} more")]
    return _joined(shown)


def _joined(items: Sequence[Markup]) -> Markup:
    return items[0] if len(items) == 1 else Markup("{} and {}").format(Markup(", ").join(items[:-1]), items[-1])


def _reference(run: RunRecord, estimates: Mapping[str, Estimate], scale: Scale, alone: bool) -> Markup:
    """What a reference reached: the bar for methods that learn one task after another, if any is reported on."""
    independent = run.arrangement == "independent"
    estimate = estimates.get("learning_accuracy" if independent else "final_average")
    if estimate is not None and math.isnan(estimate.value) and independent and run.finished:
        estimate = _of_all_learnt(run)
    if estimate is None or math.isnan(estimate.value):
        return Markup("")
    several = any(len(tasks) > 1 for _, tasks in run.experiences)
    alone_with = "one model per experience" if several else "one model per task"
    how = alone_with if independent else "learning all tasks at once"
    interval = _in_brackets(estimate, scale)
    opening = f"On {run_text(run, 'stream')} ({len(run.tasks)} tasks)" if alone else "As a reference"
    return Markup("{}, <strong>{}</strong> ({}) reaches <strong>{}</strong>{}.").format(
        opening, run.label, how, scale.text(estimate.value), interval
    )


def _of_all_learnt(run: RunRecord) -> Estimate:
    """Mean score of what each experience brought; where that is several tasks, no metric says it."""
    matrix = run.matrix
    cells = [
        cell_score(matrix, row, matrix.tasks.index(task))
        for row, (_, tasks) in enumerate(run.experiences)
        for task in tasks
        if matrix is not None and row < len(matrix.experiences) and task in matrix.tasks
    ]
    known = [score for score in cells if score is not None]
    whole = bool(known) and len(known) == len(cells)
    return Estimate(sum(known) / len(known) if whole else math.nan, math.nan, math.nan)


def _unfinished(run: RunRecord, scale: Scale) -> Markup:
    """How far a run has come."""
    matrix, total = run.matrix, len(run.experiences)
    end = last_row(matrix) if matrix is not None else None
    sentence = Markup("<strong>{}</strong> is not finished: {} of {} experience{} evaluated so far").format(
        run.label, 0 if end is None else end + 1, total, "" if total == 1 else "s"
    )
    if matrix is None or end is None:
        return sentence + "."
    cells = [(task, cell_score(matrix, end, column)) for column, task in enumerate(matrix.tasks)]
    shown = [
        Markup("{} at {}").format(task_name(task), scale.text(score)) for task, score in cells if score is not None
    ]
    return sentence + Markup(" ({}).").format(_listing(shown))
