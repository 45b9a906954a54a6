"""Puts the page together and writes it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from vla_cl import __version__
from vla_cl.files import write_text
from vla_cl.metrics import HEADLINE_FORGETTING
from vla_cl.report import compare, tables
from vla_cl.report.headline import headline, run_text
from vla_cl.report.load import RunRecord, load_runs
from vla_cl.report.numbers import task_name
from vla_cl.report.plots import (
    borders_are_drawn,
    legend,
    reference_runs,
    scores_over_learning,
    steps_are_known,
    training_curves,
)
from vla_cl.report.reference import estimates_of, reference_notes
from vla_cl.report.scale import Scale
from vla_cl.report.videos import video_sections
from vla_cl.trust.text import harmless_lines, short
from vla_cl.types import ConfigurationError

TEMPLATES = Path(__file__).parent


def write_report(runs: Sequence[Path], output: Path | None = None) -> Path:
    """Write one self-contained HTML file for one run or a comparison of several.

    The file holds its style, plots and videos, asks the network for nothing and runs no script. It appears whole or
    not at all. A run that is not finished is reported as far as it went.

    Args:
        runs: Run folders, in the order in which they shall appear.
        output: The file to write; a folder stands for ``report.html`` inside it. By default ``report.html`` in the
            run's folder, or in the folder that holds all the runs.

    Returns:
        The file written.

    Raises:
        ConfigurationError: A folder is not a run, a file in it is damaged, the runs share no task, or the output cannot
            be written.
    """
    target = _target([Path(run) for run in runs], output)
    page = render(load_runs(runs))
    _write_atomically(target, page)
    return target


def render(runs: Sequence[RunRecord]) -> str:
    """The HTML page.

    Raises:
        ConfigurationError: The runs share no task, or a file of a run is damaged.
    """
    tasks, scale = compare.all_tasks(runs), Scale.of(runs)
    measured = {run.label: estimates_of(run, runs) for run in runs}
    estimates = {label: found for label, (found, _) in measured.items()}
    metrics, undefined = tables.metric_rows(runs, estimates, scale)
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        finalize=lambda value: harmless_lines(value) if type(value) is str else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html").render(
        title=_title(runs),
        style=Markup((TEMPLATES / "style.css").read_text(encoding="utf-8")),
        version=__version__,
        runs=runs,
        scale=scale,
        headline=headline(runs, estimates, scale),
        warnings=compare.warnings(runs),
        missing=[sentence for run in runs for sentence in run.missing],
        crashes=tables.crash_notes(runs),
        comparison=tables.comparison(runs, estimates, scale),
        headline_forgetting=HEADLINE_FORGETTING,
        heat_maps=tables.heat_maps(runs, scale),
        score_plots=scores_over_learning(runs, tasks, scale),
        legend=legend(runs),
        in_steps=steps_are_known(runs),
        dashed=bool(reference_runs(runs)),
        metrics=metrics,
        undefined=undefined,
        reference_notes=reference_notes({label: chosen for label, (_, chosen) in measured.items()}, estimates),
        training_plots=training_curves(runs),
        bordered=borders_are_drawn(runs),
        rolled_out=any(run.matrix is not None for run in runs),
        references=any(run.arrangement != "sequential" or run.info["method"] == "sequential" for run in runs),
        video_sections=video_sections(runs),
        errors=tables.error_groups(runs),
        facts=tables.facts(runs),
        versions=tables.versions(runs),
        differences=compare.settings_differences(runs),
        instructions=_instructions(runs),
    )


def _title(runs: Sequence[RunRecord]) -> str:
    if len(runs) == 1:
        name, method = str(runs[0].info["name"]), runs[0].label
        title = name if method in name else f"{name}: {method}"
        return title if (stream := run_text(runs[0], "stream")) in title else f"{title} on {stream}"
    labels = ", ".join(run.label for run in runs)
    return f"{labels} on {run_text(runs[0], 'stream')}"


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


def _write_atomically(target: Path, text: str) -> None:
    """Write beside the target, then rename, so that no reader ever sees half a page."""
    try:
        write_text(target, text)
    except OSError as error:
        raise ConfigurationError(
            f"cannot write the report to {short(target)} ({error.strerror or error}); give another place as output"
        ) from error
