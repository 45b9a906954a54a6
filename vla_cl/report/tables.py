"""The tables of the report as plain data: comparison, heat maps, metrics, crashed episodes, settings."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.metrics import HEADLINE_FORGETTING, METRICS, Estimate
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import (
    UNDEFINED,
    cell_count,
    cell_score,
    decimal,
    decimal_range,
    duration,
    memory_size,
    no_interval,
    task_name,
)
from vla_cl.report.scale import Scale
from vla_cl.report.svg import interval_bar, legend_swatch, short_number
from vla_cl.types import Outcome

Estimates = Mapping[str, Mapping[str, Estimate]]
"""Run label to metric name to estimate."""

UNKNOWN = Estimate(math.nan, math.nan, math.nan)

STRONG = 0.55
"""From this shade on a heat map's cell is dark enough (light, in dark mode) for text of the opposite tone."""


@dataclass(frozen=True)
class ComparisonRow:
    """One run in the table under the headline."""

    swatch: Markup
    label: str
    unfinished: bool
    score: tuple[str, str, Markup]  # value, interval, picture
    forgetting: tuple[str, str]
    learning_accuracy: tuple[str, str]
    memory: str
    train_time: str
    trials: str


def comparison(runs: Sequence[RunRecord], estimates: Estimates, scale: Scale) -> list[ComparisonRow]:
    """The figures one looks at first."""
    return [_comparison_row(index, run, estimates[run.label], scale) for index, run in enumerate(runs)]


def _comparison_row(index: int, run: RunRecord, metrics: Mapping[str, Estimate], scale: Scale) -> ComparisonRow:
    final = metrics.get("final_average", UNKNOWN)
    accuracy = metrics.get("learning_accuracy", UNKNOWN)
    forgetting = metrics.get(HEADLINE_FORGETTING, UNKNOWN)
    title = f"{run.label}: {scale.text(final.value)} {scale.range_text(final)}"
    bar = (
        Markup("")
        if math.isnan(final.value)
        else interval_bar(final.value, final.low, final.high, index, title, (scale.low, scale.high))
    )
    seconds = run.info.get("seconds")
    trials = len(run.trials) if run.trials is not None else None
    return ComparisonRow(
        swatch=legend_swatch(index),
        label=run.label,
        unfinished=not run.finished,
        score=(scale.text(final.value), scale.range_text(final) or no_interval(final), bar),
        forgetting=(decimal(forgetting.value), decimal_range(forgetting)),
        learning_accuracy=(scale.text(accuracy.value), scale.range_text(accuracy) or no_interval(accuracy)),
        memory=memory_size(run.info.get("memory_bytes")),
        train_time=duration(seconds.get("train") if isinstance(seconds, Mapping) else None),
        trials=UNDEFINED if trials is None else f"{trials}",
    )


@dataclass(frozen=True)
class HeatCell:
    """One cell of a heat map.

    Attributes:
        shade: From 0, the worst, to 1, the best; None if not evaluated.
        text: The score.
        count: Trials behind it.
        taught: The row's experience teaches the column's task.
        strong: The text needs the opposite tone.
    """

    shade: float | None
    text: str
    count: int
    taught: bool
    strong: bool


@dataclass(frozen=True)
class HeatMap:
    """The score matrix of one run: rows are experiences, columns tasks."""

    label: str
    tasks: tuple[str, ...]
    rows: tuple[tuple[str, tuple[HeatCell, ...]], ...]


def heat_maps(runs: Sequence[RunRecord], scale: Scale) -> list[HeatMap]:
    """One heat map for every run that has been evaluated."""
    return [_heat_map(run, scale) for run in runs if run.matrix is not None]


def _heat_map(run: RunRecord, scale: Scale) -> HeatMap:
    matrix = run.matrix
    assert matrix is not None  # the caller looked
    rows = []
    if matrix.baseline is not None:
        count = matrix.baseline_count or 0
        cells = [
            _heat_cell(None if math.isnan(value) else float(value), count, False, scale) for value in matrix.baseline
        ]
        rows.append(("before learning", tuple(cells)))
    for row, name in enumerate(matrix.experiences):
        taught = run.experiences[row][1] if row < len(run.experiences) else ()
        cells = [
            _heat_cell(cell_score(matrix, row, column), cell_count(matrix, row, column), task in taught, scale)
            for column, task in enumerate(matrix.tasks)
        ]
        rows.append((f"after {name}", tuple(cells)))
    return HeatMap(run.label, tuple(task_name(task) for task in matrix.tasks), tuple(rows))


def _heat_cell(value: float | None, count: int, taught: bool, scale: Scale) -> HeatCell:
    shade = None if value is None else scale.shade(value)
    return HeatCell(shade, scale.cell_text(value), count, taught, strong=shade is not None and shade >= STRONG)


@dataclass(frozen=True)
class MetricRow:
    """One metric with its value for every run.

    Attributes:
        name: Includes the convention.
        better: ``higher`` or ``lower``.
        meaning: One line.
        bias: Which way the value is off on average, and why; empty for none.
        source: Paper or code.
        values: Value and interval of every run.
    """

    name: str
    better: str
    meaning: str
    bias: str
    source: str
    values: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Undefined:
    """Metrics that are not defined for some runs, for one reason.

    Attributes:
        names: The metrics.
        labels: The runs; empty for all of them.
        why: The reason, in words.
    """

    names: tuple[str, ...]
    labels: tuple[str, ...]
    why: str


def metric_rows(
    runs: Sequence[RunRecord], estimates: Estimates, scale: Scale
) -> tuple[list[MetricRow], list[Undefined]]:
    """All metrics that are defined for at least one run, and why which metrics are not defined for which runs."""
    rows: list[MetricRow] = []
    for metric in METRICS if any(estimates.values()) else ():
        values = [estimates[run.label].get(metric.name, UNKNOWN) for run in runs]
        if all(math.isnan(estimate.value) for estimate in values):
            continue
        shown = tuple((decimal(estimate.value), decimal_range(estimate)) for estimate in values)
        rows.append(
            MetricRow(
                metric.name,
                str(metric.better(scale.measure)),
                metric.meaning,
                metric.bias_of(scale.measure),
                metric.source,
                shown,
            )
        )
    return rows, _undefined(runs, estimates)


def _undefined(runs: Sequence[RunRecord], estimates: Estimates) -> list[Undefined]:
    reasons: dict[tuple[str, str], list[str]] = {}
    for run in runs:
        for name, estimate in estimates[run.label].items():
            if math.isnan(estimate.value):
                reasons.setdefault((run.label, estimate.why), []).append(name)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (label, why), names in reasons.items():
        together.setdefault((why, tuple(names)), []).append(label)
    return [
        Undefined(names, () if len(labels) == len(runs) else tuple(labels), why)
        for (why, names), labels in together.items()
    ]


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


@dataclass(frozen=True)
class FactTable:
    """A table with one column per run."""

    rows: tuple[tuple[str, tuple[str, ...]], ...]


def facts(runs: Sequence[RunRecord]) -> FactTable:
    """Where each run comes from: stream, policy, seeds, machine, durations."""
    rows: dict[str, list[str]] = {}
    for index, run in enumerate(runs):
        for name, text in _facts_of(run).items():
            rows.setdefault(name, [UNDEFINED] * len(runs))[index] = text
    return FactTable(tuple((name, tuple(texts)) for name, texts in rows.items()))


def _facts_of(run: RunRecord) -> dict[str, str]:
    """Name and text of every fact that ``run.json`` gives."""
    texts = {"folder": str(run.folder)}
    for key in ("name", "method", "stream", "arrangement", "family", "suite", "policy", "render_profile", "status"):
        if key in run.info:
            texts[key.replace("_", " ")] = str(run.info[key])
    if isinstance(run.info.get("parameters"), int):
        texts["parameters"] = short_number(run.info["parameters"])
    for group in ("seeds", "machine"):
        for key, value in _mapping(run.info.get(group)).items():
            texts[str(key).replace("_", " ")] = str(value)
    for key, value in _mapping(run.info.get("seconds")).items():
        texts[f"time, {key}"] = duration(value)
    return texts


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}


def versions(runs: Sequence[RunRecord]) -> FactTable:
    """Version of every package in every run."""
    names = dict.fromkeys(name for run in runs for name in _mapping(run.info.get("versions")))
    return FactTable(
        tuple(
            (name, tuple(str(_mapping(run.info.get("versions")).get(name, UNDEFINED)) for run in runs))
            for name in names
        )
    )
