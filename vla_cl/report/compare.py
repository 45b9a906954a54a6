"""Whether runs can be compared, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from vla_cl.report.load import RunRecord
from vla_cl.report.numbers import UNDEFINED, task_name
from vla_cl.report.tables import FactTable
from vla_cl.settings.speed import WHERE_AND_HOW_FAST, is_among
from vla_cl.trust.text import harmless, short
from vla_cl.trust.yaml_files import parse_yaml
from vla_cl.types import ConfigurationError

SAME = {
    "suite": "suites",
    "render_profile": "render profiles",
    "policy": "policies",
    "stream": "streams",
}
"""Keys of ``run.json`` that should agree for a fair comparison, with their plural."""

_NOT_COMPARED = ("train_seed", "evaluation.videos", *WHERE_AND_HOW_FAST)
"""Settings that may differ between the seeds of one method: the seed, where things lie, and what computes."""


def is_compared(setting: str, besides: Sequence[str] = ()) -> bool:
    """Whether runs with another value of a setting, by its dotted name, are runs of something else.

    Args:
        setting: Its name.
        besides: Further settings, or groups of them, that may differ.
    """
    return not is_among(setting, (*_NOT_COMPARED, *besides))


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
    return found


def settings_differences(runs: Sequence[RunRecord]) -> FactTable:
    """Every setting of ``config.yaml`` that is not the same in all runs; empty for one run.

    Raises:
        ConfigurationError: A ``config.yaml`` is not valid YAML.
    """
    flat = [flat_settings(run) for run in runs]
    keys = dict.fromkeys(key for settings in flat for key in settings)
    rows = ((key, tuple(settings.get(key, UNDEFINED) for settings in flat)) for key in keys)
    return FactTable(tuple((key, values) for key, values in rows if len(set(values)) > 1))


def flat_settings(run: RunRecord) -> dict[str, str]:
    """The settings of a run by dotted name; none without a ``config.yaml``.

    Raises:
        ConfigurationError: Its ``config.yaml`` is not valid YAML.
    """
    return dict(_flatten(_parse(run), ""))


def _parse(run: RunRecord) -> object:
    if not run.config:
        return None
    return parse_yaml(run.config, short(run.folder / "config.yaml"), "restore it or move it away")


def _flatten(value: object, prefix: str) -> Iterator[tuple[str, str]]:
    """``{"train": {"steps": 5}}`` gives ``("train.steps", "5")``."""
    if not isinstance(value, Mapping):
        if prefix:
            yield harmless(prefix), harmless(str(value), 10_000)
        return
    for key, inner in value.items():
        yield from _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
