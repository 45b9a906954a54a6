"""``vla-cl compare``: runs that differ in nothing but the training seed are one line; a line per method."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vla_cl.metrics import HEADLINE, METRICS, Estimate
from vla_cl.metrics.matrix import rollouts_skipped
from vla_cl.metrics.seeds import over_seeds
from vla_cl.metrics.text import plain
from vla_cl.report.compare import warnings
from vla_cl.report.groups import ENOUGH, group_labels, identity
from vla_cl.report.load import RunRecord, load_runs
from vla_cl.report.numbers import decimal, decimal_range, memory_size
from vla_cl.report.reference import AGAINST_REFERENCE, Reference, estimates_of, reference_notes
from vla_cl.report.run_settings import flat_settings
from vla_cl.report.scale import Scale
from vla_cl.scores import SUCCESS
from vla_cl.trust import markdown
from vla_cl.trust.reading import require_entries
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

SHOWN = HEADLINE
"""Metrics that are shown unless others are asked for."""


@dataclass(frozen=True)
class SeedGroup:
    """Runs of one method with different training seeds.

    Attributes:
        label: Method or reference; where others have that name, with the settings in which they differ, or a number.
        settings: Those settings; empty where the name alone tells it apart.
        seeds: Training seeds, ascending.
        metrics: Metric name to estimate over the seeds.
        kept: Bytes kept of the past, at most.
        run_format: Of their ``run.json``.
        references: Folders of the independent runs that `AGAINST_REFERENCE` is measured against.
    """

    label: str
    settings: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Estimate]
    kept: int
    run_format: int
    references: tuple[str, ...]


Measured = Mapping[str, tuple[Mapping[str, Estimate], Reference]]
"""Run label to its metrics, and the reference that they are measured against."""


def compare(
    folders: Sequence[Path], metrics: Sequence[str] = SHOWN, style: str = "text", measure: str | None = None
) -> str:
    """A table of methods over seeds, the best first.

    Args:
        folders: Finished runs.
        metrics: Names of metrics; the first one sorts.
        style: ``text``, ``markdown`` or ``json``.
        measure: Name of the measure; by default the one that the runs show.

    Raises:
        ConfigurationError: A run is not finished or has lost its settings, a seed comes twice, the runs learnt
            different tasks, or a metric does not exist.
    """
    known = {metric.name: metric for metric in METRICS}
    if unknown := [name for name in metrics if name not in known]:
        raise ConfigurationError(f"there is no metric {unknown[0]!r}; there are {', '.join(known)}")
    runs = load_runs(folders, measure)
    _require_comparable(runs)
    measured = {run.label: estimates_of(run, runs) for run in runs}
    groups = _groups(runs, measured, metrics)
    better = {name: known[name].better(Scale.of(runs).measure) for name in metrics}
    sign = 1 if better[metrics[0]] == "lower" else -1
    groups.sort(key=lambda group: _order(sign * group.metrics[metrics[0]].value))
    if style == "json":
        return json.dumps([_plain(group) for group in groups], indent=1, allow_nan=False)
    rows = [_cells(group, metrics) for group in groups]
    head = (
        "method",
        "seeds",
        *(f"{name} {'↓' if better[name] == 'lower' else '↑'}" for name in metrics),
        "kept",
    )
    table = _markdown(head, rows) if style == "markdown" else _text(head, rows)
    note = Scale.of(runs).measure.note
    notes = [
        *([note] if note else []),
        *_settings(groups),
        *warnings(runs),
        *_few_seeds(groups),
        *_undefined(groups, metrics),
    ]
    if AGAINST_REFERENCE in metrics:
        notes += reference_notes(
            {label: reference for label, (_, reference) in measured.items()},
            {label: found for label, (found, _) in measured.items()},
        )
    return "\n".join([table, *(f"note: {note}" for note in notes)])


def _settings(groups: Sequence[SeedGroup]) -> list[str]:
    """What a number behind a method stands for."""
    return [f"{group.label}: {group.settings}." for group in groups if group.settings not in group.label]


def _few_seeds(groups: Sequence[SeedGroup]) -> list[str]:
    """What one or two seeds leave open."""
    few = [group for group in groups if len(group.seeds) < ENOUGH]
    if not few:
        return []
    labels = ", ".join(group.label for group in few[:4]) + f" and {len(few) - 4} more" * (len(few) > 4)
    return [
        f"Fewer than {ENOUGH} training seeds of {labels}: how another seed would end is not known, and the interval of "
        f"one seed covers only its evaluation; use {ENOUGH} or more."
    ]


def _undefined(groups: Sequence[SeedGroup], metrics: Sequence[str]) -> list[str]:
    """A sentence for each reason why metrics are not defined."""
    about: dict[tuple[str, str], list[str]] = {}
    for group in groups:
        for name in metrics:
            if math.isnan(group.metrics[name].value):
                about.setdefault((group.label, group.metrics[name].why), []).append(name)
    return [f"{', '.join(names)} of {label}: not defined, {why}." for (label, why), names in about.items()]


def _require_comparable(runs: Sequence[RunRecord]) -> None:
    for run in runs:
        if run.matrix is None and (why := rollouts_skipped(run.folder)) is not None:
            raise ConfigurationError(f"{run.folder} cannot be compared: {why}")
        if not run.finished or run.matrix is None:
            raise ConfigurationError(
                f"{short(run.folder)} is not finished; continue it with the command that began it, or leave it out"
            )
        if not flat_settings(run):
            raise ConfigurationError(
                f"{short(run.folder)} has no settings in its config.yaml, which say whose seed it is; restore the "
                "file, or leave the run out"
            )
        if set(run.tasks) != set(runs[0].tasks):
            raise ConfigurationError(
                f"expected runs over the same tasks, but {short(runs[0].folder, 90)} has {_few(runs[0].tasks)} and "
                f"{short(run.folder)} has {_few(run.tasks)}; compare them apart"
            )


def _few(tasks: Sequence[str]) -> str:
    return harmless(", ".join(tasks), 40)


def _groups(runs: Sequence[RunRecord], measured: Measured, metrics: Sequence[str]) -> list[SeedGroup]:
    together: dict[str, list[RunRecord]] = {}
    for run in runs:
        together.setdefault(json.dumps(identity(run), sort_keys=True), []).append(run)
    labels = group_labels([members[0] for members in together.values()])
    return [
        _group(label, told, members, measured, metrics)
        for (label, told), members in zip(labels, together.values(), strict=True)
    ]


def _group(
    label: str, told: str, members: Sequence[RunRecord], measured: Measured, metrics: Sequence[str]
) -> SeedGroup:
    """One line."""
    by_seed: dict[int, RunRecord] = {}
    for run in members:
        what = f"seeds in {short(run.folder / 'run.json')}"
        seed = int(require_entries(run.info.get("seeds"), {"train_seed": int}, what, "restore it")["train_seed"])
        if seed in by_seed:
            raise ConfigurationError(
                f"{short(by_seed[seed].folder, 90)} and {short(run.folder, 90)} are one run with the same "
                f"train_seed={seed}; leave one out"
            )
        by_seed[seed] = run
    results = [measured[run.label][0] for run in by_seed.values()]
    references = [measured[run.label][1].run for run in by_seed.values()]
    measure = next((run.matrix.measure for run in members if run.matrix is not None), SUCCESS)
    bounds = {metric.name: metric.bounds(measure) for metric in METRICS}
    return SeedGroup(
        label,
        told,
        tuple(sorted(by_seed)),
        {name: over_seeds([result[name] for result in results], *bounds[name]) for name in metrics},
        max(int(run.info.get("memory_bytes", 0)) for run in members),
        int(members[0].info["format"]),
        tuple(dict.fromkeys(str(run.folder) for run in references if run is not None)),
    )


def _order(value: float) -> float:
    return math.inf if math.isnan(value) else value


def _cells(group: SeedGroup, metrics: Sequence[str]) -> tuple[str, ...]:
    estimates = [group.metrics[name] for name in metrics]
    shown = (f"{decimal(found.value)} {decimal_range(found)}".strip() for found in estimates)
    return group.label, str(len(group.seeds)), *shown, memory_size(group.kept).replace("\u00a0", " ")


def _text(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in (head, *rows)
    )


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    named = [(markdown.code(row[0]), *row[1:]) for row in rows]
    return "\n".join(map(markdown.row, (head, ["---"] * len(head), *named)))


def _plain(group: SeedGroup) -> dict[str, Any]:
    return {
        "label": group.label,
        "settings": group.settings,
        "seeds": list(group.seeds),
        "memory_bytes": group.kept,
        "format": group.run_format,
        "references": list(group.references),
        "metrics": {name: plain(found) for name, found in group.metrics.items()},
    }
