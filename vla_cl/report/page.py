"""Puts the page together and writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vla_cl import __version__
from vla_cl.files import write_text
from vla_cl.metrics import HEADLINE_FORGETTING, Estimate
from vla_cl.report import compare, facts, tables
from vla_cl.report.between import pairs_of
from vla_cl.report.figures import write_figures
from vla_cl.report.groups import RunGroup, groups_of
from vla_cl.report.heat_maps import GroupMaps, group_maps
from vla_cl.report.lead import lead, run_text
from vla_cl.report.load import RunRecord, load_runs
from vla_cl.report.metric_tables import metric_tables, undefined
from vla_cl.report.numbers import task_name
from vla_cl.report.plots import legend, reference_groups, scores_over_learning, steps_are_known
from vla_cl.report.reference import Reference, estimates_of, reference_notes
from vla_cl.report.scale import Scale
from vla_cl.report.training_plots import borders_are_drawn, training_curves
from vla_cl.report.videos import video_sections
from vla_cl.trust.text import counted, harmless_lines, short
from vla_cl.types import ConfigurationError

TEMPLATES = Path(__file__).parent

LONGEST_TITLE = 70
"""Characters of a title that lists the methods; of more there is only their number."""

_OURS = b'<meta name="generator" content="vla-cl'


def write_report(
    runs: Sequence[Path], output: Path | None = None, *, measure: str | None = None, figures: Path | None = None
) -> Path:
    """Write one self-contained HTML file for one run or a comparison of several.

    The file holds its style, plots and videos, asks the network for nothing and runs no script. It appears whole or
    not at all. A run that is not finished is reported as far as it went. An earlier report is replaced; any other file
    is left alone.

    Args:
        runs: Run folders.
        output: The file to write; a folder stands for ``report.html`` inside it. By default ``report.html`` in the
            run's folder, or in the folder that holds all the runs.
        measure: Name of the measure that is shown in full; by default the one that the runs show.
        figures: A folder for the figures as SVG and the tables as CSV and LaTeX; by default they are not written.

    Returns:
        The file written.

    Raises:
        ConfigurationError: A folder is not a run, a file in it is damaged, the runs share no task or have no such
            measure, the output is a file that is no report, or it cannot be written.
    """
    target = _target([Path(run) for run in runs], output)
    _require_replaceable(target)
    records = load_runs(runs, measure)
    page = render(records)
    if figures is not None:
        scale = Scale.of(records)
        groups, _ = _measured_groups(records, scale)
        write_figures(figures, groups, compare.all_tasks(records), scale)
    _write_atomically(target, page)
    return target


def _measured_groups(
    runs: Sequence[RunRecord], scale: Scale
) -> tuple[list[RunGroup], dict[str, tuple[dict[str, Estimate], Reference]]]:
    """The groups, and each run's metrics with what they are measured against."""
    measured = {run.label: estimates_of(run, runs) for run in runs}
    return groups_of(runs, {label: found for label, (found, _) in measured.items()}, scale.measure), measured


def render(runs: Sequence[RunRecord]) -> str:
    """The HTML page.

    Raises:
        ConfigurationError: The runs share no task, or a file of a run is damaged.
    """
    tasks, scale = compare.all_tasks(runs), Scale.of(runs)
    groups, measured = _measured_groups(runs, scale)
    estimates = {label: found for label, (found, _) in measured.items()}
    runs = [run for group in groups for run in group.runs]  # grouped, like everything in the page
    pairs = pairs_of([group for group in groups if group.arrangement == "sequential"], scale.measure)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: harmless_lines(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=_title(groups),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        version=__version__,
        runs=runs,
        groups=groups,
        scale=scale,
        outline=facts.outline(runs, scale),
        lead=lead(groups, pairs, scale),
        warnings=compare.warnings(runs),
        missing=[sentence for run in runs for sentence in run.missing],
        crashes=tables.crash_notes(runs),
        comparison=tables.comparison(groups, scale),
        pairs=tables.pair_rows(pairs, scale),
        headline_forgetting=HEADLINE_FORGETTING,
        heat_maps=group_maps(groups, scale),
        further=_further_measures(groups),
        score_plots=scores_over_learning(groups, tasks, scale),
        legend=legend(groups),
        in_steps=steps_are_known(runs),
        dashed=bool(reference_groups(groups)),
        metric_tables=metric_tables(groups, scale),
        undefined=undefined(groups),
        reference_notes=reference_notes({label: chosen for label, (_, chosen) in measured.items()}, estimates),
        training_plots=training_curves(groups),
        bordered=borders_are_drawn(runs),
        rolled_out=any(run.matrix is not None for run in runs),
        references=any(run.arrangement != "sequential" or run.info["method"] == "sequential" for run in runs),
        video_sections=video_sections(runs),
        errors=tables.error_groups(runs),
        facts=facts.facts(runs),
        versions=facts.versions(runs),
        differences=compare.settings_differences([group.first for group in groups]),
        instructions=_instructions(runs),
    )


def _further_measures(groups: Sequence[RunGroup]) -> list[tuple[Scale, list[GroupMaps]]]:
    """The matrices of every measure that is not shown in full."""
    names = dict.fromkeys(other.measure.name for group in groups for run in group.runs for other in run.others)
    return [_further(name, groups) for name in names]


def _further(measure: str, groups: Sequence[RunGroup]) -> tuple[Scale, list[GroupMaps]]:
    having = [
        replace(group, runs=tuple(
            replace(run, matrix=other) for run in group.runs for other in run.others if other.measure.name == measure
        ))
        for group in groups
    ]  # fmt: skip
    having = [group for group in having if group.runs]
    scale = Scale.of([run for group in having for run in group.runs])
    return scale, group_maps(having, scale)


def _title(groups: Sequence[RunGroup]) -> str:
    run = groups[0].first
    stream = run_text(run, "stream")
    if len(groups) == 1:
        name, label = str(run.info["name"]), groups[0].label
        if len(groups[0].runs) > 1:
            return f"{label} on {stream}, {counted(len(groups[0].runs), 'seed')}"
        title = name if label in name else f"{name}: {label}"
        return title if stream in title else f"{title} on {stream}"
    labels = ", ".join(group.label for group in groups)
    return f"{labels if len(labels) <= LONGEST_TITLE else f'{len(groups)} methods'} on {stream}"


def _instructions(runs: Sequence[RunRecord]) -> dict[str, str]:
    """Task name to instruction."""
    entries = [entry for run in runs for entry in run.info.get("tasks") or () if isinstance(entry, dict)]
    return {
        task_name(str(entry["id"])): str(entry["instruction"])
        for entry in entries
        if "id" in entry and "instruction" in entry
    }


def _target(runs: Sequence[Path], output: Path | None) -> Path:
    """The file to write."""
    if output is None:
        folders = [str(run.resolve()) for run in runs]
        folder = Path(os.path.commonpath(folders)) if folders else Path()
        return folder / "report.html"
    if output.is_dir():
        return output / "report.html"
    if output.suffix.lower() not in {".html", ".htm"}:
        raise ConfigurationError(
            f"expected an output file that ends in .html, got {output}; give for example report.html"
        )
    return output


def _require_replaceable(target: Path) -> None:
    """An earlier report may be replaced, nothing else."""
    if not target.is_file():
        return
    with target.open("rb") as file:
        if _OURS not in file.read(4096):
            raise ConfigurationError(
                f"{short(target)} is no report of vla-cl, so it is not replaced; give another file as --output"
            )


def _write_atomically(target: Path, text: str) -> None:
    """Write beside the target, then rename, so that no reader ever sees half a page."""
    try:
        write_text(target, text)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the report to {short(target)} ({error.strerror or error}); give another place as output"
        ) from error
