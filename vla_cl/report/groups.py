"""Which runs are seeds of one method, and what such a group is called."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vla_cl.metrics import METRICS, Estimate
from vla_cl.metrics.seeds import over_seeds
from vla_cl.report.labels import method_label
from vla_cl.report.load import RunRecord
from vla_cl.report.run_settings import flat_settings, is_compared
from vla_cl.scores import Measure
from vla_cl.trust.text import harmless

ENOUGH = 3
"""Fewer seeds than these say too little of another one."""

_LONGEST = 48
"""Characters of a label with settings; a longer one becomes a number."""


@dataclass(frozen=True)
class RunGroup:
    """Runs that differ in nothing but the training seed.

    Attributes:
        index: Its place in the report, which gives its colour.
        label: Method or reference, with what tells it from others of that name.
        runs: By seed, ascending.
        of_runs: The metrics of each run; empty while nothing is evaluated.
        estimates: Metric name to estimate over the seeds; empty while not all runs are evaluated.
    """

    index: int
    label: str
    runs: tuple[RunRecord, ...]
    of_runs: tuple[Mapping[str, Estimate], ...]
    estimates: Mapping[str, Estimate]

    @property
    def first(self) -> RunRecord:
        """The run that speaks for what all have in common."""
        return self.runs[0]

    @property
    def arrangement(self) -> str:
        """``sequential``, ``joint`` or ``independent``."""
        return self.first.arrangement

    @property
    def finished(self) -> bool:
        """Whether all came to their end."""
        return all(run.finished for run in self.runs)

    @property
    def evaluated(self) -> tuple[RunRecord, ...]:
        """Those that have a matrix."""
        return tuple(run for run in self.runs if run.matrix is not None)

    def values(self, metric: str) -> list[float]:
        """What each run has of a metric."""
        return [found[metric].value for found in self.of_runs if metric in found]


def groups_of(
    runs: Sequence[RunRecord], measured: Mapping[str, Mapping[str, Estimate]], measure: Measure
) -> list[RunGroup]:
    """The groups of a report: those that learn one task after another first, then references; the best end first.

    Args:
        runs: All runs.
        measured: Run label to its metrics.
        measure: What the metrics are of.
    """
    together: dict[str, list[RunRecord]] = {}
    for run in runs:
        own = json.dumps(identity(run), sort_keys=True) if flat_settings(run) else str(run.folder)
        seed, key = run.train_seed, own
        while any(other.train_seed == seed for other in together.get(key, ())):
            key += "+"  # the same seed again is no further seed of the group
        together.setdefault(key, []).append(run)
    members = [sorted(group, key=lambda run: run.train_seed or 0) for group in together.values()]
    labels = _names([group[0] for group in members])
    found = [_group(label, group, measured, measure) for label, group in zip(labels, members, strict=True)]
    found.sort(key=lambda group: _order(group, measure))
    return [
        RunGroup(index, group.label, group.runs, group.of_runs, group.estimates) for index, group in enumerate(found)
    ]


def _group(
    label: str, runs: Sequence[RunRecord], measured: Mapping[str, Mapping[str, Estimate]], measure: Measure
) -> RunGroup:
    results = tuple(measured[run.label] for run in runs)
    known = {metric.name: metric.bounds(measure) for metric in METRICS} if all(results) else {}
    pooled = {name: over_seeds([result[name] for result in results], *bounds) for name, bounds in known.items()}
    return RunGroup(0, label, tuple(runs), results, pooled)


def _order(group: RunGroup, measure: Measure) -> tuple[bool, bool, float, str]:
    metric = "learning_accuracy" if group.arrangement == "independent" else "final_average"
    end = group.estimates.get(metric)
    unknown = end is None or end.value != end.value  # NaN
    value = 0.0 if end is None or unknown else -measure.sign * end.value
    return group.arrangement != "sequential", unknown, value, group.label


def identity(run: RunRecord) -> dict[str, str]:
    """The settings that tell runs of one method apart."""
    settings = {key: value for key, value in flat_settings(run).items() if is_compared(key)}
    return settings | {
        "method": str(run.info["method"]),
        "arrangement": run.arrangement,
        "format": str(run.info["format"]),  # another version of vla-cl may train otherwise
    }


def _names(first: Sequence[RunRecord]) -> list[str]:
    """A label for each group of a report: with settings where they tell it apart, else with the name of a run."""
    labels = [label for label, _ in group_labels(first)]
    names = [
        label if labels.count(label) == 1 and "#" not in label else run.label
        for label, run in zip(labels, first, strict=True)
    ]
    return names if len(set(names)) == len(names) else [run.label for run in first]


def group_labels(first: Sequence[RunRecord]) -> list[tuple[str, str]]:
    """Method or reference, and the settings that tell it from other groups of that name; one run for each group.

    Returns:
        The label, with the settings as long as they are short, else with a number; and all those settings, if any.
    """
    names = [method_label(run.info) for run in first]
    settings = [identity(run) for run in first]
    labels: list[tuple[str, str]] = []
    numbers: dict[str, int] = {}
    for name, own in zip(names, settings, strict=True):
        alike = [other for other_name, other in zip(names, settings, strict=True) if other_name == name]
        keys = sorted({key for other in alike for key in other})
        differing = [key for key in keys if len({other.get(key, "-") for other in alike}) > 1]
        told = " ".join(f"{key}={own.get(key, '-')}" for key in differing)
        numbers[name] = numbers.get(name, 0) + 1
        short = harmless(f"{name} {told}".strip(), 10_000)
        label = short if len(short) <= _LONGEST or not told else f"{harmless(name, _LONGEST)} #{numbers[name]}"
        labels.append((label, harmless(told, 2_000)))
    return labels
