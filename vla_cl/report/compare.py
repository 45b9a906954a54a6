"""Whether runs can be compared, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from vla_cl.report.facts import FactTable
from vla_cl.report.labels import method_label
from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import UNDEFINED, task_name
from vla_cl.report.run_settings import flat_settings, is_compared
from vla_cl.trust.text import harmless, short
from vla_cl.types import ConfigurationError

SAME = {
    "suite": "suites",
    "render_profile": "render profiles",
    "policy": "policies",
    "stream": "streams",
}
"""Keys of ``run.json`` that should agree for a fair comparison, with their plural."""

_IN_QUESTION = ("method", "arrangement")
"""Settings that a report compares on purpose."""

_SAID_ELSEWHERE = (*SAME, "suite.name", "policy.type", "stream.name", "evaluation.seed", "eval_seed")
"""Settings of which another sentence speaks."""

MOST_SETTINGS = 5
"""So many differing settings are said at the top; the others stand in the table of settings."""


def all_tasks(runs: Sequence[RunRecord]) -> list[str]:
    """Every task of every run once, in the order of the first run that has it.

    Raises:
        ConfigurationError: Two runs share no task, so there is nothing to compare.
    """
    for run in runs[1:]:
        if not set(run.tasks) & set(runs[0].tasks):
            raise ConfigurationError(
                f"expected runs over the same tasks, but {short(runs[0].folder, 90)} ({_names(runs[0].tasks)}) and "
                f"{short(run.folder, 90)} "
                f"({_names(run.tasks)}) share none; write one report for each"
            )
    return list(dict.fromkeys(task for run in runs for task in run.tasks))


def _names(tasks: Sequence[str]) -> str:
    shown = [task_name(task) for task in tasks[:3]]
    return ", ".join(shown + ["…"] * (len(tasks) > 3))


def warnings(runs: Sequence[RunRecord]) -> list[str]:
    """A sentence for everything that makes the runs hard to compare."""
    found = []
    if any(set(run.tasks) != set(runs[0].tasks) for run in runs):
        found.append(
            "The runs do not have the same tasks: averages over tasks cannot be compared, only single tasks can."
        )
    orders = {run.tasks for run in runs if run.arrangement == "sequential"}
    if len(orders) > 1 and len({frozenset(order) for order in orders}) == 1:
        found.append("The runs learnt the tasks in different orders.")
    for key, plural in SAME.items():
        values = {harmless(str(run.info.get(key, "unknown"))) for run in runs}
        if len(values) > 1:
            found.append(f"The runs have different {plural}: {', '.join(sorted(values))}.")
    formats = sorted({str(run.info["format"]) for run in runs})
    if len(formats) > 1:
        found.append(
            f"The runs were written by different versions of vla-cl (run formats {' and '.join(formats)}), which may "
            "train otherwise: they are not taken for seeds of one method, nor for references of each other."
        )
    seeds = {
        str(run.info.get("seeds", {}).get("eval_seed", "unknown"))
        for run in runs
        if isinstance(run.info.get("seeds", {}), Mapping)
    }
    if len(seeds) > 1:
        found.append("The runs were evaluated with different evaluation seeds, so not on the same initial states.")
    return [*found, *_besides_the_method(runs), *_different_versions(runs)]


def _besides_the_method(runs: Sequence[RunRecord]) -> list[str]:
    """A sentence if settings differ that are no part of the method: another budget, another batch, other images."""
    told = [(run, settings) for run in runs if (settings := flat_settings(run))]
    keys = dict.fromkeys(key for _, settings in told for key in settings if is_compared(key, _IN_QUESTION))
    keys = {key: None for key in keys if key not in _SAID_ELSEWHERE}
    parts = []
    for key in keys:
        having: dict[str, list[str]] = {}
        for run, settings in told:
            having.setdefault(settings.get(key, UNDEFINED), []).append(method_label(run.info))
        if len(having) > 1:
            values = (f"{harmless(value, 40)} ({_few(labels)})" for value, labels in having.items())
            parts.append(f"{harmless(key, 60)}: {', '.join(values)}")
    if not parts:
        return []
    more = f"; and {len(parts) - MOST_SETTINGS} more, listed under the settings" if len(parts) > MOST_SETTINGS else ""
    return [f"The runs differ in more than the method. {'; '.join(parts[:MOST_SETTINGS])}{more}."]


def _few(labels: Sequence[str]) -> str:
    """``er, ewc``; of many the first three."""
    names = list(dict.fromkeys(labels))
    return ", ".join(names[:3] + ["…"] * (len(names) > 3))


def _different_versions(runs: Sequence[RunRecord]) -> list[str]:
    """A sentence if the runs were made with different versions of a library."""
    told = [versions for run in runs if isinstance(versions := run.info.get("versions"), Mapping)]
    parts = []
    for name in dict.fromkeys(name for versions in told for name in versions):
        values = sorted({harmless(str(versions[name]), 40) for versions in told if name in versions})
        if len(values) > 1:
            parts.append(f"{harmless(str(name), 40)} {' and '.join(values)}")
    more = f", and {len(parts) - MOST_SETTINGS} more" if len(parts) > MOST_SETTINGS else ""
    return [f"The runs were made with different versions: {', '.join(parts[:MOST_SETTINGS])}{more}."] if parts else []


def settings_differences(runs: Sequence[RunRecord]) -> FactTable:
    """Every setting of ``config.yaml`` that is not the same in all groups; empty for one group.

    Args:
        runs: One of each group; they say nothing of settings that may differ between the seeds of one method.

    Raises:
        ConfigurationError: A ``config.yaml`` is not valid YAML.
    """
    flat = [flat_settings(run) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings if is_compared(key))
    rows = ((key, tuple(settings.get(key, UNDEFINED) for settings in flat)) for key in keys)
    return FactTable(tuple((key, values) for key, values in rows if len(set(values)) > 1))
