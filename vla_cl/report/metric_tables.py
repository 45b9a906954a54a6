"""The metrics of the report: five in a table that everyone reads, the rest in tables that can be opened."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from markupsafe import Markup

from vla_cl.metrics import HEADLINE_FORGETTING, METRICS, Estimate, Metric
from vla_cl.report.groups import RunGroup
from vla_cl.report.numbers import decimal, decimal_range
from vla_cl.report.scale import Scale
from vla_cl.report.svg import legend_swatch

COLUMNS = 5
"""Metrics of one table: so many fit a window of 1,000 pixels, however many methods there are."""

_FIRST = (
    *("final_average", HEADLINE_FORGETTING, "learning_accuracy", "average_incremental"),
    *("cw_forward_transfer", "gem_fwt", "libero_nbt", "libero_auc"),
)
"""The metrics that are shown first, as far as they are defined and `COLUMNS` has room."""

UNKNOWN = Estimate(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class MetricColumn:
    """One metric.

    Attributes:
        name: Includes the convention.
        better: ``higher`` or ``lower``.
        meaning: One line.
        same_as: The first metric that gives the same numbers here; empty for none.
        bias: Which way the value is off on average, and why; empty for none.
        source: Paper or code.
    """

    name: str
    better: str
    meaning: str
    same_as: str
    bias: str
    source: str


@dataclass(frozen=True)
class MetricTable:
    """Metrics as columns, groups as rows: swatch, label, and value and interval of each metric."""

    columns: tuple[MetricColumn, ...]
    rows: tuple[tuple[Markup, str, tuple[tuple[str, str], ...]], ...]


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


def metric_tables(groups: Sequence[RunGroup], scale: Scale) -> list[MetricTable]:
    """All metrics that are defined for at least one group; the first table has those that matter most."""
    defined = [metric for metric in METRICS if any(_known(group, metric.name) for group in groups)]
    order = sorted(defined, key=lambda metric: _FIRST.index(metric.name) if metric.name in _FIRST else len(_FIRST))
    first = order[:COLUMNS]
    rest = [metric for metric in defined if metric not in first]
    chosen = [first, *(rest[start : start + COLUMNS] for start in range(0, len(rest), COLUMNS))]
    return [_table(metrics, order, groups, scale) for metrics in chosen if metrics]


def _known(group: RunGroup, name: str) -> bool:
    return not math.isnan(group.estimates.get(name, UNKNOWN).value)


def _table(metrics: Sequence[Metric], order: Sequence[Metric], groups: Sequence[RunGroup], scale: Scale) -> MetricTable:
    columns = tuple(
        MetricColumn(
            metric.name,
            str(metric.better(scale.measure)),
            metric.meaning,
            _same_as(metric, order, groups),
            metric.bias_of(scale.measure),
            metric.source,
        )
        for metric in metrics
    )
    rows = tuple(
        (legend_swatch(group.index), group.label, tuple(_value(group, metric) for metric in metrics))
        for group in groups
    )
    return MetricTable(columns, rows)


def _value(group: RunGroup, metric: Metric) -> tuple[str, str]:
    estimate = group.estimates.get(metric.name, UNKNOWN)
    return decimal(estimate.value), decimal_range(estimate)


def _same_as(metric: Metric, order: Sequence[Metric], groups: Sequence[RunGroup]) -> str:
    """An earlier metric with the same numbers in every group."""
    own = [_value(group, metric) for group in groups]
    for other in order[: list(order).index(metric)]:
        if [_value(group, other) for group in groups] == own:
            return other.name
    return ""


def undefined(groups: Sequence[RunGroup]) -> list[Undefined]:
    """Why which metrics are not defined for which groups, or for which of their runs."""
    reasons: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for label, estimates in _by_reason(group):
            for name, estimate in estimates.items():
                if math.isnan(estimate.value):
                    reasons.setdefault((label, estimate.why), []).append(name)
    together: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for (label, why), names in reasons.items():
        together.setdefault((why, tuple(names)), []).append(label)
    everywhere = {label for group in groups for label, _ in _by_reason(group)}
    return [
        Undefined(names, () if len(labels) == len(everywhere) else tuple(labels), why)
        for (why, names), labels in together.items()
    ]


def _by_reason(group: RunGroup) -> list[tuple[str, Mapping[str, Estimate]]]:
    """The group as one where its runs lack the same for the same reasons, else its runs."""
    gaps = [{name: found.why for name, found in run.items() if math.isnan(found.value)} for run in group.of_runs]
    if all(gap == gaps[0] for gap in gaps):
        return [(group.label, group.of_runs[0])]
    return [(run.label, found) for run, found in zip(group.runs, group.of_runs, strict=True)]
