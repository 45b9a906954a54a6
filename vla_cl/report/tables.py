"""The tables of the report as plain data: comparison, crashed episodes, settings, versions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.metrics import HEADLINE_FORGETTING, Estimate
from vla_cl.report.between import Pair
from vla_cl.report.groups import RunGroup
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import (
    UNDEFINED,
    decimal,
    decimal_range,
    duration,
    memory_size,
    no_interval,
    task_name,
)
from vla_cl.report.scale import Scale
from vla_cl.report.svg import interval_bar, legend_swatch
from vla_cl.trust.text import counted
from vla_cl.types import Outcome

UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class ComparisonRow:
    """A group, or one run of a group, in the table under the first lines.

    Attributes:
        swatch: Its line; empty for a run of a group.
        label: Of the group, or ``seed 3``.
        single: Whether it is one run of a group of several.
        unfinished: Whether it, or a run of it, goes on.
        score: Value, interval or range, picture.
    """

    swatch: Markup
    label: str
    single: bool
    unfinished: bool
    score: tuple[str, str, Markup]
    forgetting: tuple[str, str]
    learning_accuracy: tuple[str, str]
    memory: str
    train_time: str
    trials: str


def comparison(groups: Sequence[RunGroup], scale: Scale) -> list[ComparisonRow]:
    """The figures one looks at first: each group with the mean of its seeds, then its seeds."""
    rows = []
    for group in groups:
        rows.append(_group_row(group, scale))
        if len(group.runs) > 1:
            rows += [
                _run_row(group.index, f"seed {_seed(run)}", run, found, scale, single=True)
                for run, found in zip(group.runs, group.of_runs, strict=True)
            ]
    return rows


def _seed(run: RunRecord) -> str:
    seed = run.train_seed
    return "unknown" if seed is None else str(seed)


def _group_row(group: RunGroup, scale: Scale) -> ComparisonRow:
    if len(group.runs) == 1:
        return _run_row(group.index, group.label, group.first, group.of_runs[0], scale, single=False)
    final, forgetting, accuracy = (
        group.estimates.get(name, UNKNOWN) for name in ("final_average", HEADLINE_FORGETTING, "learning_accuracy")
    )
    values = group.values("final_average")
    around = (min(values), max(values)) if values and not math.isnan(final.value) else (math.nan, math.nan)
    seconds = [_seconds(run) for run in group.runs]
    known = [value for value in seconds if value is not None]
    return ComparisonRow(
        swatch=legend_swatch(group.index),
        label=f"{group.label}, {counted(len(group.runs), 'seed')}",
        single=False,
        unfinished=not group.finished,
        score=(scale.text(final.value), _range(values, scale), _bar(group.index, group.label, final, around, scale)),
        forgetting=(decimal(forgetting.value), _spread(group.values(HEADLINE_FORGETTING))),
        learning_accuracy=(scale.text(accuracy.value), _range(group.values("learning_accuracy"), scale)),
        memory=memory_size(max((run.info.get("memory_bytes") or 0 for run in group.runs), default=None)),
        train_time=duration(sum(known) / len(known) if len(known) == len(seconds) else None),
        trials="",
    )


def _range(values: Sequence[float], scale: Scale) -> str:
    """``85 % to 95 %`` of single seeds."""
    if not values or any(map(math.isnan, values)):
        return ""
    return _ends(scale.text(min(values)), scale.text(max(values)))


def _spread(values: Sequence[float]) -> str:
    if not values or any(map(math.isnan, values)):
        return ""
    return _ends(decimal(min(values)), decimal(max(values)))


def _ends(least: str, most: str) -> str:
    return "every seed" if least == most else f"seeds {least} to {most}"


def _run_row(
    index: int, label: str, run: RunRecord, metrics: Mapping[str, Estimate], scale: Scale, single: bool
) -> ComparisonRow:
    final, accuracy, forgetting = (
        metrics.get(name, UNKNOWN) for name in ("final_average", "learning_accuracy", HEADLINE_FORGETTING)
    )
    return ComparisonRow(
        swatch=Markup("") if single else legend_swatch(index),
        label=label,
        single=single,
        unfinished=not run.finished,
        score=(
            scale.text(final.value),
            scale.range_text(final) or no_interval(final),
            _bar(index, run.label, final, (final.low, final.high), scale),
        ),
        forgetting=(decimal(forgetting.value), decimal_range(forgetting)),
        learning_accuracy=(scale.text(accuracy.value), scale.range_text(accuracy) or no_interval(accuracy)),
        memory=memory_size(run.info.get("memory_bytes")),
        train_time=duration(_seconds(run)),
        trials=UNDEFINED if run.trials is None else f"{len(run.trials)}",
    )


def _bar(index: int, label: str, final: Estimate, around: tuple[float, float], scale: Scale) -> Markup:
    if math.isnan(final.value):
        return Markup("")
    title = f"{label}: {scale.text(final.value)} {scale.range_text(final)}".strip()
    return interval_bar(final.value, *around, index, title, (scale.low, scale.high))


def _seconds(run: RunRecord) -> float | None:
    seconds = run.info.get("seconds")
    value = seconds.get("train") if isinstance(seconds, Mapping) else None
    return float(value) if isinstance(value, int | float) else None


def pair_rows(pairs: Sequence[Pair], scale: Scale) -> list[tuple[str, str, str, str]]:
    """Better method, other method, difference at the end, what the test says; the surest first."""
    ordered = sorted(pairs, key=lambda pair: math.inf if math.isnan(pair.p) else pair.p)
    return [(pair.better, pair.worse, scale.drop(pair.difference).text, _verdict(pair)) for pair in ordered]


def _verdict(pair: Pair) -> str:
    if math.isnan(pair.p):
        return "no test: all seeds of each end alike"
    return f"{'p < 0.001' if pair.p < 0.001 else f'p = {pair.p:.3f}'}{', beyond chance' if pair.told_apart else ''}"


@dataclass(frozen=True)
class ErrorGroup:
    """Crashed episodes of one run and task with one message."""

    label: str
    task: str
    count: int
    message: str


def error_groups(runs: Sequence[RunRecord]) -> list[ErrorGroup]:
    """Crashed episodes, the most frequent first."""
    counts = Counter(
        (run.label, task_name(row.task), row.error or "no message was recorded")
        for run in runs
        for row in run.episodes or ()
        if row.outcome is Outcome.ERROR
    )
    return [ErrorGroup(label, task, count, message) for (label, task, message), count in counts.most_common()]


def crash_notes(runs: Sequence[RunRecord]) -> list[str]:
    """One sentence for every run in which episodes crashed."""
    notes = []
    for run in runs:
        crashed = sum(row.outcome is Outcome.ERROR for row in run.episodes or ())
        if crashed:
            notes.append(f"{run.label}: {crashed} of {len(run.episodes or ())} episodes crashed.")
    return notes
